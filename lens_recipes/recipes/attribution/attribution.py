"""`attribution()`: how much each layer, component, head or token read adds to a target's logit.

Idea: direct logit attribution, as in Elhage et al., "A Mathematical Framework for Transformer
Circuits" (2021), and
Wang et al., "Interpretability in the Wild" (2022).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import nnsight
import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.arrays.attribution import UNITS
from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.caller import advised, argument
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import AttentionConfig, attention_configs
from lens_recipes.models.images.added import layers_with_additions
from lens_recipes.models.structure.parts import Anatomy, Block
from lens_recipes.models.tokens.vocabulary import token_texts
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.recipes.attribution.edit_parts import edit_layers
from lens_recipes.recipes.attribution.parts import (
    count_parts,
    name_parts,
    plan_parts,
    widen_sources,
)
from lens_recipes.recipes.attribution.targets import Contrast, contrast
from lens_recipes.results import Attribution
from lens_recipes.run.assemble import certificate_of, image_tokens, packed_tokens
from lens_recipes.run.batches import make_batches
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.recipe import recipe
from lens_recipes.run.request.edits.planned import plan_edits
from lens_recipes.run.request.edits.resolve import (
    edits_provenance,
    recorded_edits,
    resolve_edits,
)
from lens_recipes.run.request.images.shown import shown_prompts
from lens_recipes.run.request.lenses import (
    lens_provenance,
    recorded_lens,
    resolve_lens,
    transport_of_layer,
)
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import check_numbers
from lens_recipes.run.request.sites import heads_of, refuse_scattered, refuse_unreadable
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import attribution_schema, with_edit_checks
from lens_recipes.trace.attribution.decompose import (
    AttributionPlan,
    ExplainedTokens,
    certificate_arrays,
    decompose,
)
from lens_recipes.trace.batch import LensBatch, split_inputs
from lens_recipes.trace.collect import collect
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.sources import read_sources
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.operations import KeepColumns, model_logits
from lens_recipes.trace.transport import IDENTITY, Transport


def trace_attribution(
    model: Any, plan: AttributionPlan, batch: LensBatch, weight: Any = None
) -> dict[str, Tensor]:
    """Run one batch in one trace, and split the logits where the model is.

    What edits copy comes from runs of their own, before.

    parts of the stream ─► what is done to the stream later ─► frozen final norm ─► rows of the
    unembedding ─► shares
    """
    sources = read_sources(model, batch.edits)
    if not batch.one_invoke_each:  # without a tokenizer, nnsight takes one input
        with torch.no_grad(), model.trace(**batch.inputs):
            numbers = nnsight.save(split_logits(model, plan, batch, weight, sources))
    else:
        prompts, options = split_inputs(batch.inputs)
        with torch.no_grad(), model.trace(**options) as tracer:
            for prompt in prompts:
                with tracer.invoke(**prompt):
                    pass  # only its rows: all are read together below
            with tracer.invoke():  # sees all prompts, padded on the left
                numbers = nnsight.save(split_logits(model, plan, batch, weight, sources))
    return numbers


def split_logits(
    model: Any, plan: AttributionPlan, batch: LensBatch, weight: Any, sources: dict[int, Tensor]
) -> dict[str, Tensor]:
    """Collect the parts as the model runs, and take them to their shares of the targets' logits."""
    edits = None
    if batch.edits is not None:
        edits = EditPass(model, batch.edits, sources, plan.head_operations, weight, plan.max_bytes)
    vectors, sum_errors = collect(
        model, plan.steps, batch.places, plan.n_slots, plan.max_bytes, edits
    )
    token_ids = batch.requested_ids[:, :-1]  # the last is the next id of the prompt
    explained = ExplainedTokens(vectors, vectors[plan.explained_slot], token_ids, batch)
    numbers = decompose(model, plan, explained, weight)
    final_logits = model_logits(model.output)
    proof = certificate_arrays(model, plan, explained, final_logits, numbers["capped_logit"])
    return {**numbers, **sum_errors, **proof}


@recipe(
    narrow="Narrow positions, targets or unit, pass fewer prompts at once",
    narrow_options="Narrow --positions, --target or --unit, or give fewer prompts",
)
def attribution(
    model: Envoy,
    prompts: Any,
    targets: Any,
    *,
    images: Any = None,
    against: Any = None,
    unit: str = "layer",
    at_layer: int | None = None,
    positions: Any = -1,
    lens: Any = None,
    edits: Any = None,
    add_special_tokens: bool = True,
    max_bytes: int = LOGIT_BYTES,
    remote: bool | str | None = None,
    strict: bool = True,
) -> RecipeRun[Attribution]:
    """Split a target's logit into what each part of the model adds (direct logit attribution).

    The final norm, and for heads and tokens every norm between them and the stream, is held at its
    value of this run; then the logit is linear in the stream, and the stream is a sum. What a part
    does by changing what later parts do
    is not counted: a real ablation gives other numbers.

    Args:
        model: What `load()` returns.
        prompts, images: As for `logit_lens`.
        targets: One or several tokens, as strings or ids for all prompts, or one such list per
            prompt.
        against: Also subtract the share in the logit of another token: a token, a list of one per
            prompt, lists as for targets, or "mean" for the mean over the vocabulary. A logit alone
            says little: adding the same to all logits changes nothing.
        unit: "layer" (all that a block adds), "component" (attention, MLP, …), "head" (attention by
            head, the rest by component), or "token" (each head by the token that it reads).
        at_layer: Explain the lens's logit after this block instead of the model's own.
        positions: As for `logit_lens`; −1 explains what is predicted after the last token.
        lens: As for `logit_lens`, with `at_layer`: the logit of that lens is explained. What its
            bias adds is part of the constant.
        edits: As for `logit_lens`: the logit of the edited run is split. An edit of what a module
            or a head adds changes that part. One of the stream is a part of its own, "edit", one
            for each layer; so is one of "attn_out" where that is split into heads, and one of a
            head where that is split by source.
        add_special_tokens, max_bytes, remote, strict: As for `logit_lens`. `unit="token"` runs with
            eager attention, which is switched back afterwards, and not on a server.

    Returns:
        An `Attribution`: `values.sum(0)` is its `logit`, and `capped_logit` is the model's own
        (compared with it in the certificate).

    Raises:
        ValueError: an argument that does not fit the model or the prompts.
        LensError: the model's blocks are no sums, its heads cannot be told apart, or the parts do
            not sum to the logit.

    Example:
        >>> prompt, targets = "The capital of France is", " Paris"
        >>> who = attribution(load("smollm2"), prompt, targets, against=" London", unit="head")
        >>> print(who)
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown; accepted are {', '.join(map(repr, UNITS))}.")
    request = Request(
        model,
        prompts,
        positions=positions,
        targets=targets,
        remote=remote,
        add_special_tokens=add_special_tokens,
        images=images,
    )
    if not request.target_ids[0]:
        raise ValueError(
            "attribution needs targets: one or several tokens whose logit is to be explained."
        )
    held_against = contrast(against, request)
    anatomy = request.anatomy
    layer = anatomy.last_layer if at_layer is None else layer_index(at_layer, anatomy.n_layers)
    refuse_additions(request, layer)
    check_numbers(1, None, max_bytes, anatomy.vocab_size)
    chosen_lens = resolve_lens(lens, model)
    refuse_scattered(anatomy)
    shows_weights = unit == "token" and not request.remote
    context = partial(eager_attention, model) if shows_weights else contextlib.nullcontext
    with context():
        all_blocks = request.blocks()
    chosen_edits = resolve_edits(edits, model)
    planned = plan_edits(chosen_edits, lambda: all_blocks, anatomy)
    edits_of_batch = EditBatches(request, planned).of_batch if planned else None
    edited = edit_layers(planned, unit, layer)
    blocks = readable_blocks(all_blocks[: layer + 1], unit, anatomy.family, bool(request.remote))
    batches, token_prompts = make_batches(
        request,
        max_bytes,
        requested_ids=held_against.columns(request.target_ids),
        may_pad=unit != "token",
        edits=edits_of_batch,
    )
    reads = plan_parts(all_blocks, layer, unit, anatomy, request.link_readers(), planned)
    plan = AttributionPlan(
        steps=reads.steps,
        n_slots=reads.n_slots,
        parts=reads.parts,
        explained_slot=reads.explained_slot,
        final_slot=reads.final_slot,
        head_operations=request.head_operations,
        has_mean=held_against.has_mean,
        max_bytes=max_bytes,
        links=reads.links,
        transport=explained_transport(chosen_lens, at_layer, layer, anatomy),
    )
    longest = max(len(token_ids) for token_ids in request.token_ids)
    explanation = Explanation(
        blocks, unit, layer, held_against, longest, token_prompts, strict, edited
    )
    n_columns = len(held_against.columns(request.target_ids)[0]) + held_against.has_mean
    schemas = []
    for batch in batches:
        n_tokens = len(batch.places.rows)
        n_sources = batch.inputs["input_ids"].shape[1]
        n_parts = count_parts(blocks, unit, n_sources, edited)
        schema = attribution_schema(n_parts, len(reads.links.compared), n_tokens, n_columns)
        schemas.append(with_edit_checks(schema) if planned else schema)
    return RecipeRun(
        request=request,
        traced=trace_attribution,
        plan=plan,
        batches=batches,
        schemas=schemas,
        finish=partial(finish, explanation),
        arguments={
            "prompts": request.recorded_prompts,
            "images": request.recorded_images,
            "lens": recorded_lens(chosen_lens),
            "edits": recorded_edits(chosen_edits),
        },
        about=lens_provenance(chosen_lens) | edits_provenance(chosen_edits),
        local={"weight": None if request.remote else target_weight(model, anatomy)},
        context=context,
    )


def refuse_additions(request: Request, layer: int) -> None:
    """Raise a LensError for image tokens to whose stream the model adds more than its blocks do.

    Args:
        request: What is asked for.
        layer: After which the logit is explained.
    """
    added = layers_with_additions(request.model) if request.places else []
    if not added or layer < added[0]:
        return
    for number, (places, positions) in enumerate(
        zip(request.places, request.positions, strict=True)
    ):
        here = [position for position in positions if places[position].image >= 0]
        if here:
            raise LensError(
                f"position {here[0]} of prompt {number} is a token of an image, to whose stream "
                f"this model adds what its vision tower has seen after "
                f"{layers_in_words(tuple(added))}. No block writes that, so what the parts of the "
                "model add does not sum to the logit there. Explain tokens of text: "
                'positions="text", or -1.'
            )


@dataclass(frozen=True)
class Explanation:
    """What is known of an attribution before it runs.

    Attributes:
        blocks: All blocks up to the one whose logit is explained.
        unit: What a part is.
        layer: Whose logit is explained.
        held_against: What the targets are held against.
        longest: How many tokens the longest prompt has.
        token_prompts: The prompt of each token, all batches end to end.
        strict: Whether a certificate that failed is an error.
        edited: The layers in which edits are a part.
    """

    blocks: list[Block]
    unit: str
    layer: int
    held_against: Contrast
    longest: int
    token_prompts: list[int]
    strict: bool
    edited: list[int]


def finish(
    explanation: Explanation, run: RecipeRun[Attribution], batches: list[Arrays]
) -> Attribution:
    """Make the result of a run out of the arrays of its batches.

    Raises:
        LensError: the certificate failed, and the run is strict.
    """
    request, unit, held_against = run.request, explanation.unit, explanation.held_against
    numbers = in_prompt_order(explanation, batches)
    n_targets = len(request.target_ids[0])
    check_mean(numbers["logit"], n_targets, held_against)
    values, logit, capped_logit = (
        against_contrast(numbers[array_name], n_targets, held_against)
        for array_name in ("values", "logit", "capped_logit")
    )
    total = values.sum(0, dtype=np.float64)
    error = np.abs(total - logit)
    certificate = replace(
        certificate_of(
            numbers, request.model, run.plan.links, request.anatomy, image_tokens(request)
        ),
        max_sum_error=largest_relative(error, values, logit, has_lens="lens" in run.about),
    )
    if explanation.strict:
        certificate.check(partial(cause_in_quantisation, request.model))
    shown_ids = {token for token_ids in request.token_ids for token in token_ids}
    for columns in held_against.columns(request.target_ids):
        shown_ids.update(columns)
    texts = token_texts(request.tokenizer, shown_ids)
    sources = []
    if unit == "token":
        sources = [[texts[token] for token in token_ids] for token_ids in request.token_ids]
    return Attribution(
        unit=unit,
        at_layer=explanation.layer,
        parts=name_parts(explanation.blocks, unit, explanation.longest, explanation.edited),
        tokens=packed_tokens(request, texts),
        prompts=shown_prompts(request.tokenizer, request.token_ids, request.places),
        sources=sources,
        values=values.astype(np.float32),
        logit=logit.astype(np.float32),
        capped_logit=capped_logit.astype(np.float32),
        total=total.astype(np.float32),
        error=error.astype(np.float32),
        target_ids=np.array(request.target_ids, dtype=np.int32),
        against_ids=np.array(held_against.ids, dtype=np.int32),
        against=held_against.kind,
        texts=texts,
        certificate=certificate,
        provenance=run.provenance() | {"dtype": certificate.dtype},
        inputs=request.inputs,
        places=request.places,
    )


ATTRIBUTION_TOKEN_AXES = {"link": 1}  # of all other arrays it is the first


def in_prompt_order(explanation: Explanation, batches: list[Arrays]) -> Arrays:
    """Join the arrays of all batches, tokens by prompt.

    What the head adds by itself (its bias) becomes the last part.
    """
    order = np.argsort(explanation.token_prompts, kind="stable")
    values = []
    for batch in batches:
        batch_values = batch.pop("values")
        values.append(
            widen_sources(
                batch_values,
                explanation.blocks,
                explanation.unit,
                explanation.longest,
                explanation.edited,
            )
        )
    joined = {}
    for array_name in batches[0]:
        axis = ATTRIBUTION_TOKEN_AXES.get(array_name, 0)
        arrays = [batch[array_name] for batch in batches]
        joined[array_name] = np.concatenate(arrays, axis).take(order, axis)
    parts = np.concatenate(values, 1).take(order, 1)
    joined["values"] = np.concatenate([parts, joined.pop("constant")[None]])
    return joined


def against_contrast(array: np.ndarray, n_targets: int, held_against: Contrast) -> np.ndarray:
    """Return the targets' numbers minus those of what the targets are held against.

    The last axis of `array` holds the targets first, and then one token for each target, or the
    mean over the vocabulary.
    """
    if not held_against.kind:
        return array[..., :n_targets]
    return array[..., :n_targets] - array[..., n_targets:]


def check_mean(logits: np.ndarray, n_targets: int, held_against: Contrast) -> None:
    """Check that the mean over the vocabulary is a number.

    Args:
        logits: `[token, column]`, the mean last.
        n_targets: How many columns are targets.
        held_against: What the targets are held against.

    Raises:
        LensError: some tokens have a logit of −∞, as a head gives to tokens that it never says.
    """
    is_mean_missing = held_against.has_mean and np.isneginf(logits[..., n_targets:]).any()
    if is_mean_missing and np.isfinite(logits[..., :n_targets]).all():
        raise LensError(
            "this model gives some tokens a logit of −∞, so the mean over the vocabulary is −∞, "
            'too, and nothing can be held against it: leave against="mean" out, or name a token.'
        )


def largest_relative(
    error: np.ndarray, values: np.ndarray, logit: np.ndarray, *, has_lens: bool
) -> float:
    """Return the largest error of a sum, relative to its largest part or the logit.

    With a lens it is relative to the sum of all absolute values: a fitted map magnifies how the
    model rounds its stream, as it magnifies parts that cancel.
    """
    sizes = np.abs(values)
    largest = np.maximum(sizes.sum(0) if has_lens else sizes.max(0), np.abs(logit))
    return float((error / np.maximum(largest, 1e-30)).max())


# -- what can be explained ---------------------------------------------


def layer_index(at_layer: Any, n_layers: int) -> int:
    """Return a layer, which may be counted from the end.

    Raises:
        ValueError: it is no whole number, or out of range.
    """
    if isinstance(at_layer, bool) or not isinstance(at_layer, int | np.integer):
        raise ValueError(
            f"at_layer={at_layer!r} must be one layer, a whole number: 0 to {n_layers - 1}, or "
            "None."
        )
    if not -n_layers <= at_layer < n_layers:
        raise ValueError(
            f"{argument('at_layer', at_layer)} is out of range: this model has layers 0 to "
            f"{n_layers - 1}."
        )
    return int(at_layer) % n_layers


def explained_transport(
    lens: Lens | None, at_layer: Any, layer: int, anatomy: Anatomy
) -> Transport:
    """Return the map from the stream that is explained to the one before the final norm.

    Raises:
        ValueError: a lens without a layer, or a layer for which it has no transport.
    """
    if lens is None:
        return IDENTITY
    if at_layer is None:
        raise ValueError(
            f"a {lens.name} has another logit at each layer: say which is to be explained, by "
            f"{advised('at_layer', lens.layers[-1])} for one. Without a lens, the model's own is."
        )
    return transport_of_layer(layer, lens, anatomy)


def readable_blocks(blocks: list[Block], unit: str, family: str, remote: bool) -> list[Block]:
    """Return the blocks, if their parts can be told apart.

    Raises:
        LensError: they cannot; the message says which units work.
    """
    for layer, block in enumerate(blocks):
        refuse_unreadable(block, layer, family)
    if unit in ("layer", "component"):
        return blocks
    attending = [
        (layer, block) for layer, block in enumerate(blocks) if "attn_out" in block.components
    ]
    if not attending:
        raise LensError(
            f"{family} has no attention up to layer {len(blocks) - 1}, so no heads: "
            f"{advised('unit', 'layer')} and {advised('unit', 'component')} work."
        )
    for layer, block in attending:
        heads = heads_of(block, layer, family)
        if unit == "token" and heads.sources is None:
            reason = (
                f"the attention weights and values of layer {layer} are not given by any module"
            )
            if remote:
                reason = (
                    "attention weights cannot be read there, unless the server already runs eager "
                    "attention"
                )
            raise LensError(
                f"{family}: {advised('unit', 'token')} is not possible: {reason}. "
                f"{advised('unit', 'head')} works."
            )
    return blocks


@contextlib.contextmanager
def eager_attention(model: Envoy) -> Iterator[None]:
    """Let attention show its weights for a while; it is switched back whatever happens.

    Not by `set_attn_implementation`, which leaves out older families that ask their config all the
    same.
    """
    before = attention_configs(model._module)
    try:
        try:
            for config, _ in before:
                config._attn_implementation_internal = "eager"
            yield
        finally:
            switch_attention(before)
    finally:
        switch_attention(before)  # again, should Ctrl-C have come before the first time


def switch_attention(choices: list[AttentionConfig]) -> None:
    """Let each config choose the implementation of attention that stands beside it."""
    for config, implementation in choices:
        config._attn_implementation_internal = implementation


def target_weight(model: Envoy, anatomy: Anatomy) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a plain local unembedding, and None for any other.

    Only the targets' rows of it are read.
    """
    head = model.get(anatomy.unembed)._module
    is_plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter
    if not is_plain or head.weight.device.type == "meta":
        return None
    is_hooked = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook")
    # Where columns are cut off, the mean over the vocabulary is not that of all rows.
    is_cut = any(isinstance(operation, KeepColumns) for operation in anatomy.tail)
    return None if is_hooked or is_cut else (head.weight, head.bias)
