"""From the parts of a stream to their shares of some tokens' logits, where the model is. Imports only torch.

The tail of the model (`Anatomy.tail`) is taken in three: up to the unembedding, with its norms frozen; the unembedding
and what is linear after it; and the softcap, which is applied to the sum alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .frozen import accepted, freeze, head_writes, through
from .readout import replay

if TYPE_CHECKING:
    from collections.abc import Iterator


def decompose(
    model: Any,
    tail: tuple[list[tuple], list[tuple], list[tuple]],
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
        `values` [part, token, column]; `constant`, `logit`, `capped` [token, column].
    """
    before, linear, cap = tail
    vocab_rows = max(1, max_bytes // (12 * (ids.shape[-1] if weight is not None else _vocab(model, linear, x, before))))
    rows_at_once = max(1, min(vocab_rows, max_bytes // (16 * x.shape[-1])))
    n_tokens = len(x)
    step = 1 if any(group[0] == "sources" for group in groups) else max(1, min(n_tokens, rows_at_once))
    found: dict[str, list[Tensor]] = {"values": [], "constant": [], "logit": [], "capped": []}
    with torch.no_grad():
        for start in range(0, n_tokens, step):
            here = slice(start, min(start + step, n_tokens))
            frozen, normed = freeze(model, before, x[here])
            want = ids[here].to(normed.device)
            constant = _scores(model, frozen, linear, weight, x.new_zeros(1, *x[here].shape), want, mean)
            at_once = max(1, rows_at_once // (here.stop - here.start))
            values = [
                _scores(model, frozen, linear, weight, replay(None, later, chunk), want, mean) - constant
                for kind, later, *group in groups
                for rows in _rows(model, kind, group, vectors, here, at_once)
                for chunk in rows.split(at_once)
            ]
            logit = _scores(model, [], linear, weight, normed[None], want, mean)[0]
            for name, value in (
                ("values", torch.cat(values)), ("constant", constant[0]),
                ("logit", logit), ("capped", _capped(model, linear, cap, normed, want, mean, logit)),
            ):  # fmt: skip
                found[name].append(value.float().cpu())
    return {name: torch.cat(parts, 1 if name == "values" else 0) for name, parts in found.items()}


def _vocab(model: Any, linear: list[tuple], x: Tensor, before: list[tuple]) -> int:
    return replay(model, linear, replay(model, before, x[:1].unsqueeze(0))).shape[-1]


def _scores(
    model: Any,
    frozen: list[tuple],
    linear: list[tuple],
    weight: tuple[Tensor, Tensor | None] | None,
    rows: Float[Tensor, "part token d_model"],
    ids: Int[Tensor, "token column"],
    mean: bool,
) -> Float[Tensor, "part token column"]:
    """The logits of `ids` (and their mean over the vocabulary) that the frozen tail gives to some vectors."""
    rows = through(model, frozen, rows)
    if weight is None:
        logits = replay(model, linear, accepted(model.get(linear[0][1]), rows.flatten(0, 1).unsqueeze(0)))[0]
        return _pick(logits.float().unflatten(0, rows.shape[:2]).to(ids.device), ids, mean)
    matrix, bias = weight
    wanted = matrix[ids].float()
    added = bias[ids].float() if bias is not None else wanted.new_zeros(ids.shape)
    if mean:
        wanted = torch.cat([wanted, matrix.float().mean(0).expand(len(ids), 1, -1)], 1)
        last = bias.float().mean() if bias is not None else added.new_zeros(())
        added = torch.cat([added, last.expand(len(ids), 1)], 1)
    scores = torch.einsum("ptd,tcd->ptc", rows.float().to(wanted.device), wanted) + added
    return replay(None, linear[1:], scores)


def _pick(logits: Float[Tensor, "*part token vocab"], ids: Int[Tensor, "token column"], mean: bool) -> Tensor:
    index = ids.expand(*logits.shape[:-1], ids.shape[-1])
    picked = logits.gather(-1, index)
    return torch.cat([picked, logits.mean(-1, keepdim=True)], -1) if mean else picked


def _capped(
    model: Any, linear: list[tuple], cap: list[tuple], normed: Tensor, ids: Tensor, mean: bool, logit: Tensor
) -> Tensor:
    """The logits after the softcap; only the mean of those needs all of them."""
    if not cap or not mean:
        return replay(None, cap, logit)
    logits = replay(model, [*linear, *cap], normed.unsqueeze(0))[0]
    return _pick(logits.float(), ids.to(logits.device), mean)


# -- the rows of a group of parts ----------------------------------------------------------------------------


def _rows(model: Any, kind: str, group: list, vectors: list[Any], here: slice, at_once: int) -> Iterator[Tensor]:
    """The vectors `[part, token, d_model]` of one group, in pieces."""
    if kind == "one":
        yield vectors[group[0]][here].float().unsqueeze(0)
    elif kind == "heads":
        slot, columns, chain = group
        heads, bias, _ = head_writes(model, columns, chain, vectors[slot], here)
        yield heads
        yield bias.unsqueeze(0)
    else:
        yield from _source_rows(model, group, vectors, here, at_once)


def _source_rows(model: Any, group: list, vectors: list[Any], here: slice, at_once: int) -> Iterator[Tensor]:
    """What one token's heads write for each token that they read: weight × value × output projection.

    For each head its sources, then its share that comes from the values' bias; at last the projection's own bias.
    """
    slot, columns, chain, weights, values, value_columns, (path, width), row_of = group
    x = vectors[slot][here]
    attention = vectors[weights][here][0].to(x.device)  # [head, source]
    value = vectors[values][row_of[here.start]].to(x.device)  # [source, inner]
    zero = first_value(model, path, width, value)
    frozen, _ = freeze(model, chain, x)
    nothing = through(model, frozen, x.new_zeros(1, *x.shape)).float()
    for head, own in enumerate(columns):
        base = zero[value_columns[head]]
        given = torch.cat([value[:, value_columns[head]] - base, base[None]])
        weight = torch.cat([attention[head], attention[head].sum()[None]])
        alone = x.new_zeros(len(given), *x.shape)
        alone[:, 0, own] = (weight[:, None] * given).to(x.dtype)
        for chunk in alone.split(at_once):
            yield through(model, frozen, chunk).float() - nothing
    yield nothing


def first_value(model: Any, path: str, width: int, like: Tensor) -> Float[Tensor, " inner"]:
    """What the module of the values gives for a zero vector: their bias."""
    zero = like.new_zeros(1, 1, width)
    out = model.get(path)(zero)
    return (out[0] if isinstance(out, (tuple, list)) else out).reshape(-1).to(like.device)


def agreement(lens: Float[Tensor, "token vocab"], final: Float[Tensor, "token vocab"]) -> dict[str, Tensor]:
    """The certificate's numbers `[token]`: the lens's logits against the model's own."""
    lens, final = lens.float().cpu(), final.float().cpu()
    gap = torch.where(lens == final, 0.0, (lens - final).abs())
    mine, theirs = lens.log_softmax(-1), final.log_softmax(-1)
    terms = torch.where(theirs.exp() > 0, theirs.exp() * (theirs - mine), 0.0)
    return {
        "error": gap.amax(-1),
        "scale": final.masked_fill(final.isinf(), 0.0).abs().amax(-1),
        "kl_last": terms.sum(-1).clamp(min=0),
        "agrees": lens.argmax(-1) == final.argmax(-1),
    }
