"""The logits of a few ids, linear in the vector that the unembedding takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.operations import HeadOperations, replay, without_autocast

Weight = tuple[
    Tensor, Tensor | None
]  # of a plain local unembedding: the matrix, and perhaps a bias


class TargetRows(NamedTuple):
    """The rows of a plain unembedding that are asked for, and their biases.

    Attributes:
        matrix: `[token, column, d_model]`.
        bias: `[token, column]`.
    """

    matrix: Float[Tensor, "token column d_model"]
    bias: Float[Tensor, "token column"]


class MeanRow(NamedTuple):
    """The mean row of an unembedding, and its mean bias."""

    row: Float[Tensor, " d_model"]
    bias: Tensor


def mean_row(weight: Weight) -> MeanRow:
    """Return the mean over the vocabulary."""
    matrix, bias = weight
    row = matrix.mean(0, dtype=torch.promote_types(matrix.dtype, torch.float32))
    if bias is None:
        return MeanRow(row, row.new_zeros(()))
    return MeanRow(row, to_float32(bias).mean())


def target_rows(
    weight: Weight, ids: Int[Tensor, "token column"], mean: MeanRow | None
) -> TargetRows:
    """Return the rows of some ids; with a mean, a last column is that of the whole vocabulary."""
    matrix, bias = weight
    rows = to_float32(matrix[ids])
    biases = rows.new_zeros(ids.shape) if bias is None else to_float32(bias[ids])
    if mean is not None:
        rows = torch.cat([rows, mean.row.expand(len(ids), 1, -1)], 1)
        biases = torch.cat([biases, mean.bias.expand(len(ids), 1)], 1)
    return TargetRows(rows, biases)


class TargetLogits:
    """The way from the normed stream of some tokens to the logits of their ids.

    Attributes:
        has_mean: Whether a last column is the mean over the vocabulary.
    """

    def __init__(
        self,
        model: Any,
        head: HeadOperations,
        ids: Int[Tensor, "token column"],
        has_mean: bool,
        rows: TargetRows | None,
        dtype: torch.dtype,
    ) -> None:
        """Keep the way.

        Args:
            model: The nnsight model.
            head: The model's own way to the logits, in three parts.
            ids: Of each token.
            has_mean: Whether to add the mean over the vocabulary.
            rows: Of a plain unembedding; None calls the module and picks the ids.
            dtype: What the module takes.
        """
        self.model = model
        self.head = head
        self.ids = ids
        self.has_mean = has_mean
        self.rows = rows
        self.dtype = dtype

    def linear(
        self, vectors: Float[Tensor, "part token d_model"]
    ) -> Float[Tensor, "part token column"]:
        """Return the logits before a softcap, biases included."""
        if self.rows is not None:
            hidden = to_float32(vectors).to(self.rows.matrix.device)
            with without_autocast(hidden.device):
                logits = torch.einsum("ptd,tcd->ptc", hidden, self.rows.matrix) + self.rows.bias
            return replay(None, self.head.linear[1:], logits)
        flat = vectors.to(self.dtype).flatten(0, 1).unsqueeze(0)
        logits = to_float32(replay(self.model, self.head.linear, flat)[0])
        by_part = logits.unflatten(0, vectors.shape[:2]).to(self.ids.device)
        return pick_columns(by_part, self.ids, self.has_mean)

    def capped(
        self, normed: Float[Tensor, "token d_model"], logit: Float[Tensor, "token column"]
    ) -> Float[Tensor, "token column"]:
        """Return the logits after the softcap.

        Only the mean of those needs the whole vocabulary.
        """
        if not self.head.softcap or not self.has_mean:
            return replay(None, self.head.softcap, logit)
        operations = [*self.head.linear, *self.head.softcap]
        logits = to_float32(replay(self.model, operations, normed.unsqueeze(0))[0])
        return pick_columns(logits, self.ids.to(logits.device), self.has_mean)


def pick_columns(
    logits: Float[Tensor, "*part token vocab"], ids: Int[Tensor, "token column"], has_mean: bool
) -> Float[Tensor, "*part token column"]:
    """Return the logits of each token's ids, and perhaps a last column with their mean."""
    index = ids.expand(*logits.shape[:-1], ids.shape[-1])
    picked = logits.gather(-1, index)
    if not has_mean:
        return picked
    return torch.cat([picked, logits.mean(-1, keepdim=True)], -1)
