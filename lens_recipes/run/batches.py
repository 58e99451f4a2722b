"""Cut a request into batches in which each prompt gives the same numbers as alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor

from lens_recipes.models.handle import (
    configured_positions,
    exclusive,
    running_dtype,
    text_config,
)
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import next_ids
from lens_recipes.trace.batch import LensBatch, TokenPlaces
from lens_recipes.trace.edits.plan import BatchEdits
from lens_recipes.trace.kernels import FORWARD_TOKENS
from lens_recipes.trace.operations import model_logits

MAX_TOKENS = FORWARD_TOKENS  # in one batch, padding included
HALF_PRECISION_TOLERANCE, TOLERANCE = 3e-2, 1e-4  # relative: what padding may change


class PaddedPrompts(NamedTuple):
    """Some prompts side by side, padded on the left.

    Attributes:
        ids, mask: `[row, column]`.
        padding: How many columns are padding before each prompt, `[row]`.
    """

    ids: Int[Tensor, "row column"]
    mask: Int[Tensor, "row column"]
    padding: list[int]


class PromptBatches(NamedTuple):
    """The batches of a request.

    Attributes:
        batches: Each one forward pass.
        token_prompts: The prompt of each token that is read, all batches end to end.
    """

    batches: list[LensBatch]
    token_prompts: list[int]


def make_batches(
    request: Request,
    max_bytes: int,
    *,
    requested_ids: list[list[int]] | None = None,
    may_pad: bool = True,
    edits: Callable[[list[int], list[int]], BatchEdits] | None = None,
) -> PromptBatches:
    """Return batches of similar length, each under a token budget and a budget for its logits.

    Prompts of different lengths share a batch where left padding changes nothing for this model.
    Otherwise each batch has one length; also on a server, where padding cannot be tried first.

    Args:
        request: What is asked for.
        max_bytes: Bound on the logits of one batch.
        requested_ids: The ids that are followed for each prompt, `[prompt][requested]`; None for
            the targets.
        may_pad: False for batches of one length.
        edits: From the prompts of a batch, and the padding before each, to what is done to it; None
            for nothing.
    """
    model, anatomy = request.model, request.anatomy
    if requested_ids is None:
        requested_ids = request.target_ids
    with exclusive(model):
        pads = may_pad and not request.remote and can_pad(request)
    bounds = rope_bounds(text_config(model))
    n_even = length_of_even_rotations(text_config(model))
    # Prompts of one bucket may share a batch: one length, or where padding is harmless one side of
    # each bound.
    buckets = []
    for number, ids in enumerate(request.token_ids):
        if given_beside_ids(request, number):
            buckets.append(-1 - number)  # with what it is given beside its ids, it runs by itself
        elif pads and len(ids) <= n_even:
            buckets.append(sum(len(ids) > bound for bound in bounds))
        else:
            buckets.append(len(bounds) + 1 + len(ids))  # its own length: no other sort of bucket
    lengths = [len(ids) for ids in request.token_ids]
    max_logits = max_bytes // (4 * anatomy.vocab_size)
    batches: list[LensBatch] = []
    token_prompts: list[int] = []
    for group in group_prompts(lengths, request.positions, buckets, max_logits):
        token_ids = [request.token_ids[prompt] for prompt in group]
        positions = [request.positions[prompt] for prompt in group]
        requested = [requested_ids[prompt] for prompt in group]
        batch = one_batch(model, anatomy, token_ids, positions, requested)
        if edits is not None:
            width = max(map(len, token_ids))
            padding = [width - len(prompt_ids) for prompt_ids in token_ids]
            batch = batch._replace(edits=edits(group, padding))
        batch = with_inputs(batch, given_beside_ids(request, group[0]))
        batches.append(batch)
        for prompt in group:
            token_prompts += [prompt] * len(request.positions[prompt])
    return PromptBatches(batches, token_prompts)


def group_prompts(
    lengths: list[int], positions: list[list[int]], buckets: list[int], max_logits: int
) -> Iterator[list[int]]:
    """Yield the prompt numbers of each batch, the shortest first.

    A prompt that is over a budget by itself is a batch by itself.

    Args:
        lengths: Of each prompt.
        positions: Which of its tokens are read.
        buckets: Prompts of different buckets never share a batch.
        max_logits: How many positions the model's head may run on in one batch.
    """
    group: list[int] = []
    logits_per_row = 0
    for prompt in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        length = lengths[prompt]
        own_logits = length - min(positions[prompt])
        with_prompt = max(logits_per_row, own_logits)
        n_rows = len(group) + 1
        is_full = n_rows * length > MAX_TOKENS or n_rows * with_prompt > max_logits
        if group and (is_full or buckets[prompt] != buckets[group[-1]]):
            yield group
            group, with_prompt = [], own_logits
        group, logits_per_row = [*group, prompt], with_prompt
    yield group


def left_padded(prompts: list[list[int]]) -> PaddedPrompts:
    """Put some prompts side by side, padded on the left."""
    width = max(map(len, prompts))
    padding = [width - len(token_ids) for token_ids in prompts]
    rows, masks = [], []
    for token_ids, n_padding in zip(prompts, padding, strict=True):
        rows.append([0] * n_padding + token_ids)
        masks.append([0] * n_padding + [1] * len(token_ids))
    # On the CPU, also where torch's default device is another.
    return PaddedPrompts(
        torch.tensor(rows, device="cpu"), torch.tensor(masks, device="cpu"), padding
    )


def one_batch(
    model: Envoy,
    anatomy: Anatomy,
    token_ids: list[list[int]],
    positions: list[list[int]],
    requested_ids: list[list[int]],
) -> LensBatch:
    """Return some prompts as one forward pass.

    Args:
        model: The nnsight model.
        anatomy: Its anatomy, which says what its forward takes.
        token_ids: Of each row.
        positions: Which are read of each row.
        requested_ids: Which ids are followed at all tokens of a row; the next id is added.
    """
    padded = left_padded(token_ids)
    rows, columns, requested = [], [], []
    for row, prompt_ids in enumerate(token_ids):
        following = next_ids(prompt_ids, anatomy.vocab_size)
        for position in positions[row]:
            rows.append(row)
            columns.append(padded.padding[row] + position)
            requested.append([*requested_ids[row], following[position]])
    places = TokenPlaces(
        len(token_ids), torch.tensor(rows, device="cpu"), torch.tensor(columns, device="cpu")
    )
    inputs: dict[str, Any] = {"input_ids": padded.ids}
    if any(padded.padding):
        inputs["attention_mask"] = padded.mask
    if "use_cache" in anatomy.forward_options:
        inputs["use_cache"] = False
    logit_columns = places.columns
    if "logits_to_keep" in anatomy.forward_options:
        inputs["logits_to_keep"], logit_columns = kept_logits(padded, places.columns)
    return LensBatch(
        inputs=inputs,
        places=places,
        logit_columns=logit_columns,
        requested_ids=torch.tensor(requested, device="cpu"),
        one_invoke_each=isinstance(model, TransformersModel),
    )


def given_beside_ids(request: Request, prompt: int) -> dict[str, Tensor]:
    """Return what the model is given beside a prompt's ids, which then runs by itself.

    That is token types and the like, `[1, position]`, and what its images are, in the model's own
    precision.
    """
    given = {name: torch.tensor([row]) for name, row in request.extra_inputs[prompt].items()}
    if not request.tensors:
        return given
    dtype = running_dtype(request.model)
    for name, value in request.tensors[prompt].items():
        given[name] = value.to(dtype) if value.is_floating_point() else value
    return given


def with_inputs(batch: LensBatch, given: dict[str, Tensor]) -> LensBatch:
    """Return a batch of one prompt with what the model is given beside its ids.

    It is then the model's only input: nnsight joins ids and masks of several invokes, and nothing
    else.
    """
    if not given:
        return batch
    return batch._replace(inputs={**batch.inputs, **given}, one_invoke_each=False)


def kept_logits(
    padded: PaddedPrompts, columns: Int[Tensor, " token"]
) -> tuple[int | Int[Tensor, " kept"], Int[Tensor, " token"]]:
    """Return which logits a model is asked for, and where among them each token is.

    They are the value of `logits_to_keep`.

    These are the last columns, from the first that is read; or the columns themselves, where they
    are few and far apart.
    """
    first = int(columns.min())
    n_last = padded.ids.shape[1] - first
    distinct = columns.unique()
    # nnsight does not pad beside a tensor.
    if len(distinct) * 2 < n_last and not any(padded.padding):
        return distinct, torch.searchsorted(distinct, columns)
    return n_last, columns - first


# -- padding -----------------------------------------------------------


def rope_bounds(config: Any) -> set[int]:
    """Return the lengths at which a model changes a whole batch's position encoding (longrope)."""
    bounds: set[int] = set()
    pending = [config.to_dict()] if hasattr(config, "to_dict") else []
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            elif key == "original_max_position_embeddings" and isinstance(value, int):
                bounds.add(value)
    return bounds


def length_of_even_rotations(config: Any) -> float:
    """Return the length up to which a position is encoded alike in prompts of any length.

    Beyond it dynamic rope encodes all positions of a batch for the longest prompt.
    """
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") == "dynamic":
        return configured_positions(config) or math.inf
    return math.inf


def can_pad(request: Request) -> bool:
    """Tell whether prompts have different lengths and may share a batch."""
    lengths = {len(ids) for ids in request.token_ids}
    return len(lengths) > 1 and padding_is_harmless(request)


def padding_is_harmless(request: Request) -> bool:
    """Tell whether a prompt padded on the left gives what it gives alone.

    Tried with a small run, again when the model was changed.

    Attention masks padding out; a recurrence that ignores the mask (RWKV, RecurrentGemma) reads it
    like text. A model of nnsight's that has no tokenizer gets no position ids and is never padded.
    """
    if not isinstance(request.model, TransformersModel) or request.tokenizer is None:
        return False
    known = request.known
    if known.pads_harmlessly is None:
        known.pads_harmlessly = try_padding(request.model, request.anatomy)
    return known.pads_harmlessly


def try_padding(model: Envoy, anatomy: Anatomy) -> bool:
    """Run five tokens beside nine, and alone, and compare their logits."""
    long, short = trial_prompts(anatomy)
    nothing: list[int] = []
    all_positions = [list(range(9)), list(range(5))]
    padded = one_batch(model, anatomy, [long, short], all_positions, [nothing, nothing])
    alone = one_batch(model, anatomy, [short], [all_positions[1]], [nothing])
    with torch.no_grad():
        try:
            output = model.trace(**padded.inputs, trace=False)
            actual = model_logits(output)[1, -5:].float()
        except Exception:  # a model that cannot take a mask or position ids is not to be padded
            return False
        expected = model_logits(model.trace(**alone.inputs, trace=False))[0].float()
    return same_logits(model, actual, expected)


def trial_prompts(anatomy: Anatomy) -> tuple[list[int], list[int]]:
    """Return the ids of nine tokens, and of five that stand beside them with padding."""
    long = (list(anatomy.plain_ids) * 9)[:9]
    return long, long[2:7]


def same_logits(model: Envoy, actual: Tensor, expected: Tensor) -> bool:
    """Tell whether logits are no further apart than rounding takes them."""
    is_half = running_dtype(model) in (torch.bfloat16, torch.float16)
    tolerance = HALF_PRECISION_TOLERANCE if is_half else TOLERANCE
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())
