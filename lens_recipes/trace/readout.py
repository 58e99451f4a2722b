"""Vectors become numbers: final norm, unembedding and all metrics, in tiles and in chunks of bounded memory.

Everything here takes and gives plain tensors, names no other file of this package and imports only torch: a traced
block runs it where the model is, also on a server that does not have this package.

On a small model the passes over the logits cost as much as the product that makes them, unless they run on a tile
that is still in the processor's cache. So the product is made in tiles of columns (where the unembedding is an
ordinary local linear layer), each tile is read for everything at once, and the top k come from the blocks of 64
columns with the largest maxima.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.buffers import fill_buffers, max_tracked_tokens, trim_buffers
from lens_recipes.trace.lens_head import COPIES, Tiles, tile_width, vocabulary_tiles, whole_tiles
from lens_recipes.trace.operations import slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BLOCK = 64  # columns that share a maximum

ROWS = 640  # rows at a time: a tile of them (2.6 MB) stays in cache


# -- logits ─► numbers ---------------------------------------------


def readout(
    streams: list[Any],
    reads: list[tuple[int, bool]],
    to_logits: Callable[[Tensor, bool], Tiles],
    final_logits: Float[Tensor, "batch position vocab"],
    where: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    wanted: Int[Tensor, "token want"],
    *,
    n_sites: int,
    top_k: int,
    track: str | int | None,
    max_tracked: int,
    max_bytes: int,
    copies: int = COPIES,
) -> dict[str, Tensor]:
    """Everything a lens says about some tokens, as small arrays on the CPU.

    Args:
        streams: What was read, each `[token, d_model]`, or a function that makes the rows of a slice of the tokens.
        reads: (index into `streams`, whether the norm is applied) of every site, and last of all the certificate's
            read: the last layer through the norm. Only the first `n_sites` are given back as sites.
        to_logits: (rows, norm) ─► float32 logits in tiles, as `unembed` does.
        final_logits: What the model itself said.
        where: (row, position) of each token in `final_logits`.
        wanted: Token ids whose log-probability and rank are asked for at every site of a token; −1 for none.
            The model's own answer is added as a last column.
        track: "top1", a number of the final layer's top tokens, or None.
        copies: How many arrays as large as its logits `to_logits` has at once.

    Returns:
        `top_ids`, `top_logprobs` [site, token, k]; `entropy`, `kl`, `logsumexp` [site, token];
        `wanted_logprobs`, `wanted_ranks` [site, token, want + 1]; `tracked_ids` [token, m], `tracked_logprobs`
        [site, token, m]; `final_ids`, `final_logprob` [token]; and the certificate's `error`, `scale`, `eps`,
        `kl_last`, `agrees` [token]. Entropy and KL in nats, ranks from 0.
    """
    n_tokens, vocab = len(wanted), final_logits.shape[-1]
    rows, positions = where
    most = max(1, max_bytes // (vocab * 4 * copies))  # rows at a time that the budget allows
    step = min(most, ROWS) // (len(reads) + 1)  # tokens at a time, all their sites together
    width = min(most, len(reads))  # sites at a time
    tracked = max_tracked_tokens(track, n_sites, max_tracked)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for here in slices(n_tokens, step):
            part = _some_tokens(
                [stream(here) if callable(stream) else stream[here] for stream in streams], reads, to_logits,
                final_logits[rows[here], positions[here]], wanted[here],
                n_sites, top_k, track, max_tracked, width,
            )  # fmt: skip
            fill_buffers(found, part, here.start, n_tokens, tracked)
    return trim_buffers(found, n_tokens)


def _some_tokens(
    streams: list[Tensor],
    reads: list[tuple[int, bool]],
    to_logits: Callable[[Tensor, bool], Tiles],
    final: Float[Tensor, "token vocab"],
    wanted: Int[Tensor, "token want"],
    n_sites: int,
    top_k: int,
    track: str | int | None,
    max_tracked: int,
    width: int,
) -> dict[str, Tensor]:
    """The readout of a few tokens at all sites, `width` sites at a time."""

    def tiles_of(sites: list[int]) -> Tiles:
        rows = torch.cat([streams[reads[site][0]].to(device) for site in sites])
        return to_logits(rows, reads[sites[0]][1])

    device = streams[-1].device
    final = final.to(device).float()
    probs, own = _own_distribution(final)
    final_ids = final.argmax(-1, keepdim=True)
    wanted = torch.cat([wanted.to(device), final_ids], -1)
    chunks = _chunks(reads, width)
    found: list[dict[str, Tensor]] = []
    kept: list[Tensor] = []
    for sites in chunks:
        logits, tiles = tiles_of(sites)
        scan = _scan(logits, tiles, top_k, probs)
        logits, scan = (
            logits.unflatten(0, (len(sites), -1)),
            {k: v.unflatten(0, (len(sites), -1)) for k, v in scan.items()},
        )
        found.append(_numbers(logits, scan, own, wanted))
        kept = [*kept, logits] if width == len(reads) else []
    order = torch.tensor([site for sites in chunks for site in sites]).argsort()
    every = {name: torch.cat([numbers[name] for numbers in found])[order] for name in found[0]}
    ids = _tracked(every["top_ids"][:n_sites, :, 0], final, track, max_tracked)
    tracked = final.new_zeros(len(reads), *ids.shape)
    for i, sites in enumerate(chunks if ids.shape[-1] else []):
        if kept:
            logits = kept[i]
        else:  # not all sites fit at once: make their logits again, for these few tokens
            logits, tiles = tiles_of(sites)
            for _ in tiles:
                pass
            logits = logits.unflatten(0, (len(sites), -1))
        tracked[sites] = _at(logits, ids) - every["logsumexp"][sites][..., None]
    last = logits[-1]  # the certificate's read
    return {name: value[:n_sites] for name, value in every.items()} | {
        "tracked_ids": ids,
        "tracked_logprobs": tracked[:n_sites],
        "final_ids": final_ids[:, 0],
        "final_logprob": (final.gather(-1, final_ids)[:, 0] - own["logsumexp"]).float(),
        **logit_errors(last, final, streams[-1].dtype),
        "kl_last": every["kl"][-1],
        "agrees": every["top_ids"][-1, :, 0] == final_ids[:, 0],
    }


def logit_errors(
    lens: Float[Tensor, "token vocab"], final: Float[Tensor, "token vocab"], dtype: torch.dtype
) -> dict[str, Tensor]:
    """How far the last layer's lens is from the model's own logits ("error"), and how large those are ("scale").

    And how finely the stream is rounded there ("eps"), which a caller of a server cannot know.
    """
    gap = torch.where(lens == final, 0.0, (lens - final).abs())  # −inf beside −inf: no gap
    scale = final.masked_fill(final.isinf(), 0.0).abs().amax(-1)
    return {
        "error": gap.amax(-1),
        "scale": scale,
        "eps": torch.full_like(scale, torch.finfo(dtype).eps),
    }


def _chunks(reads: list[tuple[int, bool]], width: int) -> list[list[int]]:
    """Reads in groups of at most `width`, those without and those with the norm apart; the last read comes last."""
    groups = [
        [site for site, (_, norm) in enumerate(reads) if norm is flag] for flag in (False, True)
    ]
    return [group[i : i + width] for group in groups for i in range(0, len(group), width)]


def _own_distribution(final: Float[Tensor, "token vocab"]) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's own probabilities, and their scan: made like a lens's, so that equal logits have the KL 0."""
    probs = final.softmax(-1)
    return probs, _scan(*whole_tiles(final), 1, probs)


def _scan(
    logits: Float[Tensor, "row vocab"],
    tiles: Iterator[slice],
    top_k: int,
    probs: Float[Tensor, "token vocab"],
) -> dict[str, Tensor]:
    """log Σ exp, entropy, Σ p·logit and Σ p, and the top k; rows are sites × tokens, p the tokens' own `probs`."""
    found = _sums(logits, tiles, probs)
    undefined = found["entropy"].isnan() | found["cross"].isnan()
    if (
        undefined & ~found["logsumexp"].isnan()
    ).any():  # a token with no chance at all: 0 · −∞ is meant to be 0
        found = _sums(*whole_tiles(logits.clamp(min=-1e30)), probs)
    found["top"], found["top_ids"] = _top(logits, found.pop("blocks"), top_k)
    return found


def _sums(
    logits: Float[Tensor, "row vocab"], tiles: Iterator[slice], probs: Float[Tensor, "token vocab"]
) -> dict[str, Tensor]:
    """Everything that one look at each tile can tell.

    With y = x − m, m the maximum so far, each tile gives Σ exp y, Σ y · exp y, Σ p · y and Σ p. They are put together
    at the end in float64: log Σ exp = M + log s and the entropy = log s − q/s, for the last maximum M.
    """
    (n_rows, vocab), tokens = logits.shape, len(probs)
    blocks = logits.new_empty(n_rows, -(-vocab // BLOCK))
    room = logits.new_empty(
        2, n_rows, tile_width(logits)
    )  # used again for each tile: fresh memory costs page faults
    highest = logits.new_full((n_rows,), -1e30)
    exact = (
        torch.float32 if logits.device.type == "mps" else torch.float64
    )  # which Apple's GPUs do not have
    parts: list[tuple[Tensor, ...]] = []
    for here in tiles:
        x = logits[:, here]
        y, e = room[0, :, : x.shape[-1]], room[1, :, : x.shape[-1]]
        maxima = _block_maxima(x)
        blocks[:, here.start // BLOCK : here.start // BLOCK + maxima.shape[-1]] = maxima
        highest = torch.maximum(highest, maxima.amax(-1))
        torch.sub(x, highest[:, None], out=y)
        sum_e = torch.exp(y, out=e).sum(-1)
        sum_ey = e.mul_(y).sum(-1)
        p = probs[:, here]
        sum_py = (
            torch.mul(p, y.unflatten(0, (-1, tokens)), out=e.unflatten(0, (-1, tokens)))
            .sum(-1)
            .flatten()
        )
        parts.append((highest, sum_e, sum_ey, sum_py, p.sum(-1)))
    m, s, q, cross, mass = (torch.stack(part).to(exact) for part in zip(*parts, strict=True))
    drop = m - highest
    total, entropic = (drop.exp() * s).sum(0), (drop.exp() * (q + s * drop)).sum(0)
    mass = mass.repeat(1, n_rows // tokens)
    return {
        "logsumexp": highest + total.log(),
        "entropy": total.log() - entropic / total,
        "cross": (cross + mass * m).sum(0),
        "mass": mass.sum(0),
        "blocks": blocks,
    }


def _block_maxima(x: Float[Tensor, "row column"]) -> Float[Tensor, "row block"]:
    """The maximum of every 64 columns; the last block may be shorter."""
    whole = x.shape[-1] // BLOCK * BLOCK
    maxima = x[:, :whole].unflatten(-1, (-1, BLOCK)).amax(-1) if whole else x[:, :0]
    return (
        maxima
        if whole == x.shape[-1]
        else torch.cat([maxima, x[:, whole:].amax(-1, keepdim=True)], -1)
    )


def _top(
    logits: Float[Tensor, "row vocab"], blocks: Float[Tensor, "row block"], k: int
) -> tuple[Tensor, Tensor]:
    """The k largest logits and their columns, exactly: they lie in the k blocks with the largest maxima."""
    if k >= blocks.shape[-1]:
        return logits.topk(k, -1)
    best = blocks.topk(k, -1).indices.sort(-1).values
    candidates = (best[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    beyond = candidates >= logits.shape[-1]
    found = logits.gather(-1, candidates.clamp(max=logits.shape[-1] - 1)).masked_fill(
        beyond, float("-inf")
    )
    values, places = found.topk(k, -1)
    return values, candidates.gather(-1, places)


def _numbers(
    logits: Float[Tensor, "site token vocab"],
    scan: dict[str, Tensor],
    own: dict[str, Tensor],
    wanted: Int[Tensor, "token want"],
) -> dict[str, Tensor]:
    """A chunk's numbers, in the form in which they are given back."""
    logsumexp = scan["logsumexp"]
    # Σ p (log p − log lens) for the model's own p, whose sum (mass) rounding leaves beside 1; −1e30 stood for −∞
    kl = ((own["cross"] - scan["cross"]) / own["mass"] + logsumexp - own["logsumexp"]).clamp(min=0)
    at = _at(logits, wanted)
    ranks = torch.zeros_like(at)
    for here in vocabulary_tiles(logits):
        tile = logits[..., here]
        above = torch.empty_like(
            tile
        )  # counting in float32 is faster than in bool, and exact to 2^24
        for want in range(at.shape[-1]):
            ranks[..., want] += torch.gt(tile, at[..., want, None], out=above).sum(-1)
    return {
        "top_ids": scan["top_ids"].int(),
        "top_logprobs": (scan["top"] - logsumexp[..., None]).float(),
        "entropy": scan["entropy"].float(),
        "kl": kl.masked_fill(kl > 1e20, float("inf")).float(),
        "logsumexp": logsumexp.float(),
        "wanted_logprobs": (at - logsumexp[..., None]).float(),
        "wanted_ranks": ranks.int().masked_fill(wanted < 0, -1),
    }


def _at(
    logits: Float[Tensor, "site token vocab"], ids: Int[Tensor, "token want"]
) -> Float[Tensor, "site token want"]:
    """The logits of each token's own ids; NaN where the id is −1."""
    index = ids.long().clamp(min=0).expand(len(logits), -1, -1)
    return logits.gather(-1, index).masked_fill(ids < 0, float("nan"))


def _tracked(
    top1: Int[Tensor, "site token"], final_logits: Tensor, track: str | int | None, at_most: int
) -> Int[Tensor, "token m"]:
    """Which tokens are followed through all sites: the union of the sites' top-1, or the final top n."""
    if track is None:
        return top1.new_zeros(top1.shape[1], 0)
    if track != "top1":
        return final_logits.topk(int(track), -1).indices.int()
    columns = top1.flip(0).T.tolist()  # the last layer's first, so that a cut loses the earliest
    unions = [list(dict.fromkeys(column))[:at_most] for column in columns]
    widest = max(map(len, unions))
    return torch.tensor(
        [ids + [-1] * (widest - len(ids)) for ids in unions], dtype=torch.int32, device=top1.device
    )
