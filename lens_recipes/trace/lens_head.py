"""Take vectors of the residual stream to logits, in the model's own way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.operations import (
    Operation,
    is_norm_call,
    replay,
    slices,
    unembedding_index,
)

# The logits of some rows, and slices of their columns: after a slice was given, its columns are filled.
Tiles = tuple[Tensor, Iterator[slice]]
TILE = 1024  # columns at a time on a processor; elsewhere 16 times as many, for fewer and larger kernels

COPIES = 3  # arrays of [row, vocabulary] that one chunk needs at once where the unembedding is called; else 1


# -- stream ─► logits ----------------------------------------------


def unembed(
    model: Any,
    tail: list[Operation],
    weight: tuple[Tensor, Tensor | None] | None,
    scratch: dict[bool, Tensor],
    rows: Tensor,
    norm: bool = True,
) -> Tiles:
    """Take stream vectors `[row, d_model]` to float32 logits `[row, vocabulary]`, in the model's own way.

    `tail` is `Anatomy.tail`: which modules to call and which numbers to apply in between. Modules are called and never
    their weights, so this works where the weights are quantised, sharded, or not in this process at all. Only where
    the caller knows that the unembedding is a plain local product, `weight` (and bias) make it tile by tile.
    `norm=False` leaves out the final norm and reads the raw stream. The tiles of the next call with the same `norm`
    take the place of these, in `scratch`: fresh memory for each chunk costs page faults, and leaves holes behind.
    """
    head = unembedding_index(tail)
    x = rows.unsqueeze(0)  # modules expect [batch, position, d_model]
    before = [operation for operation in tail[:head] if norm or not is_norm_call(operation)]
    x = replay(model, before, x)
    if weight is None:
        logits = replay(model, tail[head:], x)[0].float().to(rows.device)
        return whole_tiles(logits)
    size = len(rows) * len(weight[0])
    if norm not in scratch or scratch[norm].numel() < size:
        scratch[norm] = rows.new_empty(size)
    logits = scratch[norm][:size].view(len(rows), -1)
    return logits, _products(x[0], *weight, tail[head + 1 :], logits)


def whole_tiles(logits: Float[Tensor, "row vocab"]) -> Tiles:
    """Logits that are there already, as tiles."""
    return logits, vocabulary_tiles(logits)


def vocabulary_tiles(logits: Float[Tensor, "*row vocab"]) -> Iterator[slice]:
    """The vocabulary in tiles."""
    return slices(logits.shape[-1], tile_width(logits))


def tile_width(logits: Float[Tensor, "*row vocab"]) -> int:
    """How many columns a tile has at most."""
    return min(TILE * (1 if logits.device.type == "cpu" else 16), logits.shape[-1])


def _products(
    x: Tensor, weight: Tensor, bias: Tensor | None, after: list[Operation], logits: Tensor
) -> Iterator[slice]:
    for here in vocabulary_tiles(logits):
        if bias is None:
            torch.mm(x, weight[here].T, out=logits[:, here])
        else:
            torch.addmm(bias[here], x, weight[here].T, out=logits[:, here])
        if after:
            logits[:, here] = replay(None, after, logits[:, here])
        yield here
