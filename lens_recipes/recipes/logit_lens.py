"""`logit_lens()`: what a model would say if it stopped after each layer.

Idea: nostalgebraist, "interpreting GPT: the logit lens" (LessWrong, 2020).

Read `plain_logit_lens` first: it is the whole idea. `trace_lens` is the same for any decoder, in
bounded memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import nnsight
import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.axes import Site
from lens_recipes.models.lens_head import plain_head
from lens_recipes.models.tokens.vocabulary import token_texts
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.results import LensResult
from lens_recipes.run.assemble import (
    all_ids,
    certificate_of,
    image_tokens,
    in_prompt_order,
    lens_result,
    packed_tokens,
)
from lens_recipes.run.batches import make_batches
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.recipe import recipe
from lens_recipes.run.request.edits.controls import (
    controls_of,
    controls_provenance,
)
from lens_recipes.run.request.edits.planned import plan_edits
from lens_recipes.run.request.edits.resolve import (
    edits_provenance,
    recorded_edits,
    resolve_edits,
)
from lens_recipes.run.request.images.shown import shown_prompts
from lens_recipes.run.request.kernels import kernels_asked
from lens_recipes.run.request.lenses import lens_provenance, recorded_lens, resolve_lens
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import MAX_TRACKED, check_numbers
from lens_recipes.run.request.sites import component_names
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import lens_schema, with_edit_checks, with_effects
from lens_recipes.trace.batch import BatchSize, LensBatch, forward_size, split_inputs
from lens_recipes.trace.collect import collect, site_rows
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.effects import (
    EditedRun,
    OwnLogits,
    RunTools,
    compare_logits,
    edited_runs,
    effect_arrays,
    read_logits,
    unedited_run,
    worst_errors,
)
from lens_recipes.trace.edits.sources import read_sources
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import Operation, model_logits
from lens_recipes.trace.plan import EditStep, ReadPlan, ReadStep
from lens_recipes.trace.readout.readout import ReadoutOptions, readout
from lens_recipes.trace.transport import IDENTITY


def plain_logit_lens(model: Envoy, prompts: Sequence[str | Tensor]) -> list[Tensor]:
    """Apply the final norm and the unembedding to the last token's stream after each block.

    `logit_lens` gives the same numbers for any decoder, in bounded memory, with a certificate. This
    works for models that name their modules as Llama does (Qwen, Mistral, Gemma without a softcap,
    SmolLM2, …).

    Args:
        model: What `load()` returns, with a tokenizer and its weights on one device.
        prompts: Texts, or token ids `[1, position]`.

    Returns:
        Logits `[layer, vocab]` after the last token, of each prompt.

    Example:
        >>> logits = plain_logit_lens(load("smollm2"), ["The capital of France is", "2 + 2 ="])
        >>> print(logits[0].argmax(-1))
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    blocks, final_norm, unembedding = model.model.layers, model.model.norm, model.lm_head
    with torch.no_grad(), model.trace() as tracer:
        logits = nnsight.save([])
        for prompt in prompts:
            with tracer.invoke(prompt):
                last_token = torch.stack([block.output[:, -1] for block in blocks], dim=1)
                logits.append(unembedding(final_norm(last_token))[0])
    return logits


def trace_lens(
    model: Any, plan: LensPlan, batch: LensBatch, weight: Any = None
) -> dict[str, Tensor]:
    """Run one batch in one trace, and read the lens at every site.

    All of it happens where the model is. What edits copy comes from runs of their own, before; so
    does the unedited run that an edited one is compared with. Its controls come after.

    stream [token, d_model] ─► transport ─► final norm ─► unembedding ─► softcap ─► numbers
    """
    sources = read_sources(model, batch.edits)
    if plan.controls is not None:
        return trace_beside_controls(model, plan, batch, weight, sources)
    numbers, _, _ = trace_once(model, plan, batch, weight, sources, None)
    return numbers


def trace_beside_controls(
    model: Any, plan: LensPlan, batch: LensBatch, weight: Any, sources: dict[int, Tensor]
) -> dict[str, Tensor]:
    """Run one batch without edits, with them, and with each control in their place."""
    own = unedited_run(model, batch, plan.max_bytes)
    numbers, edited, norms = trace_once(model, plan, batch, weight, sources, own)
    runs = []
    for steps, layers in zip(plan.controls or [], batch.edits.other_layers, strict=True):
        runs.append(EditedRun(steps, layers))
    tools = RunTools(sources, plan.head_operations, weight, plan.max_bytes)
    controls = edited_runs(model, runs, batch, own, tools, norms)
    numbers |= worst_errors([numbers, *controls])
    return numbers | effect_arrays(batch, own, [edited, *controls])


def trace_once(
    model: Any,
    plan: LensPlan,
    batch: LensBatch,
    weight: Any,
    sources: dict[int, Tensor],
    own: OwnLogits | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[int, Tensor]]:
    """Return the lens of one batch; beside it, how far it is from the unedited run `own`.

    The last is how far each edit has moved its tokens.
    """
    if not batch.one_invoke_each:  # without a tokenizer, nnsight takes one input
        with torch.no_grad(), model.trace(**batch.inputs):
            found = nnsight.save(read_lens(model, plan, batch, weight, sources, own))
    else:
        prompts, options = split_inputs(batch.inputs)
        with torch.no_grad(), model.trace(**options) as tracer:
            for prompt in prompts:
                with tracer.invoke(**prompt):
                    pass  # only its rows: all are read together below
            with tracer.invoke():  # sees all prompts, padded on the left
                found = nnsight.save(read_lens(model, plan, batch, weight, sources, own))
    return found


def read_lens(
    model: Any,
    plan: LensPlan,
    batch: LensBatch,
    weight: Any,
    sources: dict[int, Tensor],
    own: OwnLogits | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[int, Tensor]]:
    """Collect the stream at every site as the model runs, and reduce its logits to small arrays."""
    reads, options = plan.reads, plan.options
    head = LensHead(model, plan.head_operations, weight, options.kernels)
    edits = None
    if batch.edits is not None:
        edits = EditPass(
            model, batch.edits, sources, plan.head_operations, weight, options.max_bytes
        )
    vectors, sum_errors = collect(
        model, reads.steps, batch.places, reads.n_slots, options.max_bytes, edits
    )
    rows = site_rows(model, vectors, reads.sites)
    final_logits = model_logits(model.output)
    places = (batch.places.rows, batch.logit_columns)
    numbers = readout(rows, reads.sites, head, final_logits, places, batch.requested_ids, options)
    compared: dict[str, Tensor] = {}
    norms: dict[int, Tensor] = {}
    if own is not None and edits is not None:
        logits = read_logits(model, batch)
        compared = compare_logits(own.logits, logits, own.ids, options.max_bytes)
        norms = edits.norms
    return {**numbers, **sum_errors}, compared, norms


class LensPlan(NamedTuple):
    """What is read of every batch.

    Attributes:
        reads: The sites.
        head_operations: What the model does between its last block and its logits.
        options: What is asked for at every token.
        controls: The steps of each control of an edited run (`Request.edit_steps`); None for
            neither controls nor the unedited run beside it.
    """

    reads: ReadPlan
    head_operations: list[Operation]
    options: ReadoutOptions
    controls: list[list[ReadStep | EditStep]] | None = None

    @property
    def max_bytes(self) -> int:
        """Bound on the memory for logits."""
        return self.options.max_bytes

    def batch_size(self, batch: LensBatch) -> BatchSize:
        """Return what makes a batch large."""
        n_tokens = len(batch.places.rows)
        n_mapped = sum(read.transport is not IDENTITY for read in self.reads.sites)
        size = forward_size(batch.inputs, n_tokens)._replace(
            vectors=self.reads.n_slots,
            logit_rows=n_tokens * len(self.reads.sites),
            mapped_rows=n_tokens * n_mapped,
        )
        if batch.edits is None:
            return size
        n_passes = 1 if self.controls is None else 2 + len(self.controls)
        n_tokens = n_passes * size.rows * size.columns
        return size._replace(all_tokens=n_tokens + batch.edits.more_tokens)

    def batch_identity(self, batch: LensBatch) -> dict[str, Any]:
        """Return what tells a batch from another."""
        return batch.identity()


@recipe(
    narrow="Narrow positions (−1 is cheap), layers, components, top_k or track, "
    "pass fewer prompts at once",
    narrow_options="Narrow --positions (-1 is cheap), --layers, --components or --show-top, "
    "or give fewer prompts",
)
def logit_lens(
    model: Envoy,
    prompts: Any,
    *,
    images: Any = None,
    layers: int | slice | Sequence[int] | None = None,
    components: str | Sequence[str] = "resid_post",
    heads: Any = None,
    positions: Any = None,
    targets: Any = None,
    track: str | int | None = "top1",
    top_k: int = 5,
    apply_norm: bool = True,
    lens: Any = None,
    edits: Any = None,
    controls: int | None = None,
    add_special_tokens: bool = True,
    max_bytes: int = LOGIT_BYTES,
    remote: bool | str | None = None,
    strict: bool = True,
) -> RecipeRun[LensResult]:
    """Decode the residual stream, or what is added to it, as the model itself does.

    The model's own final norm and unembedding are applied at each site.

    Args:
        model: What `load()` returns.
        prompts: One or several strings, lists of token ids or chats; a 2-D tensor of ids or a
            `BatchEncoding`, whose position ids, token types and masked tokens reach the model. Any
            number: they are run in batches, and each gives the same numbers as alone.
        images: For a model that takes them: of one prompt an image or a list of them, of several
            prompts a list with an entry for each. An image is a path, a PIL image or an array. A
            text has the model's mark where each belongs; a chat has parts of the type "image",
            which may hold the image themselves.
        layers: None for all, an int, a slice or a list; negative from the end. They are read in
            ascending order.
        components: What is read of each layer, one or several: the stream "resid_pre", "resid_mid",
            "resid_post"; what a module adds to it, "attn_out", "mlp_out", "mixer_out" (state
            space), "other_out", as it is added, after any post-norm or multiplier; "head_out", each
            head's share of `attn_out`; "embed", the stream before layer 0. With `layers=None`,
            layers that lack one are passed over.
        heads: For "head_out": None for all, the same forms as `layers`, or pairs [(layer, head),
            …].
        positions: The same forms as `layers`, within each prompt, or a list of them, one per
            prompt. With images also "image", "text", or {"box": (left, top, right, bottom)} for
            the patches under a box in pixels, in the image 0 unless "image" says another. −1 alone
            is cheap: the model's head then runs on one position.
        targets: Tokens to follow, as strings or ids for all prompts, or one such list per prompt.
        track: Which tokens get a log-probability at every site: "top1" (all tokens that are top-1
            at some site of that position, at most 32), an int n (the final layer's top n), or None.
        top_k: How many of the most likely tokens to keep.
        apply_norm: False reads the raw stream, without the final norm; the result is marked so.
        lens: None for the logit lens; what `load_lens` or `fit_lens` returns, the path of a lens's
            file, or a hub id, for a lens with a transport of its own at each layer. With
            `layers=None`, layers that it lacks are passed over. What a module adds is taken through
            the linear part of its layer's transport; the last layer is read as it is.
        edits: Changes made while the model runs: what `ablate`, `patch`, `steer` and `swap` return,
            one or several. The result is that of the edited run, certified against its logits.
        controls: How many runs are made with something in place of the edits that should do
            nothing: a random direction of the same size for `steer` and `swap`, random sites of the
            same kind for the others. They stand beside the effect in `result.effects` and
            `summary()`. None for 5, or for 0 where edits only patch. 0 also leaves out the unedited
            run, and with it `result.effects`: the edited run is then one forward pass.
        add_special_tokens: As in the tokenizer (BOS for models that want one).
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: None as the model was loaded, True or an address for an NDIF server, False for here.
        strict: False keeps a result whose certificate failed, marked, instead of raising.

    Returns:
        A `LensResult` with one site per layer, component and head, in the order of the stream.
        Where parts of the stream were read, its certificate also says that they sum to the stream.

    Raises:
        ValueError: an argument that does not fit the model or the prompts, such as a component or a
            head that this model does not have; the message says what would.
        LensError: a model that cannot be read this way, whose last-layer lens is not its own
            output, or whose parts do not sum to its stream.

    Example:
        >>> result = logit_lens(load("smollm2"), "The capital of France is", targets=" Paris")
        >>> print(result)
    """
    components = component_names(components)
    request = Request(
        model,
        prompts,
        positions=positions,
        targets=targets,
        remote=remote,
        add_special_tokens=add_special_tokens,
        images=images,
    )
    check_numbers(top_k, track, max_bytes, request.anatomy.vocab_size)
    chosen_lens = resolve_lens(lens, model)
    chosen_edits = resolve_edits(edits, model)
    planned = plan_edits(chosen_edits, request.blocks, request.anatomy)
    sites, reads = request.sites(
        layers, components, heads, apply_norm, lens=chosen_lens, edits=planned
    )
    beside = controls_of(request, chosen_edits, planned, controls)
    edits_of_batch = None
    if planned:
        runs = [] if beside is None else [control.planned for control in beside.drawn]
        edits_of_batch = EditBatches(request, planned, runs).of_batch
    options = ReadoutOptions(len(sites), top_k, track, MAX_TRACKED, max_bytes, kernels_asked())
    batches, token_prompts = make_batches(request, max_bytes, edits=edits_of_batch)
    n_requested = len(request.target_ids[0]) + 1
    control_steps = None
    if beside is not None:
        control_steps = [request.edit_steps(control.planned) for control in beside.drawn]
    schemas = []
    for batch in batches:
        n_tokens = len(batch.places.rows)
        schema = lens_schema(options, sites, len(reads.links.compared), n_tokens, n_requested)
        if planned:
            schema = with_edit_checks(schema)
        if control_steps is not None:
            schema = with_effects(schema, 2 + len(control_steps), n_tokens, n_requested - 1)
        schemas.append(schema)
    return RecipeRun(
        request=request,
        traced=trace_lens,
        plan=LensPlan(reads, request.head_operations, options, control_steps),
        batches=batches,
        schemas=schemas,
        finish=partial(finish, sites, token_prompts, strict),
        arguments={
            "prompts": request.recorded_prompts,
            "images": request.recorded_images,
            "components": components,
            "lens": recorded_lens(chosen_lens),
            "edits": recorded_edits(chosen_edits),
        },
        about=lens_provenance(chosen_lens)
        | edits_provenance(chosen_edits)
        | controls_provenance(beside),
        local={"weight": None if request.remote else plain_head(model, request.anatomy)},
    )


def finish(
    sites: list[Site],
    token_prompts: list[int],
    strict: bool,
    run: RecipeRun[LensResult],
    batches: list[Arrays],
) -> LensResult:
    """Make the result of a run out of the arrays of its batches.

    Raises:
        LensError: the certificate failed, and the run is strict.
    """
    request = run.request
    numbers = in_prompt_order(batches, token_prompts)
    certificate = certificate_of(
        numbers, request.model, run.plan.reads.links, request.anatomy, image_tokens(request)
    )
    if strict:
        certificate.check(partial(cause_in_quantisation, request.model))
    token_ids = all_ids(numbers, request.token_ids, request.target_ids)
    texts = token_texts(request.tokenizer, token_ids)
    result = lens_result(
        numbers,
        sites,
        packed_tokens(request, texts),
        shown_prompts(request.tokenizer, request.token_ids, request.places),
        request.target_ids,
        texts,
        certificate,
        run.provenance() | {"dtype": certificate.dtype},
        inputs=request.inputs,
        pictures=request.pictures,
    )
    if strict and result.effects is not None:
        result.effects.check_cone(certificate)
    return result
