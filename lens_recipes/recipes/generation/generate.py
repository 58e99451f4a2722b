"""`generate_lens()`: at which layer each token was decided, while the model writes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from torch import nn
from transformers import GenerationConfig

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.errors import LensError
from lens_recipes.models.lens_head import plain_head
from lens_recipes.recipes.generation.batches import (
    PromptGroup,
    decoder_module,
    decoder_path,
    make_generation_batches,
)
from lens_recipes.recipes.generation.sampling import GenerationSettings, generation_settings
from lens_recipes.recipes.generation.transcript import (
    Arrays,
    GeneratedBatch,
    GenerationAssembler,
    trim_finished_rows,
)
from lens_recipes.results import LensResult
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.progress import progress, tokens_of
from lens_recipes.run.recipe import recipe
from lens_recipes.run.request.edits.planned import plan_edits
from lens_recipes.run.request.edits.resolve import (
    edits_provenance,
    recorded_edits,
    resolve_edits,
)
from lens_recipes.run.request.encodings import MASK, POSITIONS
from lens_recipes.run.request.kernels import kernels_asked
from lens_recipes.run.request.lenses import lens_provenance, recorded_lens, resolve_lens
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import MAX_TRACKED, check_numbers
from lens_recipes.run.request.sites import component_names
from lens_recipes.run.run import RecipeRun
from lens_recipes.run.schema import generation_schema, with_edit_checks
from lens_recipes.trace.batch import split_inputs
from lens_recipes.trace.edits.sources import read_sources
from lens_recipes.trace.generation.loop import RecordedLoop
from lens_recipes.trace.generation.plan import GenerationBatch, GenerationPlan
from lens_recipes.trace.generation.recorder import GenerationRecorder
from lens_recipes.trace.generation.server import trace_generation_on_server
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.readout.readout import ReadoutOptions

MAX_BYTES = LOGIT_BYTES  # bound on the memory for the logits of one step


def trace_generation(
    model: Envoy,
    plan: GenerationPlan,
    batch: GenerationBatch,
    recorder: GenerationRecorder,
) -> None:
    """Run one batch in one trace of `generate`, and read the lens at each step.

    step ─► edits are made, sites are collected ─► the model samples a token ─► the recorder turns
    what was read into numbers. What edits copy comes from runs of their own, before.
    """
    recorder.begin_edits(read_sources(model, batch.edits))
    decoder = decoder_module(model)
    generate = {**plan.generate, "custom_generate": RecordedLoop(recorder).run}
    all_logits = logits_of_whole_prompt(decoder._module, batch)
    with torch.no_grad(), early_end_expected(), own_random_numbers(batch.seed), all_logits:
        if not batch.one_invoke_each:  # without a tokenizer, nnsight takes one input
            with model.trace(fn="generate", **batch.inputs, **generate) as tracer:
                for _ in tracer.iter[: plan.n_steps]:
                    _ = decoder.inputs  # waits until this step begins
                    recorder.read_step(decoder)
            return
        prompts, options = split_inputs(batch.inputs)
        with model.trace(fn="generate", **options, **generate) as tracer:
            for prompt in prompts:
                with tracer.invoke(**prompt):
                    pass  # only its rows: all are read together below
            with tracer.invoke():  # sees all prompts, padded on the left
                for _ in tracer.iter[: plan.n_steps]:
                    _ = decoder.inputs  # waits until this step begins
                    recorder.read_step(decoder)


@recipe(
    narrow="Narrow max_new_tokens, layers, components, top_k or track, pass fewer prompts at once",
    narrow_options="Narrow --max-new-tokens, --components or --show-top",
)
def generate_lens(
    model: Envoy,
    prompts: Any,
    *,
    images: Any = None,
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
    lens: Any = None,
    edits: Any = None,
    add_special_tokens: bool = True,
    on_step: Callable[[LensResult], Any] | None = None,
    remote: bool | str | None = None,
) -> RecipeRun[LensResult]:
    """Let the model write, and read the lens at every step.

    A step costs one cached forward pass and one product of all its rows.

    The text is that of Hugging Face's `generate` with the same settings, for one prompt also where
    it is sampled (several prompts share one sampler). A setting that is not given comes from
    `generation_config`, else from the checkpoint's own, else from Hugging Face's defaults;
    `provenance["generation"]` says what was used. Where a model changes its position encoding
    beyond a length (longrope), the cache keeps what was before: there, the lens at a step is not
    that of the whole text read anew.

    Args:
        model: What `load()` returns.
        prompts: As for `logit_lens`: strings, ids or chats, one or several; several are run as a
            batch, and greedily each gives what it gives alone.
        images: As for `logit_lens`; a prompt with images is written on by itself.
        max_new_tokens: At most so many tokens per prompt.
        generation_config: A transformers `GenerationConfig`, or a dict of its settings.
        temperature, top_p, sample_top_k: The sampler's. One of them alone asks for sampling.
        do_sample: False for greedy decoding.
        seed: For the sampler; torch's own generator is then left as it was. With several batches,
            each has its own.
        stop: Strings that end the text; they are part of it.
        layers, components, targets, track, top_k: As for `logit_lens`.
        include_prompt: Also read all tokens of the prompt, in the same run.
        lens: As for `logit_lens`.
        edits: As for `logit_lens`; `when` of an edit says whether it acts on the prompt's tokens,
            on those that the model writes as they go through it, or on both. What edits copy is
            read before, once for each batch.
        add_special_tokens: As for `logit_lens`.
        on_step: Called after each step with the result of that one token, for each prompt that is
            still running, its number in `provenance["prompt"]` (on a server after all has arrived,
            and not by `Job.load`). It may not run a recipe on this model, and random numbers that
            it draws from torch's generator are missing in the sampler's.
        remote: As for `logit_lens`.

    Returns:
        A `LensResult`. On its token axis are the tokens *after which* the model wrote:
        `tokens.next_id` is what it wrote there, `tokens.generated` that it did,
        `tokens.next_logprob` what its own distribution gave that token, `tokens.sampler_logprob`
        what the sampler gave it. `responses` holds text and reason of the end of each prompt,
        `timings` where the time went. Ctrl-C keeps what there is (here, not on a server): such a
        result has the finish "interrupted", and lacks the prompts that had not begun
        (`provenance["not_begun"]`).

    Raises:
        ValueError: settings that contradict each other, or arguments that fit neither model nor
            prompts.
        LensError: a model that cannot generate or be read, or a lens that is not the model's own
            output.

    Example:
        >>> prompt = "The capital of France is"
        >>> result = generate_lens(load("smollm2"), prompt, max_new_tokens=8, do_sample=False)
        >>> print(result.responses[0].text, settled_layers(result))
    """
    components = component_names(components)
    request = Request(
        model,
        prompts,
        positions=-1,
        targets=targets,
        remote=remote,
        add_special_tokens=add_special_tokens,
        images=images,
    )
    check_numbers(top_k, track, MAX_BYTES, request.anatomy.vocab_size)
    refuse_extra_inputs(request)
    settings = generation_settings(
        model,
        max_new_tokens,
        generation_config=generation_config,
        temperature=temperature,
        top_p=top_p,
        sample_top_k=sample_top_k,
        do_sample=do_sample,
        seed=seed,
        stop=stop,
    )
    check_room(request.token_ids, settings.max_new_tokens, request.anatomy.n_positions)
    chosen_lens = resolve_lens(lens, model)
    chosen_edits = resolve_edits(edits, model, writes=True)
    refuse_unread(chosen_edits, settings.max_new_tokens)
    planned = plan_edits(chosen_edits, request.blocks, request.anatomy)
    edits_of_batch = EditBatches(request, planned).of_batch if planned else None
    sites, reads = request.sites(
        layers, components, has_cache=True, lens=chosen_lens, edits=planned
    )
    options = ReadoutOptions(len(sites), top_k, track, MAX_TRACKED, MAX_BYTES, kernels_asked())
    anatomy = request.anatomy
    plan = GenerationPlan(
        reads=reads,
        head_operations=request.head_operations,
        options=options,
        stop=settings.stop,
        decoder=decoder_path(model),
        generate=settings.options,
        n_steps=settings.max_new_tokens,
        keeps_scores=settings.changes_scores,
        blocks=[anatomy.block(layer) for layer in anatomy.layers],
    )
    groups = make_generation_batches(request, settings, include_prompt, MAX_BYTES, edits_of_batch)
    schemas = []
    for group in groups:
        n_rows, n_targets = group.batch.target_ids.shape
        n_first_tokens = len(group.batch.first_tokens[0])
        n_links = len(reads.links.compared)
        schema = generation_schema(
            options, sites, n_links, n_first_tokens, n_rows, n_targets, plan.n_steps
        )
        schemas.append(with_edit_checks(schema) if planned else schema)
    generation = Generation(request, settings, sites, groups, on_step)
    return RecipeRun(
        request=request,
        traced=trace_generation_on_server,
        plan=plan,
        batches=[group.batch for group in groups],
        schemas=schemas,
        finish=generation.finish,
        arguments={
            "prompts": request.recorded_prompts,
            "images": request.recorded_images,
            "components": components,
            "generation_config": config_as_dict(generation_config),
            "lens": recorded_lens(chosen_lens),
            "edits": recorded_edits(chosen_edits),
        },
        about=lens_provenance(chosen_lens) | edits_provenance(chosen_edits),
        run_here=generation.run_here,
    )


def refuse_extra_inputs(request: Request) -> None:
    """Raise ValueError if prompts come with more than their ids, which ends where they end."""
    names = {name for inputs in request.extra_inputs for name in inputs}
    if request.anatomy.is_prefix:
        raise LensError(
            f"{request.anatomy.family} reads its prompt both ways and what it writes left to "
            "right, so each written token would be read with another mask: that is not followed. "
            "logit_lens reads the prompt, and what the last token predicts."
        )
    if request.places:  # `generate` itself says of what type the tokens are that it adds
        names &= {MASK, POSITIONS}
    if names:
        raise ValueError(
            f"the encoding has {', '.join(sorted(names))}, which say nothing of the tokens that "
            "the model is to write: pass the ids alone, without masked tokens among them."
        )


def refuse_unread(edits: list[Edit], max_new_tokens: int) -> None:
    """Raise ValueError for edits of written tokens where none of them goes through the model.

    The last token of a text is written, and not read.
    """
    for edit in edits:
        if edit.when == "written" and max_new_tokens == 1:
            raise ValueError(
                f"{edit}: the one token that max_new_tokens=1 asks for never goes through the "
                'model, so an edit with when="written" would change nothing. Write more tokens, or '
                'edit with when="prompt".'
            )


def check_room(token_ids: list[list[int]], new_tokens: int, context: int | None) -> None:
    """Refuse what would leave the model's context.

    Raises:
        ValueError: names the longest prompt and the room that there is.
    """
    if context is None:
        return
    longest = max(range(len(token_ids)), key=lambda prompt: len(token_ids[prompt]))
    length = len(token_ids[longest])
    room = context - length
    if new_tokens > room:
        hint = f"pass max_new_tokens of at most {room}" if room else "shorten it"
        raise ValueError(
            f"prompt {longest} is {length} tokens long, and this model's context holds {context}: "
            "there "
            f"is room for {room} new tokens, max_new_tokens={new_tokens} asks for more; {hint}."
        )


def config_as_dict(generation_config: Any) -> Any:
    """Return a generation config as the dict that stands for it in a result's provenance."""
    if not isinstance(generation_config, GenerationConfig):
        return generation_config
    settings = generation_config.to_diff_dict()
    settings.pop("transformers_version", None)
    return settings


class Generation:
    """Runs the batches of one request here, and makes a result of what they or a server wrote."""

    def __init__(
        self,
        request: Request,
        settings: GenerationSettings,
        sites: list[Site],
        groups: list[PromptGroup],
        on_step: Callable[[LensResult], Any] | None,
    ) -> None:
        """Keep what a result needs beside the arrays."""
        self.request = request
        self.settings = settings
        self.sites = sites
        self.groups = groups
        self.on_step = on_step
        self.written: list[GeneratedBatch] = []

    def assembler(self, run: RecipeRun[LensResult]) -> GenerationAssembler:
        """Return what makes results of arrays."""
        provenance = run.provenance() | {"generation": self.settings.used}
        return GenerationAssembler(self.request, self.sites, run.plan.reads.links, provenance)

    def hand_on(self, assembler: GenerationAssembler, arrays: Arrays) -> None:
        """Call the caller back with the result of each token."""
        if self.on_step is not None:
            for step in assembler.steps(arrays):
                self.on_step(step)

    # -- here ----------------------------------------------------------

    def run_here(self, run: RecipeRun[LensResult]) -> list[Arrays]:
        """Run batch after batch until Ctrl-C, which keeps what there is.

        Raises:
            KeyboardInterrupt: there is nothing yet.
        """
        weight = plain_head(run.model, run.anatomy)
        assembler = self.assembler(run)
        try:
            with self.progress(run) as groups:
                for group in groups:
                    self.written.append(self.run_group(run, group, weight, assembler))
                    if self.written[-1].interrupted:
                        break
        except KeyboardInterrupt:  # before or after a batch's own run
            pass
        if not any(written.arrays for written in self.written):
            raise KeyboardInterrupt
        return [written.arrays for written in self.written]

    def progress(self, run: RecipeRun[LensResult]) -> AbstractContextManager[Iterator[PromptGroup]]:
        """Give the groups of prompts, with a word on how far they are; `on_step` shows it, too."""
        if self.on_step is not None:
            return contextlib.nullcontext(iter(self.groups))
        sizes = [tokens_of(group.batch) for group in self.groups]
        return progress(self.groups, run.recipe, sizes)

    def run_group(
        self,
        run: RecipeRun[LensResult],
        group: PromptGroup,
        weight: Any,
        assembler: GenerationAssembler,
    ) -> GeneratedBatch:
        """Run one batch."""
        on_step = None
        if self.on_step is not None:
            emit = partial(self.hand_on, assembler)
            on_step = partial(outside_the_run, run.model, group.prompts, emit)
        recorder = GenerationRecorder(run.model, run.plan, group.batch, weight, on_step)
        interrupted = False
        try:
            trace_generation(run.model, run.plan, group.batch, recorder)
        except KeyboardInterrupt:
            interrupted = True
        return GeneratedBatch(
            arrays=as_arrays(recorder.trimmed(), group.prompts),
            finish_reasons=dict(zip(group.prompts, recorder.finish_reasons, strict=True)),
            seconds=recorder.seconds,
            interrupted=interrupted,
        )

    # -- the result ----------------------------------------------------

    def finish(self, run: RecipeRun[LensResult], arrays: list[Arrays]) -> LensResult:
        """Make the result of what was written here or on a server.

        Raises:
            LensError: the lens was not the model's own output.
        """
        written = self.written
        if run.remote:
            written = self.written_on_server(arrays)
            assembler = self.assembler(run)
            for batch in written:
                self.hand_on(assembler, batch.arrays)
        try:
            return self.assembler(run).result(written)
        except KeyboardInterrupt:  # too late to stop the model: what it wrote is not to be lost
            return self.assembler(run).result(written)

    def written_on_server(self, arrays: list[Arrays]) -> list[GeneratedBatch]:
        """Return what a server's arrays hold, each text up to its own end."""
        ending = partial(self.settings.ending, self.request.tokenizer)
        written = []
        for batch_arrays, group in zip(arrays, self.groups, strict=True):
            written.append(
                trim_finished_rows(batch_arrays, group.prompts, self.request.token_ids, ending)
            )
        return written


def outside_the_run(
    model: Envoy,
    prompts: list[int],
    emit: Callable[[Arrays], None],
    step: dict[str, torch.Tensor],
) -> None:
    """Call back with one step as outside of the run.

    Its tensors are ordinary ones, and nnsight does not listen.
    """
    model.interleaver.interleaving = False
    try:
        with torch.inference_mode(False):
            emit(as_arrays(step, prompts))
    finally:
        model.interleaver.interleaving = True


def as_arrays(step: dict[str, torch.Tensor], prompts: list[int]) -> Arrays:
    """Return tensors as arrays, with prompts in place of the rows of their batch."""
    arrays = {array_name: value.numpy() for array_name, value in step.items()}
    if not arrays:
        return {}
    rows = arrays.pop("row")
    return {"prompt": np.array(prompts)[rows], **arrays}


@contextlib.contextmanager
def logits_of_whole_prompt(module: nn.Module, batch: GenerationBatch) -> Iterator[None]:
    """Have a model give the logits of a whole prompt where they are read; switched back after.

    Some hybrids (FalconH1, Zamba) take how many they give from their config alone.
    """
    config: Any = module.config
    kept = getattr(config, "num_logits_to_keep", None)
    if not kept or "logits_to_keep" not in batch.inputs:
        yield
        return
    config.num_logits_to_keep = 0
    try:
        yield
    finally:
        config.num_logits_to_keep = kept


def own_random_numbers(seed: int | None) -> contextlib.AbstractContextManager[None]:
    """Leave torch's own generator as it is where a seed is given."""
    return torch.random.fork_rng(enabled=seed is not None)


@contextlib.contextmanager
def early_end_expected() -> Iterator[None]:
    """Silence nnsight where a row ends early, and the trace waits for a step that does not come."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="(?s).*the loop asked for a step the run did not make"
        )
        yield
