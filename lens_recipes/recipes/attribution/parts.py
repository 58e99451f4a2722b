"""What an attribution splits a logit into.

Three things must agree and are made here from the same list of blocks: the plan for `collect`, the
parts for
`decompose`, and the names in `Attribution.parts`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Part
from lens_recipes.models.structure.parts import Anatomy, Block
from lens_recipes.run.request.read_plan import LinkReaders, Step, block_steps, link_steps, links_of
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


def plan_parts(blocks: list[Block], unit: str, anatomy: Anatomy, readers: LinkReaders) -> PartPlan:
    """Return what is to be read for the parts of a logit after the last of some blocks.

    Args:
        blocks: All blocks up to the one whose logit is explained.
        unit: What a part is: "layer", "component", "head" or "token".
        anatomy: Where the model keeps its parts.
        readers: Where the streams that are explained can be compared with what the model goes on
            with.
    """
    slots = itertools.count()
    embed_slot = next(slots)
    steps: list[Step] = []
    norm_slots = [[next(slots) for _ in block.norms] for block in blocks]
    later_of = LaterOperations(blocks, norm_slots)
    parts: list[LogitParts] = [WholePart(later_of.layer(-1), embed_slot)]
    explained_slot = embed_slot
    for layer, block in enumerate(blocks):
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
        if layer == len(blocks) - 1:
            explained_slot = next(slots)
            block_slots["resid_post"] = (explained_slot,)
        steps += block_steps(
            block,
            block_slots,
            is_first=layer == 0,
            is_checked=True,
            norm_slots=norm_slots[layer],
        )
    explained_layer, last_layer = len(blocks) - 1, anatomy.last_layer
    steps += link_steps(explained_layer, (explained_slot,), anatomy, readers)
    final_slot = explained_slot
    if explained_layer < last_layer:
        final_slot = next(slots)
        last_block = anatomy.block(last_layer)
        steps.append(ReadStep("read", "out", last_block, slots=(final_slot,)))
        steps += link_steps(last_layer, (final_slot,), anatomy, readers)
    links = links_of(steps, {explained_slot: explained_layer, final_slot: last_layer}, last_layer)
    return PartPlan(steps, parts, next(slots), explained_slot, final_slot, links)


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


def name_parts(blocks: list[Block], unit: str, longest: int) -> list[Part]:
    """Return the names of all parts, in the order of `Attribution.values`.

    Args:
        blocks: All blocks up to the one whose logit is explained.
        unit: What a part is.
        longest: How many tokens the longest prompt has, for parts by source.
    """
    names = [Part(0, "embed")]
    for layer, block in enumerate(blocks):
        if unit == "layer":
            # A block that a text prompt passes over adds nothing.
            if block.writes:
                names.append(Part(layer, "layer"))
            continue
        for component in components_of(block):
            if component != "attn_out" or unit == "component":
                names.append(Part(layer, component))
                continue
            for head in range(block.n_heads):
                names += name_head(layer, head, unit, longest)
            names.append(Part(layer, "attn_bias"))
    return [*names, Part(None, "bias")]


def name_head(layer: int, head: int, unit: str, longest: int) -> list[Part]:
    """Return the names of one head's parts."""
    if unit == "head":
        return [Part(layer, "head_out", head)]
    sources = [Part(layer, "head_out", head, source) for source in range(longest)]
    return [*sources, Part(layer, "value_bias", head)]


def count_parts(blocks: list[Block], unit: str, n_sources: int) -> int:
    """Return how many parts there are, without the last, which is the head's own bias.

    By source there are tens of thousands, which take longer to name than to count.
    """
    n_parts = len(name_parts(blocks, unit, 0)) - 1
    return n_parts + count_heads(blocks) * n_sources if unit == "token" else n_parts


def count_heads(blocks: list[Block]) -> int:
    """Return how many heads all blocks have together."""
    return sum(block.n_heads for block in blocks if "attn_out" in components_of(block))


def widen_sources(values: np.ndarray, blocks: list[Block], unit: str, longest: int) -> np.ndarray:
    """Return the parts of a batch with room for the sources of the longest prompt.

    What is not there adds nothing.

    `values` are `[part, token, column]`.
    """
    if unit != "token" or len(values) == count_parts(blocks, unit, longest):
        return values
    n_heads = count_heads(blocks)
    n_sources = longest - (count_parts(blocks, unit, longest) - len(values)) // n_heads
    n_parts = count_parts(blocks, unit, longest)
    widened = np.zeros((n_parts, *values.shape[1:]), values.dtype)
    names = name_parts(blocks, unit, longest)[:-1]
    present = [index for index, part in enumerate(names) if (part.source or 0) < n_sources]
    widened[present] = values
    return widened
