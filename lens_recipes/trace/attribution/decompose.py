"""From the parts of a stream to their shares of some tokens' logits, where the model is. Imports only torch.

The tail of the model (`Anatomy.tail`) is taken in three: up to the unembedding, with its norms frozen; the unembedding
and what is linear after it; and the softcap, which is applied to the sum alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import (
    apply_affine,
    bfloat16_scale,
    freeze_norm,
    head_writes,
    to_float32,
)
from lens_recipes.trace.operations import HeadOperations, Operation, first_of, replay, slices
from lens_recipes.trace.readout import logit_errors

if TYPE_CHECKING:
    from collections.abc import Iterator


def decompose(
    model: Any,
    tail: HeadOperations,
    weight: tuple[Tensor, Tensor | None] | None,
    x: Float[Tensor, "token d_model"],
    groups: list[tuple],
    vectors: list[Any],
    ids: Int[Tensor, "token column"],
    mean: bool,
    max_bytes: int,
) -> dict[str, Tensor]:
    """The share of every part in the logits of some ids, and those logits themselves.

    Args:
        tail: Steps before the unembedding, the unembedding and what is linear after it, and the softcap.
        weight: Of a plain local unembedding, of which only the rows of `ids` are used; None to call the module.
        x: The stream that is explained.
        groups: Parts in order: ("one", later, slot); ("heads", later, slot, columns, chain); ("sources", later, slot,
            columns, chain, slot of the weights, slot of the values, value columns, values' path and width, row of each
            token). `later` is what is done to the stream after this part was added.
        vectors: What `collect` read.
        ids: The ids asked for; with `mean`, a last column follows for the mean over the vocabulary.
        max_bytes: Bound on what is held at once besides.

    Returns:
        `values` [part, token, column]; `constant`, `logit`, `capped_logit` [token, column].
    """
    before, linear, cap = tail
    columns = ids.shape[-1] if weight is not None else _vocab(model, before, linear, x)
    rows_at_once = max(1, min(max_bytes // (12 * columns), max_bytes // (16 * x.shape[-1])))
    widest = max(len(group[3]) + 1 if group[0] == "heads" else 1 for group in groups)
    by_token = any(group[0] == "sources" for group in groups)
    average = _average(weight) if mean and weight is not None else None
    found: dict[str, list[Tensor]] = {"values": [], "constant": [], "logit": [], "capped_logit": []}
    with torch.no_grad():
        for here in slices(len(x), 1 if by_token else rows_at_once // widest):
            frozen, normed = freeze_norm(model, before, x[here])
            want = ids[here].to(normed.device)
            scores = partial(
                _scores, model, linear, _rows_of(weight, want, average), want, mean, normed.dtype
            )
            constant = scores(apply_affine(model, frozen, x.new_zeros(1, *x[here].shape)))
            at_once, size = max(1, rows_at_once // (here.stop - here.start)), bfloat16_scale(x)
            values = [
                (scores(apply_affine(model, frozen, replay(None, later, chunk) * size)) - constant)
                / size
                for kind, later, *group in groups
                for rows in _rows(model, kind, group, vectors, here, at_once)
                for chunk in rows.split(at_once)
            ]
            logit = scores(normed[None])[0]
            for name, value in (
                ("values", torch.cat(values)), ("constant", constant[0]),
                ("logit", logit), ("capped_logit", _capped(model, linear, cap, normed, want, mean, logit)),
            ):  # fmt: skip
                found[name].append(to_float32(value).cpu())
    return {name: torch.cat(parts, 1 if name == "values" else 0) for name, parts in found.items()}


def _vocab(model: Any, before: list[Operation], linear: list[Operation], x: Tensor) -> int:
    return replay(model, linear, replay(model, before, x[:1].unsqueeze(0))).shape[-1]


def _average(weight: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """The mean row of an unembedding, and its mean bias."""
    matrix, bias = weight
    row = matrix.mean(0, dtype=torch.promote_types(matrix.dtype, torch.float32))
    return row, to_float32(bias).mean() if bias is not None else row.new_zeros(())


def _rows_of(
    weight: tuple[Tensor, Tensor | None] | None,
    ids: Int[Tensor, "token column"],
    average: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor] | None:
    """The rows of a plain unembedding that are asked for, `[token, column, d_model]`, and their biases."""
    if weight is None:
        return None
    matrix, bias = weight
    wanted = to_float32(matrix[ids])
    added = to_float32(bias[ids]) if bias is not None else wanted.new_zeros(ids.shape)
    if average is not None:
        wanted = torch.cat([wanted, average[0].expand(len(ids), 1, -1)], 1)
        added = torch.cat([added, average[1].expand(len(ids), 1)], 1)
    return wanted, added


def _scores(
    model: Any,
    linear: list[Operation],
    target_rows: tuple[Tensor, Tensor] | None,
    ids: Int[Tensor, "token column"],
    mean: bool,
    dtype: torch.dtype,
    rows: Float[Tensor, "part token d_model"],
) -> Float[Tensor, "part token column"]:
    """The logits of `ids` (and their mean over the vocabulary) that the unembedding, which takes `dtype`, gives."""
    if target_rows is not None:
        wanted, added = target_rows
        scores = torch.einsum("ptd,tcd->ptc", to_float32(rows).to(wanted.device), wanted) + added
        return replay(None, linear[1:], scores)
    logits = replay(model, linear, rows.to(dtype).flatten(0, 1).unsqueeze(0))[0]
    return _pick(to_float32(logits).unflatten(0, rows.shape[:2]).to(ids.device), ids, mean)


def _pick(
    logits: Float[Tensor, "*part token vocab"], ids: Int[Tensor, "token column"], mean: bool
) -> Tensor:
    index = ids.expand(*logits.shape[:-1], ids.shape[-1])
    picked = logits.gather(-1, index)
    return torch.cat([picked, logits.mean(-1, keepdim=True)], -1) if mean else picked


def _capped(
    model: Any,
    linear: list[Operation],
    cap: list[Operation],
    normed: Tensor,
    ids: Tensor,
    mean: bool,
    logit: Tensor,
) -> Tensor:
    """The logits after the softcap; only the mean of those needs all of them."""
    if not cap or not mean:
        return replay(None, cap, logit)
    logits = replay(model, [*linear, *cap], normed.unsqueeze(0))[0]
    return _pick(to_float32(logits), ids.to(logits.device), mean)


# -- the rows of a group of parts --------------------------------------


def _rows(
    model: Any, kind: str, group: list, vectors: list[Any], here: slice, at_once: int
) -> Iterator[Tensor]:
    """The vectors `[part, token, d_model]` of one group, in pieces."""
    if kind == "one":
        yield to_float32(vectors[group[0]][here]).unsqueeze(0)
    elif kind == "heads":
        slot, columns, chain = group
        heads, bias = head_writes(model, columns, chain, vectors[slot], here)
        yield heads
        yield bias.unsqueeze(0)
    else:
        yield from _source_rows(model, group, vectors, here, at_once)


def _source_rows(
    model: Any, group: list, vectors: list[Any], here: slice, at_once: int
) -> Iterator[Tensor]:
    """What one token's heads write for each token that they read: weight × value × output projection.

    For each head its sources, then its share that comes from the values' bias; at last the projection's own bias.
    """
    slot, columns, chain, weights, values, value_columns, (path, width), row_of = group
    x = vectors[slot][here]
    attention = vectors[weights][here][0].to(x.device)  # [head, source]
    value = vectors[values][row_of[here.start]].to(x.device)  # [source, inner]
    bias, size = _bias_of(model, path, width, value), bfloat16_scale(x)
    frozen = freeze_norm(model, chain, x)[0]
    nothing = to_float32(apply_affine(model, frozen, x.new_zeros(1, *x.shape)))
    for head, own in enumerate(columns):
        base = bias[value_columns[head]]
        given = torch.cat([value[:, value_columns[head]] - base, base[None]])
        weight = torch.cat([attention[head], attention[head].sum()[None]])
        alone = x.new_zeros(len(given), *x.shape)
        alone[:, 0, own] = (to_float32(weight)[:, None] * to_float32(given) * size).to(x.dtype)
        for chunk in alone.split(at_once):
            yield (to_float32(apply_affine(model, frozen, chunk)) - nothing) / size
    yield nothing


def _bias_of(model: Any, path: str, width: int, like: Tensor) -> Float[Tensor, " inner"]:
    """What a module gives for a zero vector."""
    return first_of(model.get(path)(like.new_zeros(1, 1, width))).reshape(-1).to(like.device)


def certificate_arrays(
    model: Any,
    tail: list[Operation],
    streams: tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]],
    final: Float[Tensor, "batch position vocab"],
    where: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    capped: Float[Tensor, "token column"],
    ids: Int[Tensor, "token column"],
    mean: bool,
    max_bytes: int,
) -> dict[str, Tensor]:
    """The certificate's numbers `[token]`: the last layer's lens against the model's own logits.

    `streams` are the last one and the one that is explained, whose lens must have the logits `capped`: those were made
    of a few rows of the unembedding, and these are made by calling it.
    """
    last, explained = streams
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for here in slices(len(last), max_bytes // (40 * final.shape[-1])):
            lens = to_float32(replay(model, tail, last[here].unsqueeze(0))[0]).cpu()
            own = to_float32(final[where[0][here], where[1][here]]).cpu()
            mine, theirs = lens.log_softmax(-1), own.log_softmax(-1)
            terms = torch.where(theirs.exp() > 0, theirs.exp() * (theirs - mine), 0.0)
            called = (
                own
                if explained is last
                else to_float32(replay(model, tail, explained[here].unsqueeze(0))[0]).cpu()
            )
            gap = (_pick(called, ids[here].cpu(), mean) - capped[here]).abs().amax(-1)
            numbers = logit_errors(lens, own, last.dtype)
            numbers |= {
                "error": torch.maximum(numbers["error"], gap),
                "kl_last": terms.sum(-1).clamp(min=0),
                "agrees": lens.argmax(-1) == own.argmax(-1),
            }
            parts.append(numbers)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
