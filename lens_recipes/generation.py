"""`generate_lens()`: at which layer each token was decided, while the model writes."""

from __future__ import annotations

import contextlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import nnsight
import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from tqdm import tqdm

from ._anatomy import Anatomy, anatomy, plain_head
from ._logit_lens import MAX_TRACKED, check_numbers
from .batches import MAX_TOKENS, group, left_padded, may_pad, rope_bounds
from .collect import collect, site_streams
from .decoding import Watch
from .models import context_length, envoy_path, exclusive, refuse_training, resolve_remote, text_config, tokenizer_of
from .provenance import provenance
from .readout import COPIES, model_logits, trimmed, unembed
from .remote import destination, tail_for
from .result import LensResult
from .sampling import Settings, settings
from .sites import Reads, component_names, sites_and_reads
from .tokens import check_ids, encode, listed, target_ids
from .transcript import Arrays, Passage, Transcript

MAX_BYTES = 256 * 2**20  # bound on the memory for the logits of one step
MAX_CACHED = 8 * MAX_TOKENS  # tokens of a batch in the cache, those to come included


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
) -> LensResult:
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
            number in `provenance["prompt"]` (on a server, after all has arrived). It may not run a recipe on this
            model, and random numbers that it draws from torch's generator are missing in the sampler's.
        remote: As for `logit_lens`.

    Returns:
        A `LensResult`. On its token axis are the tokens *after which* the model wrote: `tokens.next_id` is what it
        wrote there, `tokens.generated` that it did, `tokens.next_logprob` what its own distribution gave that token,
        `tokens.sampler_logprob` what the sampler gave it. `responses` holds text and reason of the end of each prompt,
        `timings` where the time went. Ctrl-C keeps what there is: such a result has the finish "interrupted", and lacks
        the prompts that had not begun (`provenance["not_begun"]`).

    Raises:
        ValueError: settings that contradict each other, or arguments that fit neither model nor prompts.
        LensError: a model that cannot generate or be read, or a lens that is not the model's own output.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8, do_sample=False)
        >>> print(result.responses[0].text, settled_layers(result))
    """
    started = time.perf_counter()
    layers, targets, stop = map(listed, (layers, targets, stop))
    components = component_names(components)
    where = resolve_remote(model, remote)
    refuse_training(model, where)
    with exclusive(model):
        parts, tokenizer = anatomy(model), tokenizer_of(model)
        check_numbers(top_k, track, MAX_BYTES, parts.vocab_size)
        chosen = settings(
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
        arguments = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "sample_top_k": sample_top_k,
            "do_sample": do_sample, "seed": seed, "stop": stop, "layers": layers, "components": components,
            "targets": targets, "track": track, "top_k": top_k, "include_prompt": include_prompt,
        }  # fmt: skip
        record = provenance(model, "generate_lens", arguments, parts.vocab_size, where, 0.0)
        transcript = Transcript(model, sites, encoded, wanted, record | {"generation": chosen.used})
        readout_options = {
            "n_sites": len(sites), "top_k": top_k, "track": track, "max_tracked": MAX_TRACKED, "max_bytes": MAX_BYTES,
        }  # fmt: skip
        first = [0 if include_prompt else len(ids) - 1 for ids in encoded]
        plan = _Plan(model, parts, reads, readout_options, chosen, first, where)
        runs = _run_all(plan, transcript, None if on_step is None else partial(_emit, transcript, on_step))
    try:
        return transcript.whole(runs, started, tokenise_s)
    except KeyboardInterrupt:  # it came too late to stop the model, and what that wrote is not to be lost
        return transcript.whole(runs, started, tokenise_s)


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


@dataclass(frozen=True)
class _Plan:
    """What is the same for every batch; `first` is the first position that is read of each prompt."""

    model: Envoy
    parts: Anatomy
    reads: Reads
    readout_options: dict[str, Any]
    settings: Settings
    first: list[int]
    remote: bool | str


def _run_all(plan: _Plan, transcript: Transcript, emit: Callable[[Arrays], None] | None) -> list[Passage]:
    """Batch after batch, until Ctrl-C."""
    batches = list(_batches(plan, transcript.encoded))
    runs: list[Passage] = []
    try:
        for prompts in tqdm(batches, "generate_lens", unit="batch", delay=2, leave=False, disable=len(batches) < 2):
            seed = plan.settings.seed  # each batch its own, or all would be sampled with the same numbers
            seeded = replace(plan.settings, seed=None if seed is None else seed + len(runs))
            runs.append(_run(replace(plan, settings=seeded), transcript, prompts, emit))
            if runs[-1].interrupted:
                break
    except KeyboardInterrupt:  # before or after a batch's own run
        if plan.remote:
            raise
    if not any(run.arrays for run in runs):
        raise KeyboardInterrupt
    return runs


def _batches(plan: _Plan, encoded: list[list[int]]) -> Iterator[list[int]]:
    """Prompt numbers of each batch: few enough for the cache, and padded only where that changes nothing."""
    model, parts, new = plan.model, plan.parts, plan.settings.max_new_tokens
    can_pad = plan.settings.pads_are_harmless and not plan.remote and may_pad(model, parts, encoded)
    ends = [len(ids) + new for ids in encoded]
    crossing = any(end > bound for bound in rope_bounds(text_config(model)) for end in ends)
    sorts = [0 if can_pad and not crossing else len(ids) for ids in encoded]
    most = max(1, MAX_CACHED // max(ends))
    picked = [[position] for position in plan.first]
    for prompts in group([len(ids) for ids in encoded], picked, sorts, MAX_BYTES // (4 * parts.vocab_size)):
        yield from (prompts[start : start + most] for start in range(0, len(prompts), most))


def _emit(transcript: Transcript, on_step: Callable[[LensResult], Any], arrays: Arrays) -> None:
    for part in transcript.parts(arrays):
        on_step(part)


# -- one batch -----------------------------------------------------------------------------------------------


def _run(plan: _Plan, transcript: Transcript, prompts: list[int], emit: Callable[[Arrays], None] | None) -> Passage:
    """One batch, one trace of `generate`: collect each step's streams, and reduce them where the model is.

    As in `logit_lens`, the block can travel; only where it does not, `emit` is called in it.
    """
    model, parts, remote, chosen = plan.model, plan.parts, plan.remote, plan.settings
    ids, mask, pads = left_padded([transcript.encoded[p] for p in prompts])
    starts = [pad + plan.first[p] for pad, p in zip(pads, prompts, strict=True)]
    rows, columns = torch.tensor([(row, c) for row, at in enumerate(starts) for c in range(at, ids.shape[1])]).T
    weight = None if remote else plain_head(model, parts)
    watch = Watch(
        model,
        torch.tensor(pads),
        (rows, columns),
        torch.tensor([transcript.wanted[p] for p in prompts], dtype=torch.long),
        plan.reads.rows(plan.readout_options["n_sites"]),
        partial(unembed, model, tail_for(parts, remote), weight, {}),
        {**plan.readout_options, "copies": COPIES if weight is None else 1},
        chosen.max_new_tokens,
        chosen.stop,
        chosen.seed,
        None if remote or emit is None else partial(_hand_on, model, prompts, emit),
    )
    inputs = {"input_ids": ids, "attention_mask": mask, **chosen.options, **destination(remote)}
    speaker = _speaker(model)
    if len(rows) > len(prompts) and "logits_to_keep" in inspect.signature(type(speaker._module).forward).parameters:
        inputs["logits_to_keep"] = 0  # of the whole prompt
    reads, n_steps, max_bytes, interrupted = plan.reads, chosen.max_new_tokens, MAX_BYTES, False
    how, n_slots, slots, heads = reads.plan, reads.n_slots, reads.slots, reads.heads
    quiet, kept = _early_end_expected(), _own_generator(chosen.seed)
    try:
        with quiet, kept, torch.inference_mode(), model.trace(fn="generate", custom_generate=watch.loop, **inputs) as t:
            found, ends, seconds = nnsight.save(watch.kept), nnsight.save(watch.ends), nnsight.save(watch.seconds)
            for _ in t.iter[:n_steps]:
                _ = speaker.inputs  # waits for this step to begin: until then the last one has not been sampled
                vectors, errors = collect(model, how, watch.where, n_slots, max_bytes)
                streams = site_streams(model, vectors, slots, heads)
                watch.see(streams, errors, model_logits(speaker.output))
    except KeyboardInterrupt:
        if remote:
            raise
        found, ends, seconds, interrupted = watch.kept, watch.ends, watch.seconds, True
        found = trimmed(found, watch.n_kept) if watch.n_kept else {}
    run = Passage(_arrays(found, prompts), dict(zip(prompts, ends, strict=True)), seconds, interrupted)
    if remote and emit is not None:
        emit(run.arrays)
    return run


def _hand_on(model: Envoy, prompts: list[int], emit: Callable[[Arrays], None], step: dict[str, torch.Tensor]) -> None:
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


def _speaker(model: Envoy) -> Envoy:
    """The module that `generate` calls: the model, or the one inside an adapter's wrapper."""
    inner = model._module.get_base_model() if hasattr(model._module, "get_base_model") else model._module
    path = next(path for path, module in model._module.named_modules() if module is inner)
    return model.get(envoy_path(path)) if path else model


@contextlib.contextmanager
def _early_end_expected() -> Iterator[None]:
    """A row that ends before `max_new_tokens` leaves the block waiting for a step that does not come: no surprise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*the loop asked for a step the run did not make")
        yield


@contextlib.contextmanager
def _own_generator(seed: int | None) -> Iterator[None]:
    """torch's random numbers as they were before, if a seed is set."""
    if seed is None:
        yield
    else:
        with torch.random.fork_rng():
            yield
