"""What an attribution splits a logit into: what is read for each part, what the parts are called, and in which order.

Three things that must agree are made here from the same list of blocks: the plan for `collect`, the groups for
`decompose`, and the names in `Attribution.parts`.
"""

from __future__ import annotations

import itertools

import numpy as np

from lens_recipes.arrays.axes import Part
from lens_recipes.models.structure.anatomy import Anatomy
from lens_recipes.models.structure.parts import Block
from lens_recipes.run.batches import Batch
from lens_recipes.run.sites import block_plan, heads_of
from lens_recipes.trace.operations import Operation


def groups_of(
    blocks: list[Block], unit: str, parts: Anatomy, batch: Batch
) -> tuple[list[tuple], list[tuple], int]:
    """What is to be read, the groups of parts that `decompose` makes of it, and how many vectors that is."""
    plan: list[tuple] = []
    groups: list[tuple] = []
    slots = itertools.count()
    first = next(slots)
    groups.append(("one", _later(blocks, -1), first))
    for layer, block in enumerate(blocks):
        later = _later(blocks, layer)
        own: dict[str, tuple[int, ...]] = {"embed": (first,)}
        if unit == "layer":
            slot = next(slots)
            own |= {write.component: (slot,) for write in block.writes}
            groups.append(("one", later, slot))
        else:
            for name in _components(block):
                split_up = name == "attn_out" and unit in ("head", "token")
                slot = next(slots)
                own["head_out" if split_up else name] = (slot,)
                if not split_up:
                    groups.append(("one", later, slot))
                    continue
                heads = heads_of(block, layer, parts.family)
                group: tuple = ("heads", later, slot, heads.columns, list(heads.to_stream))
                if unit == "token":
                    sources = heads.sources
                    assert sources is not None  # `_checked` has seen to it
                    seen, value = next(slots), next(slots)
                    own |= {"attention": (seen,), "values": (value,)}
                    how = (sources.values.path, sources.value_width)
                    group = (
                        "sources",
                        *group[1:],
                        seen,
                        value,
                        sources.value_columns,
                        how,
                        batch.rows.tolist(),
                    )
                groups.append(group)
        if layer == len(blocks) - 1:
            own["resid_post"] = (next(slots),)
        plan += block_plan(block, own, first=layer == 0, checked=True)
    return plan, groups, next(slots)


def _components(block: Block) -> list[str]:
    return list(dict.fromkeys(write.component for write in block.writes))


def _later(blocks: list[Block], layer: int) -> list[Operation]:
    """What is done to the stream after a block (−1: from the embedding on), nothing in most models."""
    return [
        step
        for block in blocks[layer + 1 :]
        for step in (*block.interblock_scale, *block.residual_scale)
    ]


def name_parts(blocks: list[Block], unit: str, longest: int) -> list[Part]:
    """The names of all parts, in the order of `Attribution.values`."""
    named = [Part(0, "embed")]
    for layer, block in enumerate(blocks):
        if unit == "layer":
            named.append(Part(layer, "layer"))
            continue
        for name in _components(block):
            if name != "attn_out" or unit == "component":
                named.append(Part(layer, name))
                continue
            for head in range(block.n_heads):
                if unit == "head":
                    named.append(Part(layer, "head_out", head))
                else:
                    named += [Part(layer, "head_out", head, source) for source in range(longest)]
                    named.append(Part(layer, "value_bias", head))
            named.append(Part(layer, "attn_bias"))
    return [*named, Part(None, "bias")]


def spread(values: np.ndarray, blocks: list[Block], unit: str, longest: int) -> np.ndarray:
    """The parts of a batch with room for the sources of the longest prompt; what is not there adds nothing."""
    if unit != "token":
        return values
    per_head = [
        i for i, part in enumerate(name_parts(blocks, unit, 1)) if part.component == "value_bias"
    ]
    others = len(name_parts(blocks, unit, 0)) - 1 - len(per_head)
    here = (len(values) - others - len(per_head)) // len(per_head)  # sources in this batch
    wide = np.zeros((others + len(per_head) * (longest + 1), *values.shape[1:]), values.dtype)
    wide[
        [
            i
            for i, part in enumerate(name_parts(blocks, unit, longest)[:-1])
            if (part.source or 0) < here
        ]
    ] = values
    return wide
