"""The parts that a logit is split into, and the vectors that each of them added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.attribution.freeze import (
    apply_affine,
    bfloat16_scale,
    freeze_norm,
    head_writes,
    to_float32,
)
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.kernels import sent
from lens_recipes.trace.operations import ModuleCall, Operation, first_of
from lens_recipes.trace.plan import HeadSplit


class PartReads(NamedTuple):
    """What was read, and for which tokens parts are made of it.

    Attributes:
        vectors: What `collect` read.
        places: Of all tokens.
        tokens: Those of this chunk.
        rows_at_once: How many vectors of each token are made at a time.
    """

    vectors: list[Any]
    places: TokenPlaces
    tokens: slice
    rows_at_once: int


class NormAtSlot(NamedTuple):
    """A norm that the stream passes through in a block, and which vector is the stream before it.

    Attributes:
        call: The norm.
        slot: Which vector it is held at.
    """

    call: ModuleCall
    slot: int


LaterOperation = Operation | NormAtSlot


class WholePart(NamedTuple):
    """One vector: the embedding, or what a module or a layer adds.

    Attributes:
        later: What is done to the stream after this part was added.
        slot: Which vector it is.
    """

    later: list[LaterOperation]
    slot: int

    @property
    def rows_per_token(self) -> int:
        """How many vectors of a token are made at once."""
        return 1

    def rows(self, model: Any, reads: PartReads) -> Iterator[Float[Tensor, "part token d_model"]]:
        """Yield the vectors of this part."""
        yield to_float32(reads.vectors[self.slot][reads.tokens]).unsqueeze(0)


class EditedHead(NamedTuple):
    """What an edit has changed of one head, where the head is split into parts that it leaves.

    Attributes:
        later: What is done to the stream after this part was added.
        slot: Which vector is the change, `[token, d_head]`.
        heads_slot: Which vector holds all heads side by side, as the edit left them.
        split: How the head reaches the stream, as a split with one head.
    """

    later: list[LaterOperation]
    slot: int
    heads_slot: int
    split: HeadSplit

    @property
    def rows_per_token(self) -> int:
        """How many vectors of a token are made at once."""
        return 1

    def rows(self, model: Any, reads: PartReads) -> Iterator[Float[Tensor, "part token d_model"]]:
        """Yield the vectors of this part."""
        heads = reads.vectors[self.heads_slot][reads.tokens]
        change = reads.vectors[self.slot][reads.tokens].to(heads.device)
        frozen, _ = freeze_norm(model, self.split.operations, heads)
        scale = bfloat16_scale(heads)
        inputs = heads.new_zeros(2, *heads.shape)  # the second is of no head
        inputs[0][:, self.split.columns[0]] = (change * scale).to(heads.dtype)
        added = to_float32(apply_affine(model, frozen, inputs))
        yield (added[:1] - added[1:]) / scale


class SummedParts(NamedTuple):
    """One part that is the sum of several, as where a layer norms the stream between two writes.

    Attributes:
        parts: What is summed.
    """

    parts: Sequence[WholePart | EditedHead]

    @property
    def rows_per_token(self) -> int:
        """How many vectors of a token are made at once."""
        return 1


class HeadParts(NamedTuple):
    """All heads of one attention, and what its output projection adds by itself.

    Attributes:
        later: What is done to the stream after these parts were added.
        slot: Which vector holds the heads side by side.
        split: How they reach the stream.
    """

    later: list[LaterOperation]
    slot: int
    split: HeadSplit

    @property
    def rows_per_token(self) -> int:
        """How many vectors of a token are made at once."""
        return len(self.split.columns) + 1

    def rows(self, model: Any, reads: PartReads) -> Iterator[Float[Tensor, "part token d_model"]]:
        """Yield the vectors of all heads, then that of the projection."""
        side_by_side = reads.vectors[self.slot]
        heads, bias = head_writes(
            model, self.split.columns, self.split.operations, side_by_side, reads.tokens
        )
        yield heads
        yield bias.unsqueeze(0)


class SourceParts(NamedTuple):
    """Each head by the token that it reads: weight × value × output projection.

    Attributes:
        later, slot, split: As in `HeadParts`.
        attention_slot, values_slot: Which vectors hold the attention weights and the values.
        value_columns: Each head's columns of the values; heads may share them.
        values_module, value_width: Which module gives the values, and how wide its input is.
    """

    later: list[LaterOperation]
    slot: int
    split: HeadSplit
    attention_slot: int
    values_slot: int
    value_columns: list[list[int]]
    values_module: str
    value_width: int

    @property
    def rows_per_token(self) -> int:
        """How many vectors of a token are made at once."""
        return 1

    def rows(self, model: Any, reads: PartReads) -> Iterator[Float[Tensor, "part token d_model"]]:
        """Yield the vectors of one token, in pieces.

        These are for each head its sources, then its share that comes from the values' bias; at
        last the projection's own bias.
        """
        token = reads.tokens.start
        x = reads.vectors[self.slot][reads.tokens]
        attention = reads.vectors[self.attention_slot][reads.tokens][0].to(x.device)
        values = reads.vectors[self.values_slot][int(reads.places.rows[token])].to(x.device)
        bias = value_bias(model, self.values_module, self.value_width, values)
        scale = bfloat16_scale(x)
        frozen, _ = freeze_norm(model, self.split.operations, x)
        projection = to_float32(apply_affine(model, frozen, x.new_zeros(1, *x.shape)))
        all_columns = sent(torch.tensor(self.split.columns, device="cpu"), x.device)
        all_value_columns = sent(torch.tensor(self.value_columns, device="cpu"), x.device)
        for head in range(len(self.split.columns)):
            columns, value_columns = all_columns[head], all_value_columns[head]
            head_bias = bias[value_columns]
            given = torch.cat([values[:, value_columns] - head_bias, head_bias[None]])
            weights = torch.cat([attention[head], attention[head].sum()[None]])
            weighted = to_float32(weights)[:, None] * to_float32(given) * scale
            inputs = x.new_zeros(len(given), *x.shape)
            inputs[:, 0, columns] = weighted.to(x.dtype)
            for chunk in inputs.split(reads.rows_at_once):
                yield (to_float32(apply_affine(model, frozen, chunk)) - projection) / scale
        yield projection


LogitParts = WholePart | EditedHead | SummedParts | HeadParts | SourceParts


def value_bias(model: Any, module: str, width: int, like: Tensor) -> Float[Tensor, " inner"]:
    """Return what a module gives for a zero vector."""
    zeros = like.new_zeros(1, 1, width)
    return first_of(model.get(module)(zeros)).reshape(-1).to(like.device)
