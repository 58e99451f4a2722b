"""`generate_lens()`: at which layer each token was decided, while the model writes."""

from __future__ import annotations

import contextlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from tqdm import tqdm
from transformers import GenerationConfig

from lens_recipes.models.handle import (
    context_length,
    envoy_path,
    exclusive,
    refuse_training,
    resolve_remote,
    text_config,
    tokenizer_of,
)
from lens_recipes.models.structure.anatomy import Anatomy, anatomy, head_operations_for, plain_head
from lens_recipes.recipes.generation.sampling import GenerationSettings, generation_settings
from lens_recipes.recipes.generation.transcript import (
    Arrays,
    GeneratedBatch,
    GenerationAssembler,
    trim_finished_rows,
)
from lens_recipes.results import LensResult
from lens_recipes.run.batches import MAX_TOKENS, group_prompts, left_padded, may_pad, rope_bounds
from lens_recipes.run.prompts import (
    MAX_TRACKED,
    as_list,
    check_ids,
    check_numbers,
    encode,
    target_ids,
)
from lens_recipes.run.provenance import provenance
from lens_recipes.run.recipe import recipe
from lens_recipes.run.run import RecipeRun
from lens_recipes.run.schema import generation_schema
from lens_recipes.run.sites import component_names, sites_and_reads
from lens_recipes.trace.buffers import trim_buffers
from lens_recipes.trace.generation.recorder import GenerationRecorder, read_step, recorder_of
from lens_recipes.trace.generation.server import generate_on_server

MAX_BYTES = 256 * 2**20  # bound on the memory for the logits of one step

MAX_CACHED = 8 * MAX_TOKENS  # tokens of a batch in the cache, those to come included


@recipe(
    narrow="Narrow max_new_tokens, layers, components, top_k or track, pass fewer prompts at once"
)
def generate_lens(
    model: Envoy,
    prompts: Any,
    *,
    max_new_tokens: int,
    generation_config: Any = None,
    temperature: float | None = None,
    top_p: float | None = None,
    sample_top_k: int | None = None,
    do_sample: bool | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    layers: int | slice | Sequence[int] | None = None,
    components: str | Sequence[str] = "resid_post",
    targets: Any = None,
    track: str | int | None = "top1",
    top_k: int = 5,
    include_prompt: bool = False,
    on_step: Callable[[LensResult], Any] | None = None,
    remote: bool | str | None = None,
) -> RecipeRun[LensResult]:
    """Let the model write, and read the lens at every step: one cached forward and one product of all its rows.

    The text is that of Hugging Face's `generate` with the same settings, for one prompt also where it is sampled
    (several prompts share one sampler). A setting that is not given comes from `generation_config`, else from the
    checkpoint's own, else from Hugging Face's defaults; `provenance["generation"]` says what was used. Where a model
    changes its position encoding beyond a length (longrope), the cache keeps what was before: there, the lens at a step
    is not that of the whole text read anew.

    Args:
        model: What `load()` returns.
        prompts: As for `logit_lens`: strings, ids or chats, one or several; several are run as a batch, and greedily
            each gives what it gives alone.
        max_new_tokens: At most so many tokens per prompt.
        generation_config: A transformers `GenerationConfig`, or a dict of its settings.
        temperature, top_p, sample_top_k: The sampler's. One of them alone asks for sampling.
        do_sample: False for greedy decoding.
        seed: For the sampler; torch's own generator is then left as it was. With several batches, each has its own.
        stop: Strings that end the text; they are part of it.
        layers, components, targets, track, top_k: As for `logit_lens`.
        include_prompt: Also read all tokens of the prompt, in the same run.
        on_step: Called after each step with the result of that one token, for each prompt that is still running, its
            number in `provenance["prompt"]` (on a server after all has arrived, and not by `Job.load`). It may not run
            a recipe on this model, and random numbers that it draws from torch's generator are missing in the
            sampler's.
        remote: As for `logit_lens`.

    Returns:
        A `LensResult`. On its token axis are the tokens *after which* the model wrote: `tokens.next_id` is what it
        wrote there, `tokens.generated` that it did, `tokens.next_logprob` what its own distribution gave that token,
        `tokens.sampler_logprob` what the sampler gave it. `responses` holds text and reason of the end of each prompt,
        `timings` where the time went. Ctrl-C keeps what there is (here, not on a server): such a result has the finish
        "interrupted", and lacks the prompts that had not begun (`provenance["not_begun"]`).

    Raises:
        ValueError: settings that contradict each other, or arguments that fit neither model nor prompts.
        LensError: a model that cannot generate or be read, or a lens that is not the model's own output.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8, do_sample=False)
        >>> print(result.responses[0].text, settled_layers(result))
    """
    started = time.perf_counter()
    layers, targets, stop = map(as_list, (layers, targets, stop))
    components = component_names(components)
    where = resolve_remote(model, remote)
    refuse_training(model, where)
    with exclusive(model):
        parts, tokenizer = anatomy(model), tokenizer_of(model)
        check_numbers(top_k, track, MAX_BYTES, parts.vocab_size)
        chosen = generation_settings(
            model, max_new_tokens, generation_config=generation_config, temperature=temperature, top_p=top_p,
            sample_top_k=sample_top_k, do_sample=do_sample, seed=seed, stop=stop,
        )  # fmt: skip
        since = time.perf_counter()
        encoded = encode(prompts, tokenizer)
        tokenise_s = time.perf_counter() - since
        check_ids(encoded, parts.vocab_size, context_length(model))
        _check_room(encoded, max_new_tokens, context_length(model))
        sites, reads = sites_and_reads(model, parts, layers, components)
        wanted = target_ids(targets, len(encoded), tokenizer, parts.vocab_size)
        batches = list(_batches(model, parts, chosen, encoded, include_prompt, where))
    arguments = {
        "max_new_tokens": max_new_tokens, "generation_config": _config_as_dict(generation_config),
        "temperature": temperature, "top_p": top_p, "sample_top_k": sample_top_k, "do_sample": do_sample, "seed": seed,
        "stop": stop, "layers": layers, "components": components, "targets": targets, "track": track, "top_k": top_k,
        "include_prompt": include_prompt,
    }  # fmt: skip
    record = provenance(model, "generate_lens", arguments, parts.vocab_size, where, 0.0)
    transcript = GenerationAssembler(
        model, sites, encoded, wanted, record | {"generation": chosen.used}
    )
    emit = None if on_step is None else partial(_emit, transcript, on_step)
    options = {
        "n_sites": len(sites), "top_k": top_k, "track": track, "max_tracked": MAX_TRACKED, "max_bytes": MAX_BYTES,
    }  # fmt: skip
    shared = {
        "reads": reads.plain(len(sites)), "tail": head_operations_for(parts, where), "options": options, "stop": chosen.stop,
        "speaker": _decoder_path(model), "generate": chosen.options, "n_steps": chosen.max_new_tokens,
        "scores": chosen.changes_scores, "blocks": [f"{parts.blocks}.{n}" for n in range(parts.n_layers)],
    }  # fmt: skip
    plain = [
        _plain(model, chosen.seed, n, prompts, transcript, include_prompt)
        for n, prompts in enumerate(batches)
    ]
    runs: list[GeneratedBatch] = []

    def here() -> list[Arrays]:
        runs.extend(_run_all(model, shared, batches, plain, plain_head(model, parts), emit))
        return [run.arrays for run in runs]

    def finish(found: list[Arrays]) -> LensResult:
        passages = runs
        if where:
            ending = partial(chosen.ending, tokenizer)
            passages = [
                trim_finished_rows(*part, encoded, ending)
                for part in zip(found, batches, strict=True)
            ]
            for passage in passages if emit is not None else ():
                emit(passage.arrays)  # type: ignore[misc]
        try:
            return transcript.whole(passages, started, tokenise_s)
        except (
            KeyboardInterrupt
        ):  # it came too late to stop the model, and what that wrote is not to be lost
            return transcript.whole(passages, started, tokenise_s)

    return RecipeRun(
        model=model,
        recipe="generate_lens",
        remote=where,
        anatomy=parts,
        block=generate_on_server,
        shared=shared,
        batches=plain,
        schemas=[generation_schema(options, sites, batch, max_new_tokens) for batch in plain],
        finish=finish,
        arguments={"prompts": encoded, **arguments},
        here=here,
    )


def _check_room(encoded: list[list[int]], new: int, context: int | None) -> None:
    """Refuse what would leave the model's context."""
    longest = max(range(len(encoded)), key=lambda p: len(encoded[p]))
    room = None if context is None else context - len(encoded[longest])
    if room is not None and new > room:
        todo = f"pass max_new_tokens of at most {room}" if room else "shorten it"
        raise ValueError(
            f"prompt {longest} is {len(encoded[longest])} tokens long, and this model's context holds {context}: there "
            f"is room for {room} new tokens, max_new_tokens={new} asks for more; {todo}."
        )


def _config_as_dict(generation_config: Any) -> Any:
    """As provenance holds it, and takes it back."""
    if isinstance(generation_config, GenerationConfig):
        return {
            key: value
            for key, value in generation_config.to_diff_dict().items()
            if key != "transformers_version"
        }
    return generation_config


def _batches(
    model: Envoy,
    parts: Anatomy,
    chosen: GenerationSettings,
    encoded: list[list[int]],
    include_prompt: bool,
    remote: bool | str,
) -> Iterator[list[int]]:
    """Prompt numbers of each batch: few enough for the cache, and padded only where that changes nothing."""
    new = chosen.max_new_tokens
    can_pad = chosen.pads_are_harmless and not remote and may_pad(model, parts, encoded)
    ends = [len(ids) + new for ids in encoded]
    crossing = any(end > bound for bound in rope_bounds(text_config(model)) for end in ends)
    sorts = [0 if can_pad and not crossing else len(ids) for ids in encoded]
    most = MAX_CACHED // max(ends)
    if remote and chosen.changes_scores:  # a server keeps those of all steps
        most = min(most, MAX_BYTES // (4 * parts.vocab_size * new))
    most = max(1, most)
    picked = [[_first(ids, include_prompt)] for ids in encoded]
    for prompts in group_prompts(
        [len(ids) for ids in encoded], picked, sorts, MAX_BYTES // (4 * parts.vocab_size)
    ):
        yield from (prompts[start : start + most] for start in range(0, len(prompts), most))


def _first(ids: list[int], include_prompt: bool) -> int:
    """The first position of a prompt that is read."""
    return 0 if include_prompt else len(ids) - 1


def _plain(
    model: Envoy,
    seed: int | None,
    number: int,
    prompts: list[int],
    transcript: GenerationAssembler,
    include_prompt: bool,
) -> dict[str, Any]:
    """One batch as plain values: the inputs, the tokens of the first step, targets and seed."""
    encoded = [transcript.encoded[p] for p in prompts]
    ids, mask, pads = left_padded(encoded)
    starts = [pad + _first(row, include_prompt) for pad, row in zip(pads, encoded, strict=True)]
    rows, columns = torch.tensor(
        [(row, c) for row, at in enumerate(starts) for c in range(at, ids.shape[1])]
    ).T
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    forward = type(_decoder_module(model)._module).forward
    if len(rows) > len(prompts) and "logits_to_keep" in inspect.signature(forward).parameters:
        inputs["logits_to_keep"] = 0  # of the whole prompt
    return {
        "inputs": inputs,
        "pads": torch.tensor(pads),
        "first": (rows, columns),
        "targets": torch.tensor([transcript.wanted[p] for p in prompts], dtype=torch.long),
        "seed": None
        if seed is None
        else seed + number,  # its own, or all would be sampled with the same numbers
    }


def _emit(
    transcript: GenerationAssembler, on_step: Callable[[LensResult], Any], arrays: Arrays
) -> None:
    for part in transcript.parts(arrays):
        on_step(part)


# -- here --------------------------------------------------------------


def _run_all(
    model: Envoy,
    shared: dict[str, Any],
    batches: list[list[int]],
    plain: list[dict[str, Any]],
    weight: Any,
    emit: Callable[[Arrays], None] | None,
) -> list[GeneratedBatch]:
    """Batch after batch, until Ctrl-C."""
    runs: list[GeneratedBatch] = []
    try:
        for prompts, batch in zip(
            tqdm(batches, "generate_lens", unit="batch", delay=2, leave=False, disable=len(batches) < 2), plain,
            strict=True,
        ):  # fmt: skip
            hand_on = None if emit is None else partial(_hand_on, model, prompts, emit)
            runs.append(
                _run(
                    model,
                    shared,
                    batch,
                    prompts,
                    recorder_of(model, shared, batch, weight, hand_on),
                )
            )
            if runs[-1].interrupted:
                break
    except KeyboardInterrupt:  # before or after a batch's own run
        pass
    if not any(run.arrays for run in runs):
        raise KeyboardInterrupt
    return runs


def _run(
    model: Envoy,
    shared: dict[str, Any],
    batch: dict[str, Any],
    prompts: list[int],
    watch: GenerationRecorder,
) -> GeneratedBatch:
    """One batch, one trace of `generate`, with the watch in its loop."""
    speaker, interrupted = _decoder_module(model), False
    inputs = {**batch["inputs"], **shared["generate"], "custom_generate": watch.loop}
    quiet, kept = _early_end_expected(), torch.random.fork_rng(enabled=batch["seed"] is not None)
    try:
        with quiet, kept, torch.inference_mode(), model.trace(fn="generate", **inputs) as tracer:
            for _ in tracer.iter[: shared["n_steps"]]:
                _ = (
                    speaker.inputs
                )  # waits for this step to begin: until then the last one has not been sampled
                read_step(model, speaker, shared, watch)
    except KeyboardInterrupt:
        interrupted = True
    found = watch.kept
    if interrupted:
        found = trim_buffers(found, watch.n_kept) if watch.n_kept else {}
    return GeneratedBatch(
        _arrays(found, prompts),
        dict(zip(prompts, watch.ends, strict=True)),
        watch.seconds,
        interrupted,
    )


def _hand_on(
    model: Envoy, prompts: list[int], emit: Callable[[Arrays], None], step: dict[str, torch.Tensor]
) -> None:
    """Call back with one step, as outside of the run: tensors are ordinary ones, and nnsight does not listen."""
    model.interleaver.interleaving = False
    try:
        with torch.inference_mode(False):
            emit(_arrays(step, prompts))
    finally:
        model.interleaver.interleaving = True


def _arrays(step: dict[str, torch.Tensor], prompts: list[int]) -> Arrays:
    """Tensors as arrays, with prompts in place of the rows of their batch."""
    found = {name: value.numpy() for name, value in step.items()}
    return {"prompt": np.array(prompts)[found.pop("row")], **found} if found else {}


def _decoder_path(model: Envoy) -> str:
    """Where the module is that `generate` calls: the model itself, "", or the one inside an adapter's wrapper."""
    inner = (
        model._module.get_base_model()
        if hasattr(model._module, "get_base_model")
        else model._module
    )
    return envoy_path(
        next(path for path, module in model._module.named_modules() if module is inner)
    )


def _decoder_module(model: Envoy) -> Envoy:
    path = _decoder_path(model)
    return model.get(path) if path else model


@contextlib.contextmanager
def _early_end_expected() -> Iterator[None]:
    """A row that ends before `max_new_tokens` leaves the block waiting for a step that does not come: no surprise."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="(?s).*the loop asked for a step the run did not make"
        )
        yield
