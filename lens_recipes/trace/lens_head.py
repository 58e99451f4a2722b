"""`LensHead`: the one map from a vector of the residual stream to logits.

    site ─► transport ─► final norm ─► unembedding ─► softcap ─► logits

The identity as the transport is the logit lens (nostalgebraist, "interpreting GPT: the logit lens",
2020).

Modules are called, never their weights. This works where the weights are quantised, sharded, or not
in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.kernels import Kernels, kernels_for
from lens_recipes.trace.operations import (
    Operation,
    is_norm_call,
    replay,
    slices,
    unembedding_index,
)
from lens_recipes.trace.transport import IDENTITY, Transport

LOGITS_AT_ONCE = 3  # arrays [row, vocabulary] that exist at once where the unembedding is called

# The logits of some rows, and slices of their columns. Once a slice was given, its columns are
# filled.
Tiles = tuple[Tensor, Iterator[slice]]


class LensHead:
    """Take vectors of the residual stream to logits, in the model's own way.

    Example:
        >>> head = lens_head(model)
        >>> with model.trace("The capital of France is"):
        ...     logits = nnsight.save([head(block.output[:, -1]) for block in model.model.layers])
    """

    def __init__(
        self,
        model: Any,
        operations: list[Operation],
        weight: tuple[Tensor, Tensor | None] | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """Keep the way to the logits.

        Args:
            model: The nnsight model.
            operations: What the model does between its last block and its logits (`Anatomy.tail`).
            weight: Weight and bias of an unembedding that is known to be a plain product on this
                processor. Logits are then made tile by tile. None calls the module.
            kernels: How wide a tile is; None for what is chosen for the device.
        """
        self.model = model
        self.weight = weight
        self.kernels = kernels
        unembedding = unembedding_index(operations)
        self.before = operations[:unembedding]
        self.before_raw = [step for step in self.before if not is_norm_call(step)]
        self.unembedding = operations[unembedding:]
        self.scratch: dict[bool, Tensor] = {}

    @property
    def logits_at_once(self) -> int:
        """How many arrays as large as its logits exist at once."""
        return LOGITS_AT_ONCE if self.weight is None else 1

    def __call__(
        self,
        hidden: Float[Tensor, "*row d_model"],
        *,
        apply_norm: bool = True,
        transport: Transport = IDENTITY,
    ) -> Float[Tensor, "*row vocab"]:
        """Return the logits of some vectors, in float32.

        Args:
            hidden: Vectors of the stream, with any axes before the last one.
            apply_norm: False leaves out the final norm and reads the raw vector.
            transport: The map from the site to the stream before the final norm.
        """
        rows = transport.transform_hidden(hidden).reshape(-1, hidden.shape[-1])
        normed = self.normed(rows, apply_norm)
        logits = replay(self.model, self.unembedding, normed)[0].float().to(hidden.device)
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def normed(
        self, rows: Float[Tensor, "row d_model"], apply_norm: bool = True
    ) -> Float[Tensor, "1 row d_model"]:
        """Return what the unembedding takes. Modules expect a batch axis, so there is one."""
        operations = self.before if apply_norm else self.before_raw
        return replay(self.model, operations, rows.unsqueeze(0))

    def tiles(self, rows: Float[Tensor, "row d_model"], apply_norm: bool = True) -> Tiles:
        """Return the logits of some rows, and slices of their columns as they are filled.

        The next call with the same `apply_norm` takes the place of these logits: fresh memory for
        each chunk costs page
        faults and leaves holes in the heap.
        """
        if self.weight is None:
            return whole_tiles(self(rows, apply_norm=apply_norm), self.kernels)
        normed = self.normed(rows, apply_norm)[0]
        n_logits = len(rows) * len(self.weight[0])
        if apply_norm not in self.scratch or self.scratch[apply_norm].numel() < n_logits:
            self.scratch[apply_norm] = rows.new_empty(n_logits)
        logits = self.scratch[apply_norm][:n_logits].view(len(rows), -1)
        return logits, self._products(normed, logits)

    def _products(self, normed: Tensor, logits: Tensor) -> Iterator[slice]:
        """Fill the logits tile by tile with the product of a plain unembedding."""
        assert self.weight is not None  # `tiles` has seen to it
        matrix, bias = self.weight
        after = self.unembedding[1:]
        for columns in vocabulary_tiles(logits, self.kernels):
            if bias is None:
                torch.mm(normed, matrix[columns].T, out=logits[:, columns])
            else:
                torch.addmm(bias[columns], normed, matrix[columns].T, out=logits[:, columns])
            if after:
                logits[:, columns] = replay(None, after, logits[:, columns])
            yield columns


def whole_tiles(logits: Float[Tensor, "row vocab"], kernels: Kernels | None = None) -> Tiles:
    """Return logits that are complete already, as tiles."""
    return logits, vocabulary_tiles(logits, kernels)


def vocabulary_tiles(
    logits: Float[Tensor, "*row vocab"], kernels: Kernels | None = None
) -> Iterator[slice]:
    """Cut the vocabulary into tiles, the first as wide as any other."""
    chosen = kernels or kernels_for(logits.device)
    return slices(logits.shape[-1], chosen.tile_columns)
