"""The parts of a transformer block that can be read."""

from __future__ import annotations

from dataclasses import dataclass

from lens_recipes.trace.operations import Operation

WRITES = (
    "attn_out",
    "mixer_out",
    "mlp_out",
    "other_out",
)  # what a block may add, in the order of most blocks


@dataclass(frozen=True)
class ResidualWrite:
    """One thing that a block adds to the stream: `attn_out`, `mlp_out`, `mixer_out` or `other_out`."""

    component: str
    tap: HookPoint
    heads: Heads | None = None


@dataclass(frozen=True)
class Block:
    """One block as a sum: `carry`(stream before) + the writes = stream after.

    Attributes:
        pre, mid, post: The stream before, between attention and MLP, and after; `mid` is None where they are parallel.
        between: What is done to the stream on its way from the block before (nothing, or a number times it).
        carry: What the block does to the stream that passes through it (nothing, or a number times it).
        writes: What it adds, in order of time.
        broken: Why it is no such sum, or empty.
    """

    pre: HookPoint
    mid: HookPoint | None
    post: HookPoint
    between: tuple[Operation, ...]
    carry: tuple[Operation, ...]
    writes: list[ResidualWrite]
    broken: str = ""

    @property
    def components(self) -> list[str]:
        """The components that can be read here."""
        streams = ["resid_pre", *(["resid_mid"] if self.mid else []), "resid_post"]
        return streams + [
            name for name in WRITES if any(write.component == name for write in self.writes)
        ]

    @property
    def n_heads(self) -> int:
        """How many heads of its attention can be told apart."""
        return next((len(write.heads.columns) for write in self.writes if write.heads), 0)


@dataclass(frozen=True)
class HookPoint:
    """A tensor that a trace can read: what a module takes ("in") or gives ("out"), and what is done to it after.

    `when` puts taps in the order in which they must be read.
    """

    when: int
    side: str
    path: str
    steps: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Heads:
    """How the heads of an attention reach the stream.

    Attributes:
        read: All heads side by side: the input of the output projection.
        columns: Each head's columns there, `[head][width]`.
        chain: From there to what is added: the projection, perhaps a norm, a scale.
        weights, item: Which module gives the attention weights `[batch, head, query, key]`, as which of its outputs;
            None under fused attention.
        values, value_width, value_columns: Which module gives the values, how wide its input is, and each head's
            columns in its output (heads may share them).
    """

    read: HookPoint
    columns: list[list[int]]
    chain: tuple[Operation, ...]
    weights: HookPoint | None = None
    item: int = 0
    values: HookPoint | None = None
    value_width: int = 0
    value_columns: list[list[int]] | None = None
