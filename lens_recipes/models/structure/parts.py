"""The parts of a decoder and of its blocks, as `anatomy` and `residual_blocks` find them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lens_recipes.models.components import WRITES
from lens_recipes.models.images.both_ways import BothWays
from lens_recipes.terminal import show_lines
from lens_recipes.trace.operations import ModuleCall, Operation, unembedding_index


class StreamLink(NamedTuple):
    """Where the model goes on with the stream after a block.

    Attributes:
        reader: The module whose input that stream is: the next block, or the first module after the
            last one.
        lone_reader: The module that takes it and nothing else; None if there is none.
        factor: By which the block's output was multiplied before.
    """

    reader: str
    lone_reader: str | None
    factor: float


@dataclass(frozen=True)
class Anatomy:
    """The places where a decoder keeps its parts.

    Paths are relative to the model: `model.get(anatomy.blocks)`.

    Attributes:
        family: The model's class.
        n_layers, d_model, vocab_size: Blocks, width of the stream, tokens that have a logit.
        n_embeddings: Tokens that a prompt may have; most models have as many as `vocab_size`.
        n_positions: Tokens that a prompt may have at most; None where positions are computed.
        layers: The numbers of the blocks that a text prompt passes through: all in most models. A
            block that reads nothing but an image is passed over.
        is_chain: Whether each block takes what the one before it gave. Else the stream after a
            layer is what the block gives, and other modules come before the next one.
        blocks: The list of blocks.
        embed, norm, unembed: Embedding, final norm and unembedding; None where the model has none,
            or it was not found.
        attention, mlp: Within a block.
        links: Where the model goes on with the stream after each block, `[layer]`; None where that
            cannot be read.
        tail: All that happens between the last block and the logits, operation by operation.
        forward_options: Which arguments the model's forward takes.
        plain_ids: A few tokens without a special meaning, for trial runs.
        both_ways: The types of tokens that see later ones, where the model's mask has such.
    """

    family: str
    n_layers: int
    layers: tuple[int, ...]
    is_chain: bool
    d_model: int
    vocab_size: int
    n_embeddings: int
    n_positions: int | None
    blocks: str
    embed: str | None
    attention: str | None
    mlp: str | None
    norm: str | None
    unembed: str
    links: list[StreamLink | None] = field(repr=False)
    tail: list[Operation] = field(repr=False)
    forward_options: frozenset[str] = field(repr=False)
    plain_ids: tuple[int, ...] = field(repr=False)
    both_ways: BothWays | None = field(default=None, repr=False)

    @property
    def last_layer(self) -> int:
        """Return the number of the last block that a text prompt passes through."""
        return self.layers[-1]

    @property
    def is_prefix(self) -> bool:
        """Whether a prompt is read both ways: each of its tokens sees the later ones."""
        return self.both_ways is not None and self.both_ways.is_prefix

    def block(self, layer: int) -> str:
        """Return the path of a block."""
        return f"{self.blocks}.{layer}"

    @property
    def after_unembed(self) -> str:
        """Return in words what happens to the logits after the unembedding.

        For instance "div 30, tanh, mul 30".
        """
        operations = self.tail[unembedding_index(self.tail) + 1 :]
        return ", ".join(str(operation) for operation in operations) or "nothing"

    def __str__(self) -> str:
        none_in_block = "none found in a block"
        first_block = self.block(self.layers[0])
        size = f"{self.n_layers} layers, {self.d_model} wide"
        passed_over = [str(layer) for layer in range(self.n_layers) if layer not in self.layers]
        if passed_over:
            size += f"; text passes over {', '.join(passed_over)}"
        attention = f"{first_block}.{self.attention}" if self.attention else none_in_block
        mlp = f"{first_block}.{self.mlp}" if self.mlp else none_in_block
        if self.is_prefix:
            size += "; a prompt is read both ways"
        rows = {
            "family": self.family,
            "blocks": f"{self.blocks}  ({size})",
            "embedding": self.embed or "not found",
            "attention": attention,
            "MLP": mlp,
            "final norm": self.norm or "none",
            "unembedding": f"{self.unembed}  ({self.vocab_size} tokens)",
            "after it": self.after_unembed,
            "whole tail": " → ".join(str(operation) for operation in self.tail),
        }
        return "\n".join(f"{name:<12} {value}" for name, value in rows.items())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the rows in a notebook."""
        show_lines(printer, str(self))


@dataclass(frozen=True)
class HookPoint:
    """A tensor that a trace can read: what a module takes or gives, and what is done to it after.

    Attributes:
        time: Orders hook points as the model reaches them, which is how a trace must read them.
        side: "in" for what the module takes, "out" for what it gives.
        path: Where the module is: `model.get(path)`.
        operations: What is done to the tensor before it is what was looked for.
    """

    time: int
    side: str
    path: str
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class HeadSources:
    """Where the attention weights and the values can be read; fused attention gives neither.

    Attributes:
        weights: The module that gives the attention weights `[batch, head, query, key]`.
        weights_item: Which of its outputs they are.
        values: The module that gives the values.
        value_width: How wide the input of that module is.
        value_columns: Each head's columns in its output, `[head][width]`; heads may share them.
    """

    weights: HookPoint
    weights_item: int
    values: HookPoint
    value_width: int
    value_columns: list[list[int]]


@dataclass(frozen=True)
class Heads:
    """How the heads of an attention reach the stream.

    Attributes:
        point: All heads side by side: the input of the output projection.
        columns: Each head's columns there, `[head][width]`.
        to_stream: The operations from there to what is added: the projection, perhaps a norm or a
            scale.
        sources: Where the attention weights and the values can be read, or None.
    """

    point: HookPoint
    columns: list[list[int]]
    to_stream: tuple[Operation, ...]
    sources: HeadSources | None = None


@dataclass(frozen=True)
class ResidualWrite:
    """One thing that a block adds to the stream.

    Attributes:
        component: `attn_out`, `mixer_out`, `mlp_out` or `other_out`.
        point: Where it is read.
        heads: How it is made of heads; None where it is no attention, or its heads cannot be told
            apart.
        n_norms_before: How many norms the stream of this block has passed through before this is
            added to it.
    """

    component: str
    point: HookPoint
    heads: Heads | None = None
    n_norms_before: int = 0


@dataclass(frozen=True)
class StreamNorm:
    """A norm that the stream itself passes through in a block, as where norms follow additions.

    Attributes:
        point: Where the stream before it is read.
        call: The norm.
        scale: What is done to the stream after it, up to the next norm or the end of the block.
    """

    point: HookPoint
    call: ModuleCall
    scale: tuple[Operation, ...]


@dataclass(frozen=True)
class Block:
    """One block as a sum: residual_scale(stream before) + the writes = stream after.

    Where the stream passes through norms, that is so up to the first norm, and then from each norm
    to the next: scale(norm(sum so far)) + the writes of this stretch.

    Attributes:
        resid_pre: The stream before the block.
        resid_mid: The stream between attention and MLP; None where they are in parallel, or no
            module takes or gives it.
        resid_post: The stream after the block.
        interblock_scale: What is done to the stream on its way from the block before: nothing, or a
            multiplication by a number.
        residual_scale: The same for the stream on its way through this block, up to its first norm.
        writes: What the block adds, in order of time.
        unreadable_reason: Why the block is no such sum; empty where it is.
        norms: The norms that the stream passes through, in order.
    """

    resid_pre: HookPoint
    resid_mid: HookPoint | None
    resid_post: HookPoint
    interblock_scale: tuple[Operation, ...]
    residual_scale: tuple[Operation, ...]
    writes: list[ResidualWrite]
    unreadable_reason: str = ""
    norms: tuple[StreamNorm, ...] = ()

    @property
    def components(self) -> list[str]:
        """Return the components that can be read here: the stream, then what is added to it."""
        names = ["resid_pre"]
        if self.resid_mid is not None:
            names.append("resid_mid")
        names.append("resid_post")
        written = {write.component for write in self.writes}
        names += [component for component in WRITES if component in written]
        return names

    @property
    def n_heads(self) -> int:
        """Return how many heads of its attention can be told apart."""
        for write in self.writes:
            if write.heads is not None:
                return len(write.heads.columns)
        return 0
