"""What an attribution splits a logit into.

Three things must agree and are made here from the same list of blocks: the plan for `collect`, the
parts for
`decompose`, and the names in `Attribution.parts`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Part
from lens_recipes.models.structure.parts import Anatomy, Block
from lens_recipes.recipes.attribution.edit_parts import (
    LayerChanges,
    edit_part,
    read_before_edits,
)
from lens_recipes.run.request.edits.planned import PlannedEdit
from lens_recipes.run.request.read_plan import (
    LinkReaders,
    Step,
    block_steps,
    link_steps,
    links_of,
    proof_steps,
)
from lens_recipes.run.request.sites import heads_of
from lens_recipes.trace.attribution.parts import (
    HeadParts,
    LaterOperation,
    LogitParts,
    NormAtSlot,
    SourceParts,
    SummedParts,
    WholePart,
)
from lens_recipes.trace.plan import HeadSplit, ReadStep, StreamLinks


class PartPlan(NamedTuple):
    """What is to be read, and the parts that are made of it.

    Attributes:
        steps: In the order in which the model runs.
        parts: In the order of the result.
        n_slots: How many vectors the steps fill.
        explained_slot, final_slot: The vectors of the stream that is explained, and of the last
            one.
        links: Which streams are compared with what the model goes on with.
    """

    steps: list[Step]
    parts: list[LogitParts]
    n_slots: int
    explained_slot: int
    final_slot: int
    links: StreamLinks


def plan_parts(
    all_blocks: list[Block],
    explained_layer: int,
    unit: str,
    anatomy: Anatomy,
    readers: LinkReaders,
    edits: Sequence[PlannedEdit] = (),
) -> PartPlan:
    """Return what is to be read for the parts of a logit after one of the blocks.

    Args:
        all_blocks: The model's.
        explained_layer: The block after which the logit is explained.
        unit: What a part is: "layer", "component", "head" or "token".
        anatomy: Where the model keeps its parts.
        readers: Where the streams that are explained can be compared with what the model goes on
            with.
        edits: Made on the way, also after the block whose logit is explained.
    """
    blocks = all_blocks[: explained_layer + 1]
    slots = itertools.count()
    embed_slot = next(slots)
    steps: list[Step] = []
    norm_slots = [[next(slots) for _ in block.norms] for block in blocks]
    later_of = LaterOperations(blocks, norm_slots)
    parts: list[LogitParts] = [WholePart(later_of.layer(-1), embed_slot)]
    explained_slot = embed_slot
    links: list[Step] = []  # of the block before: they are read where the next one begins
    for layer, block in enumerate(blocks):
        own_edits = [item for item in edits if item.site.layer == layer]
        block_slots: dict[str, tuple[int, ...]] = {"embed": (embed_slot,)}
        if unit == "layer":
            parts += layer_part(block, layer, later_of, slots, block_slots)
        else:
            for component in components_of(block):
                later = later_of.write(layer, component)
                if component == "attn_out" and unit in ("head", "token"):
                    parts.append(
                        attention_parts(block, layer, unit, anatomy, later, slots, block_slots)
                    )
                else:
                    slot = next(slots)
                    block_slots[component] = (slot,)
                    parts.append(WholePart(later, slot))
        heads_slot = block_slots.get("head_out", (None,))[0]
        own_edits, edited = edit_part(
            own_edits, unit, block, later_of.edits(layer), heads_slot, slots, anatomy.family
        )
        parts += edited
        if layer == explained_layer:
            explained_slot = next(slots)
            block_slots["resid_post"] = (explained_slot,)
        own_steps = block_steps(
            block,
            block_slots,
            is_first=layer == 0,
            is_checked=True,
            norm_slots=norm_slots[layer],
            edits=own_edits,
        )
        own_steps = read_before_edits(own_steps, own_edits)
        if layer not in anatomy.layers:  # text passes over it: nothing of it runs
            steps += own_steps
            continue
        steps += [*links, *own_steps]
        links = []
        if layer < explained_layer:  # what the next block takes is read there, to be checked
            links = list(proof_steps(layer, own_edits, anatomy, LinkReaders.any))
    steps += links
    final_slot = explained_slot
    if explained_layer < anatomy.last_layer:
        final_slot = next(slots)
    after = LaterSteps(all_blocks, anatomy, readers, edits)
    steps += after.of(explained_layer, explained_slot, final_slot)
    layers_after = {explained_slot: explained_layer, final_slot: anatomy.last_layer}
    stream_links = links_of(steps, layers_after, anatomy.last_layer)
    return PartPlan(steps, parts, next(slots), explained_slot, final_slot, stream_links)


class LaterSteps:
    """What is read after the block whose logit is explained: the last stream, and edits' proofs."""

    def __init__(
        self,
        blocks: list[Block],
        anatomy: Anatomy,
        readers: LinkReaders,
        edits: Sequence[PlannedEdit],
    ) -> None:
        """Take all blocks, and the edits of all of them."""
        self.blocks = blocks
        self.anatomy = anatomy
        self.readers = readers
        self.edits = edits

    def of(self, explained_layer: int, explained_slot: int, final_slot: int) -> list[Step]:
        """Return the steps after those of a block, whose stream is read into a vector."""
        last_layer = self.anatomy.last_layer
        steps = self.links(explained_layer, explained_slot)
        for layer in range(explained_layer + 1, last_layer + 1):
            slot = final_slot if layer == last_layer else None
            steps += self.within(layer, slot)
            steps += self.links(layer, slot)
        return steps

    def within(self, layer: int, slot: int | None) -> list[Step]:
        """Return the edits of a block, and the step that reads the stream after it, if it is."""
        slots: tuple[int, ...] = () if slot is None else (slot,)
        own_edits = self.edits_of(layer)
        if own_edits:
            steps: list[Step] = []
            block_slots: dict[str, tuple[int, ...]] = {"resid_post": slots} if slots else {}
            for step in block_steps(
                self.blocks[layer], block_slots, is_first=False, is_checked=False, edits=own_edits
            ):
                # No sum was begun at this block, which the stream could be compared with.
                if isinstance(step, ReadStep) and step.at is None:
                    step = step._replace(role="read")
                steps.append(step)
            return steps
        if not slots:
            return []
        return [ReadStep("read", "out", self.anatomy.block(layer), slots=slots)]

    def links(self, layer: int, slot: int | None) -> list[Step]:
        """Return how the stream after a block is compared with what the model goes on with."""
        slots = () if slot is None else (slot,)
        # What the next block takes may be read within it, and is then not read there first.
        is_read = bool(self.edits_of(layer + 1))
        readers = LinkReaders.any if is_read else self.readers
        return [
            *proof_steps(layer, self.edits_of(layer), self.anatomy, readers),
            *link_steps(layer, slots, self.anatomy, readers),
        ]

    def edits_of(self, layer: int) -> list[PlannedEdit]:
        """Return the edits of a layer."""
        return [item for item in self.edits if item.site.layer == layer]


def layer_part(
    block: Block,
    layer: int,
    later_of: LaterOperations,
    slots: itertools.count[int],
    block_slots: dict[str, tuple[int, ...]],
) -> list[LogitParts]:
    """Return the one part of a layer, and note in `block_slots` what is read for it.

    A layer that text passes over has none.
    """
    slot_of_stretch: dict[int, int] = {}
    parts = []
    for write in block.writes:
        if write.n_norms_before not in slot_of_stretch:
            slot_of_stretch[write.n_norms_before] = next(slots)
            later = later_of.stretch(layer, write.n_norms_before)
            parts.append(WholePart(later, slot_of_stretch[write.n_norms_before]))
        block_slots[write.component] = (slot_of_stretch[write.n_norms_before],)
    if len(parts) > 1:
        return [SummedParts(parts)]
    return list(parts)


def attention_parts(
    block: Block,
    layer: int,
    unit: str,
    anatomy: Anatomy,
    later: list[LaterOperation],
    slots: itertools.count[int],
    block_slots: dict[str, tuple[int, ...]],
) -> HeadParts | SourceParts:
    """Return the parts of one attention, and note in `block_slots` what is read for them.

    Parts are heads, or heads by the token that each of them reads.
    """
    slot = next(slots)
    block_slots["head_out"] = (slot,)
    heads = heads_of(block, layer, anatomy.family)
    split = HeadSplit(heads.columns, list(heads.to_stream))
    if unit == "head":
        return HeadParts(later, slot, split)
    sources = heads.sources
    assert sources is not None  # `readable_blocks` has seen to it
    attention_slot, values_slot = next(slots), next(slots)
    block_slots["attention"] = (attention_slot,)
    block_slots["values"] = (values_slot,)
    return SourceParts(
        later,
        slot,
        split,
        attention_slot,
        values_slot,
        sources.value_columns,
        sources.values.path,
        sources.value_width,
    )


def components_of(block: Block) -> list[str]:
    """Return what a block adds, each component once."""
    return list(dict.fromkeys(write.component for write in block.writes))


class LaterOperations:
    """What is done to the stream after something was added to it. Nothing in most models."""

    def __init__(self, blocks: list[Block], norm_slots: list[list[int]]) -> None:
        """Take all blocks, and where the stream before each of their norms is read."""
        self.blocks = blocks
        self.norm_slots = norm_slots
        self.after_layer: dict[int, list[LaterOperation]] = {len(blocks) - 1: []}
        for layer in reversed(range(len(blocks))):
            block = blocks[layer]
            self.after_layer[layer - 1] = [
                *block.interblock_scale,
                *block.residual_scale,
                *self.stretch(layer, 0),
            ]

    def layer(self, layer: int) -> list[LaterOperation]:
        """Return what follows a block (−1: the embedding)."""
        return self.after_layer[layer]

    def write(self, layer: int, component: str) -> list[LaterOperation]:
        """Return what follows the writes of one component in a block."""
        for write in self.blocks[layer].writes:
            if write.component == component:
                return self.stretch(layer, write.n_norms_before)
        raise KeyError(component)

    def edits(self, layer: int) -> LayerChanges:
        """Return what follows edits of a block."""
        block = self.blocks[layer]
        attention = self.layer(layer)
        if "attn_out" in components_of(block):
            attention = self.write(layer, "attn_out")
        return LayerChanges(
            before=[*block.residual_scale, *self.stretch(layer, 0)],
            attention=attention,
            after=self.layer(layer),
        )

    def stretch(self, layer: int, n_norms_before: int) -> list[LaterOperation]:
        """Return what follows the writes between two norms of a block."""
        return [*self._norms(layer, n_norms_before), *self.layer(layer)]

    def _norms(self, layer: int, first: int) -> list[LaterOperation]:
        """Return the norms of a block from the given one on, with the scales after them."""
        operations: list[LaterOperation] = []
        norms = self.blocks[layer].norms
        for norm, slot in list(zip(norms, self.norm_slots[layer], strict=True))[first:]:
            operations += [NormAtSlot(norm.call, slot), *norm.scale]
        return operations


# -- names -------------------------------------------------------------


def name_parts(
    blocks: list[Block], unit: str, longest: int, edited: Sequence[int] = ()
) -> list[Part]:
    """Return the names of all parts, in the order of `Attribution.values`.

    Args:
        blocks: All blocks up to the one whose logit is explained.
        unit: What a part is.
        longest: How many tokens the longest prompt has, for parts by source.
        edited: The layers in which edits are a part.
    """
    names = [Part(0, "embed")]
    for layer, block in enumerate(blocks):
        names += name_block(block, layer, unit, longest)
        if layer in edited:
            names.append(Part(layer, "edit"))
    return [*names, Part(None, "bias")]


def name_block(block: Block, layer: int, unit: str, longest: int) -> list[Part]:
    """Return the names of one block's parts."""
    if unit == "layer":
        # A block that a text prompt passes over adds nothing.
        return [Part(layer, "layer")] if block.writes else []
    names = []
    for component in components_of(block):
        if component != "attn_out" or unit == "component":
            names.append(Part(layer, component))
            continue
        for head in range(block.n_heads):
            names += name_head(layer, head, unit, longest)
        names.append(Part(layer, "attn_bias"))
    return names


def name_head(layer: int, head: int, unit: str, longest: int) -> list[Part]:
    """Return the names of one head's parts."""
    if unit == "head":
        return [Part(layer, "head_out", head)]
    sources = [Part(layer, "head_out", head, source) for source in range(longest)]
    return [*sources, Part(layer, "value_bias", head)]


def count_parts(blocks: list[Block], unit: str, n_sources: int, edited: Sequence[int] = ()) -> int:
    """Return how many parts there are, without the last, which is the head's own bias.

    By source there are tens of thousands, which take longer to name than to count.
    """
    n_parts = len(name_parts(blocks, unit, 0, edited)) - 1
    return n_parts + count_heads(blocks) * n_sources if unit == "token" else n_parts


def count_heads(blocks: list[Block]) -> int:
    """Return how many heads all blocks have together."""
    return sum(block.n_heads for block in blocks if "attn_out" in components_of(block))


def widen_sources(
    values: np.ndarray,
    blocks: list[Block],
    unit: str,
    longest: int,
    edited: Sequence[int] = (),
) -> np.ndarray:
    """Return the parts of a batch with room for the sources of the longest prompt.

    What is not there adds nothing.

    `values` are `[part, token, column]`.
    """
    if unit != "token" or len(values) == count_parts(blocks, unit, longest, edited):
        return values
    n_heads = count_heads(blocks)
    n_sources = longest - (count_parts(blocks, unit, longest, edited) - len(values)) // n_heads
    n_parts = count_parts(blocks, unit, longest, edited)
    widened = np.zeros((n_parts, *values.shape[1:]), values.dtype)
    names = name_parts(blocks, unit, longest, edited)[:-1]
    present = [index for index, part in enumerate(names) if (part.source or 0) < n_sources]
    widened[present] = values
    return widened
