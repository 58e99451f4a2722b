"""Look at every logit once: log Σ exp, entropy, Σ p · logit and the largest, tile by tile.

On a small model the passes over the logits cost as much as the product that makes them, unless they
run on a tile that is still in the processor's cache. Each tile is read for everything at once, and
the top k come from the groups of 64 columns with the largest maxima.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.kernels import GROUP_COLUMNS, Kernels
from lens_recipes.trace.lens_head import whole_tiles

FLAG = "ruled out"  # among the arrays of a readout, until it was asked
IMPOSSIBLE = -1e30  # stands for a logit of −∞ where 0 · −∞ is meant to be 0


class Scan(NamedTuple):
    """What one look at some rows of logits tells; rows are sites × tokens.

    Attributes:
        logsumexp, entropy: `[row]`, entropy in nats.
        cross: Σ p · logit, for the probabilities p that the model itself gave, `[row]`.
        mass: Σ p, beside 1 by what rounding left, `[row]`.
        top_logits, top_ids: The largest logits and their columns, `[row, k]`.
    """

    logsumexp: Float[Tensor, " row"]
    entropy: Float[Tensor, " row"]
    cross: Float[Tensor, " row"]
    mass: Float[Tensor, " row"]
    top_logits: Float[Tensor, "row k"]
    top_ids: Int[Tensor, "row k"]

    def by_site(self, n_sites: int) -> Scan:
        """Return the same numbers with the axes `[site, token, …]`."""
        return Scan(*(value.unflatten(0, (n_sites, -1)) for value in self))


class RuledOut:
    """Finds out whether a token was ruled out by a logit of −∞: sums of a scan are then undefined.

    Such a scan has to be made again, with −∞ taken as a very small number. On a processor each scan
    is looked at when it is done, and made again at once. On an accelerator the host would have to
    wait for each answer. So there all answers become one flag, which is brought with the numbers;
    where it is set, all scans are made again, with a second object that clamps from the start.

    Attributes:
        clamps: Whether scans take −∞ as a very small number from the start.
    """

    def __init__(self, kernels: Kernels, *, clamps: bool = False) -> None:
        """Begin before the first scan.

        Args:
            kernels: Of the device.
            clamps: Whether it is known already that some token was ruled out.
        """
        self.kernels = kernels
        self.clamps = clamps
        self.found: Tensor | None = None

    def is_to_be_made_again(self, sums: Sums) -> bool:
        """Tell whether a scan is to be made again at once; else keep that for later."""
        is_undefined = sums.entropy.isnan() | sums.cross.isnan()
        found = (is_undefined & ~sums.logsumexp.isnan()).any()
        if self.kernels.asks_at_once:
            return bool(found)
        self.found = found if self.found is None else self.found | found
        return False

    def flag(self) -> dict[str, Tensor]:
        """Return what is to be brought along with the numbers; nothing where it was asked."""
        return {} if self.found is None else {FLAG: self.found.reshape(1)}

    def is_flagged(self, arrays: dict[str, Tensor]) -> bool:
        """Tell whether some scan that was not made again should have been; take out the flag."""
        return FLAG in arrays and bool(arrays.pop(FLAG))


class Sums(NamedTuple):
    """The sums of `Scan`, and the maxima of the groups of columns, `[row, group]`."""

    logsumexp: Float[Tensor, " row"]
    entropy: Float[Tensor, " row"]
    cross: Float[Tensor, " row"]
    mass: Float[Tensor, " row"]
    group_maxima: Float[Tensor, "row group"]


class TileSums(NamedTuple):
    """The sums over one tile, with x shifted by the largest logit so far, `[row]`.

    `mass` is `[token]`.
    """

    running_max: Tensor
    exp: Tensor
    exp_shifted: Tensor
    own_shifted: Tensor
    mass: Tensor


def scan(
    logits: Float[Tensor, "row vocab"],
    tiles: Iterator[slice],
    top_k: int,
    own_probs: Float[Tensor, "token vocab"],
    ruled_out: RuledOut,
) -> Scan:
    """Scan rows of logits.

    Args:
        logits: Filled as the tiles are drawn.
        tiles: Slices of the columns.
        top_k: How many of the largest logits to keep.
        own_probs: What the model itself gave each token. Rows are sites × tokens.
        ruled_out: Knows what to do about tokens that have no chance at all.
    """
    if ruled_out.clamps:
        for _ in tiles:  # drawing a tile fills it
            pass
        sums = sum_clamped(logits, own_probs, ruled_out.kernels)
    else:
        sums = sum_tiles(logits, tiles, own_probs)
        if ruled_out.is_to_be_made_again(sums):
            sums = sum_clamped(logits, own_probs, ruled_out.kernels)
    top_logits, top_ids = largest(logits, sums.group_maxima, top_k)
    return Scan(sums.logsumexp, sums.entropy, sums.cross, sums.mass, top_logits, top_ids)


def sum_clamped(
    logits: Float[Tensor, "row vocab"], own_probs: Float[Tensor, "token vocab"], kernels: Kernels
) -> Sums:
    """Sum over all tiles of logits that are there, with −∞ as a very small number."""
    return sum_tiles(*whole_tiles(logits.clamp(min=IMPOSSIBLE), kernels), own_probs)


def sum_tiles(
    logits: Float[Tensor, "row vocab"],
    tiles: Iterator[slice],
    own_probs: Float[Tensor, "token vocab"],
) -> Sums:
    """Sum over all tiles.

    Each tile is shifted by the largest logit so far, and `combine` takes the differences of those
    out again.
    """
    n_rows, vocab = logits.shape
    n_tokens = len(own_probs)
    group_maxima = logits.new_empty(n_rows, -(-vocab // GROUP_COLUMNS))
    running_max = logits.new_full((n_rows,), IMPOSSIBLE)
    # Used again for each tile, the first of which is as wide as any: fresh memory costs page
    # faults.
    shifted_buffer, exp_buffer = logits.new_empty(2, 0, 0)
    parts: list[TileSums] = []
    for columns in tiles:
        tile = logits[:, columns]
        width = tile.shape[-1]
        if not parts:
            shifted_buffer, exp_buffer = logits.new_empty(2, n_rows, width)
        shifted, exp = shifted_buffer[:, :width], exp_buffer[:, :width]
        maxima = maxima_of_groups(tile)
        first_group = columns.start // GROUP_COLUMNS
        group_maxima[:, first_group : first_group + maxima.shape[-1]] = maxima
        running_max = torch.maximum(running_max, maxima.amax(-1))
        torch.sub(tile, running_max[:, None], out=shifted)
        exp_sum = torch.exp(shifted, out=exp).sum(-1)
        exp_shifted_sum = exp.mul_(shifted).sum(-1)
        probs = own_probs[:, columns]
        by_site = (-1, n_tokens)
        products = torch.mul(probs, shifted.unflatten(0, by_site), out=exp.unflatten(0, by_site))
        own_sum = products.sum(-1).flatten()
        parts.append(TileSums(running_max, exp_sum, exp_shifted_sum, own_sum, probs.sum(-1)))
    return combine(parts, group_maxima)


def combine(parts: list[TileSums], group_maxima: Tensor) -> Sums:
    """Put the sums of all tiles together, in float64 where the device has it.

    With y = x − m for the tile's own m, M the last maximum and d = m − M, each tile gives Σ exp(x −
    M) = exp(d) · Σ exp y and Σ (x − M) · exp(x − M) = exp(d) · (Σ y · exp y + d · Σ exp y). Then
    log Σ exp x = M + log s and the entropy is log s − q / s, for the totals s and q of the two.
    """
    running_max = parts[-1].running_max
    on_apple_gpu = running_max.device.type == "mps"  # which has no float64
    exact = torch.float32 if on_apple_gpu else torch.float64
    stacked = TileSums(*(torch.stack(values).to(exact) for values in zip(*parts, strict=True)))
    drop = stacked.running_max - running_max
    factor = drop.exp()
    total = (factor * stacked.exp).sum(0)
    total_shifted = (factor * (stacked.exp_shifted + stacked.exp * drop)).sum(0)
    n_sites = len(running_max) // stacked.mass.shape[-1]
    mass = stacked.mass.repeat(1, n_sites)
    return Sums(
        logsumexp=running_max + total.log(),
        entropy=total.log() - total_shifted / total,
        cross=(stacked.own_shifted + mass * stacked.running_max).sum(0),
        mass=mass.sum(0),
        group_maxima=group_maxima,
    )


def maxima_of_groups(tile: Float[Tensor, "row column"]) -> Float[Tensor, "row group"]:
    """Return the maximum of every 64 columns; the last group may be narrower."""
    in_groups = tile.shape[-1] // GROUP_COLUMNS * GROUP_COLUMNS
    if not in_groups:
        return tile.amax(-1, keepdim=True)
    maxima = tile[:, :in_groups].unflatten(-1, (-1, GROUP_COLUMNS)).amax(-1)
    if in_groups == tile.shape[-1]:
        return maxima
    return torch.cat([maxima, tile[:, in_groups:].amax(-1, keepdim=True)], -1)


def largest(
    logits: Float[Tensor, "row vocab"], group_maxima: Float[Tensor, "row group"], top_k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """Return the k largest logits and their columns, exactly.

    They lie in the k groups with the largest maxima.
    """
    if top_k >= group_maxima.shape[-1]:
        values, columns = logits.topk(top_k, -1)
        return values, columns
    groups = group_maxima.topk(top_k, -1).indices.sort(-1).values
    within = torch.arange(GROUP_COLUMNS, device=logits.device)
    candidates = (groups[..., None] * GROUP_COLUMNS + within).flatten(1)
    vocab = logits.shape[-1]
    gathered = logits.gather(-1, candidates.clamp(max=vocab - 1))
    gathered = gathered.masked_fill(candidates >= vocab, float("-inf"))
    values, places = gathered.topk(top_k, -1)
    return values, candidates.gather(-1, places)
