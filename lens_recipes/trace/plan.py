"""What a trace is to read, as plain values that can travel to a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lens_recipes.trace.transport import IDENTITY, Transport


class StreamScales(NamedTuple):
    """What a model does to the stream on its way beside adding to it, such as scaling it.

    Attributes:
        between: Operations from the block before to this one.
        within: Operations on the stream that passes through this block.
    """

    between: tuple[Any, ...]
    within: tuple[Any, ...]


class HeadSplit(NamedTuple):
    """How attention heads that lie side by side reach the stream.

    Attributes:
        columns: The columns of each head in the input of the output projection, `[head][width]`.
        operations: From there to what is added to the stream: the projection, perhaps a norm or a
            scale.
    """

    columns: list[list[int]]
    operations: list[Any]


class ReadStep(NamedTuple):
    """One tensor to read from the running model, and what it is for.

    Attributes:
        role: "read": nothing more than to be read.
            "before": the stream before a block, at which the sum of what the block writes begins.
            "write": what a module adds to the stream.
            "norm": the stream before a norm that it passes through, which the sum must equal; the
            norm is then done to the sum.
            "after": the stream on the way through a block or after it, which the sum must equal.
            "heads": all heads side by side, whose shares must sum to the next write.
            "attention": attention weights `[row, head, query, key]`.
            "values": a whole tensor, not only the tokens that were asked for.
            "next": the stream as the model goes on with it, after it was read of a block.
        side: "in" or "out": what the module takes, or what it gives.
        module: The module's path.
        operations: Done to the tensor after it was read.
        slots: The vectors that the tensor is added to.
        scales: Of a "before" and a "norm", where the sums are to be checked: of a norm, `between`
            is its call.
        heads: Of "heads".
        has_heads: Whether a "write" is the sum of the heads that were read last.
        output: Which output of the module holds the weights of "attention".
        factor: Of "next": by which the model multiplied the block's output before.
        at: Where it proves an edit: the layer, at whose edited tokens it is read; else None, and it
            is read at the tokens asked for.
    """

    role: str
    side: str
    module: str
    operations: tuple[Any, ...] = ()
    slots: tuple[int, ...] = ()
    scales: StreamScales | None = None
    heads: HeadSplit | None = None
    has_heads: bool = False
    output: int = 0
    factor: float = 1.0
    at: int | None = None


class EditStep(NamedTuple):
    """One tensor of the running model that is edited.

    Attributes:
        role: "edit", or "hold": keep the tensor for an edit of the stream that comes later, which
            is made by what is added to it; or "settle": measure that such an edit has made the
            stream that was asked for, and let what takes it have that to the last bit; or "finish":
            give the stream after the block what that sum lacked.
        site: Which of the batch's edits it is.
        layer: The layer that it is in.
        side: "in" or "out": what the module takes, or what it gives.
        module: The module's path.
        operations: What the model does to the tensor before it is what is edited. An edit is taken
            back through them.
        columns: Those of one head; None for all.
        is_stream: Whether the stream itself is edited, and not what is added to it.
        is_after: Whether that is the stream after the block.
        slots: The vectors that the change of the stream is added to.
    """

    role: str
    site: int
    layer: int
    side: str
    module: str
    operations: tuple[Any, ...] = ()
    columns: tuple[int, ...] | None = None
    is_stream: bool = False
    is_after: bool = False
    slots: tuple[int, ...] = ()


class SiteRead(NamedTuple):
    """Which vector a site is decoded from, and how.

    Attributes:
        slot: The vector that `collect` gives; for one head that of all heads of its layer.
        head: Of one head: its columns and the way to the stream, as a split with one head; else
            None.
        apply_norm: Whether the final norm is applied.
        transport: The map from the site to the stream before the final norm.
    """

    slot: int
    head: HeadSplit | None = None
    apply_norm: bool = True
    transport: Transport = IDENTITY


class StreamLinks(NamedTuple):
    """The layers after which a stream is read, but for the last, which the logits prove.

    Attributes:
        compared: Those whose stream is compared with what the model goes on with, and perhaps the
            last layer.
        not_compared: Those where that cannot be read.
    """

    compared: list[int]
    not_compared: list[int]


class ReadPlan(NamedTuple):
    """Everything that a lens reads of a model.

    Attributes:
        steps: In the order in which the model runs, edits among them.
        n_slots: How many vectors they fill.
        sites: The reads that a result shows, and last the certificate's: the last layer through the
            final norm. Where the last site is read in that way, it is both.
        links: Which streams are compared with what the model goes on with.
    """

    steps: Sequence[ReadStep | EditStep]
    n_slots: int
    sites: list[SiteRead]
    links: StreamLinks
