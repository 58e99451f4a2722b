"""What edits add to a logit: parts of their own, beside those of the model.

An edit of the stream is nobody's output, and adds what it has changed there. An edit of what a
module or a head adds changes that part by itself; only where the part is split further is the edit
beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from lens_recipes.models.structure.parts import Block
from lens_recipes.run.request.edits.planned import STREAM, PlannedEdit
from lens_recipes.run.request.read_plan import Step
from lens_recipes.run.request.sites import heads_of
from lens_recipes.trace.attribution.parts import (
    EditedHead,
    LaterOperation,
    LogitParts,
    SummedParts,
    WholePart,
)
from lens_recipes.trace.plan import EditStep, HeadSplit, ReadStep


class LayerChanges(NamedTuple):
    """What edits of the stream in one block add, and what is done to it after.

    Attributes:
        before: What follows the stream before the block.
        attention: What follows what attention adds.
        after: What follows the stream after the block.
    """

    before: list[LaterOperation]
    attention: list[LaterOperation]
    after: list[LaterOperation]

    def of(self, component: str) -> list[LaterOperation]:
        """Return what follows an edit of a component."""
        if component in ("embed", "resid_pre"):
            return self.before
        return self.after if component == "resid_post" else self.attention


def is_part(item: PlannedEdit, unit: str) -> bool:
    """Tell whether an edit is a part of its own, where a part is such a unit."""
    component = item.site.component
    if component in STREAM:
        return True
    if component == "attn_out":  # split into heads, which the edit does not change
        return unit in ("head", "token")
    return component == "head_out" and unit == "token"


def edit_layers(edits: Sequence[PlannedEdit], unit: str, last_layer: int) -> list[int]:
    """Return the layers up to one in which an edit is a part, ascending."""
    layers = set()
    for item in edits:
        layer = item.site.layer
        assert layer is not None  # `plan_edits` gives layers
        if is_part(item, unit) and layer <= last_layer:
            layers.add(layer)
    return sorted(layers)


def edit_part(
    edits: list[PlannedEdit],
    unit: str,
    block: Block,
    changes: LayerChanges,
    heads_slot: int | None,
    slots: itertools.count[int],
    family: str,
) -> tuple[list[PlannedEdit], list[LogitParts]]:
    """Return the edits of a layer with the vectors that their changes go to, and their one part.

    Args:
        edits: Of the layer.
        unit: What a part is.
        block: The layer's.
        changes: What is done to the stream after them.
        heads_slot: The vector of all heads side by side, where they are read.
        slots: Gives the number of a new vector.
        family: The model's class.
    """
    with_slots = []
    parts: list[WholePart | EditedHead] = []
    for item in edits:
        if not is_part(item, unit):
            with_slots.append(item)
            continue
        slot = next(slots)
        later = changes.of(item.site.component)
        if item.columns is None:
            parts.append(WholePart(later, slot))
        else:
            assert heads_slot is not None  # a head is a part only where all of them are read
            assert item.site.layer is not None
            heads = heads_of(block, item.site.layer, family)
            split = HeadSplit([list(item.columns)], list(heads.to_stream))
            parts.append(EditedHead(later, slot, heads_slot, split))
        with_slots.append(to_slot(item, slot))
    if len(parts) > 1:
        return with_slots, [SummedParts(parts)]
    return with_slots, list(parts)


def to_slot(item: PlannedEdit, slot: int) -> PlannedEdit:
    """Return an edit whose change is added to a vector."""
    steps = []
    for timed in item.steps:
        if timed.step.role == "edit":
            timed = timed._replace(step=timed.step._replace(slots=(slot,)))
        steps.append(timed)
    return item._replace(steps=steps)


def read_before_edits(steps: list[Step], edits: Sequence[PlannedEdit]) -> list[Step]:
    """Return a block's steps so that its own parts are read before the stream is edited.

    The embedding is read before an edit of the stream that begins with it, and what attention adds
    before an edit of the stream in the middle, which is made by what attention adds.
    """
    for component, role in (("embed", "before"), ("resid_pre", "before"), ("resid_mid", "write")):
        numbers = edit_numbers(edits, component)
        if numbers:
            steps = read_before(steps, numbers, role)
    return steps


def edit_numbers(edits: Sequence[PlannedEdit], component: str) -> set[int]:
    """Return the numbers of the edits of a component."""
    numbers: set[int] = set()
    for item in edits:
        if item.site.component == component:
            numbers.update(timed.step.site for timed in item.steps)
    return numbers


def read_before(steps: list[Step], numbers: set[int], role: str) -> list[Step]:
    """Return steps of which one is read where some edits find it, and not after them.

    Args:
        steps: Of a block, in the order in which the model runs.
        numbers: Which edits.
        role: Of the step that reads what they change.
    """
    place, first = first_edit(steps, numbers)
    for index, step in enumerate(steps[place:], place):
        if not isinstance(step, ReadStep) or step.role != role or step.at is not None:
            continue
        if role == "write" and step.module != first.module:
            continue
        if not step.slots:
            return steps
        earlier = ReadStep("read", first.side, first.module, first.operations, step.slots)
        rest = [*steps[place:index], step._replace(slots=()), *steps[index + 1 :]]
        return [*steps[:place], earlier, *rest]
    return steps


def first_edit(steps: list[Step], numbers: set[int]) -> tuple[int, EditStep]:
    """Return the first of some edits that are made among steps, and its place."""
    for place, step in enumerate(steps):
        if isinstance(step, EditStep) and step.role == "edit" and step.site in numbers:
            return place, step
    raise KeyError(numbers)
