"""At which tensors of the model each edit is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Patch, Steering, Swap
from lens_recipes.errors import LensError
from lens_recipes.models.components import WRITES_BEFORE_MIDDLE
from lens_recipes.models.structure.parts import Anatomy, Block, HookPoint
from lens_recipes.run.request.edits.resolve import naming
from lens_recipes.run.request.sites import heads_of, pick_sites
from lens_recipes.trace.edits.apply import can_be_undone
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import EditStep

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
BEFORE_BLOCK = -1  # the time of what a block takes: before all that is in it


class TimedStep(NamedTuple):
    """A step within a block, and when it is taken.

    Attributes:
        time: As of a `HookPoint`.
        rank: Which of the steps at one time comes first: edits of what is added (0), of the
            stream that is made by it (1), reads (2), edits of the stream after the block (3), and
            reads of what they left (4).
        step: An `EditStep` or a `ReadStep`.
    """

    time: int
    rank: int
    step: Any


class PlannedEdit(NamedTuple):
    """One edit at one site.

    Attributes:
        edit: What is done.
        site: Where.
        steps: The steps that make it, in their block.
        source: Where another run is read, if something is copied from it, with the operations from
            there to what is copied.
        columns: Those of one head, or None.
        share: How much of the way from what is there to what the edit puts there is gone.
    """

    edit: Edit
    site: Site
    steps: list[TimedStep]
    source: HookPoint
    columns: tuple[int, ...] | None
    share: float = 1.0

    @property
    def number(self) -> int:
        """Its number among the edits of a batch."""
        return int(self.steps[-1].step.site)


def plan_edits(
    edits: list[Edit],
    find_blocks: Callable[[], list[Block]],
    anatomy: Anatomy,
    first: int = 0,
) -> list[PlannedEdit]:
    """Return each edit at each of its sites, numbered in this order from `first` on.

    Raises:
        ValueError: a site that the model does not have.
        LensError: one that cannot be edited in it; the message says why.
    """
    planned: list[PlannedEdit] = []
    for edit in edits:
        for site in edited_sites(edit, find_blocks, anatomy):
            planned.append(plan_site(edit, site, first + len(planned), find_blocks, anatomy))
    return planned


def plan_site(
    edit: Edit, site: Site, number: int, find_blocks: Callable[[], list[Block]], anatomy: Anatomy
) -> PlannedEdit:
    """Return one edit at one site, under a number.

    Raises:
        LensError: it cannot be edited; the message says why.
    """
    if site.component == "resid_post":
        return stream_after(edit, site, number, anatomy)
    block = find_blocks()[site.layer]  # type: ignore[index]
    return within_block(edit, site, number, block, anatomy)


def edited_sites(
    edit: Edit, find_blocks: Callable[[], list[Block]], anatomy: Anatomy
) -> list[Site]:
    """Return the sites that an edit names.

    Raises:
        ValueError, LensError: as `pick_sites`.
    """
    blocks = [] if edit.component == "resid_post" else find_blocks()
    layer = 0 if edit.component == "embed" else edit.layer
    if edit.component == "embed":
        layer = anatomy.layers[0]
    with naming(edit):
        return pick_sites(edit.component, edit.head, layer, blocks, anatomy)


def stream_after(edit: Edit, site: Site, number: int, anatomy: Anatomy) -> PlannedEdit:
    """Return an edit of the stream after a block, which needs no look inside it."""
    assert site.layer is not None  # `pick_sites` gives layers
    path = anatomy.block(site.layer)
    step = EditStep("edit", number, site.layer, "out", path, is_stream=True, is_after=True)
    after = HookPoint(time=0, side="out", path=path)
    return PlannedEdit(edit, site, [TimedStep(0, 3, step)], after, None)


def stream_before(
    edit: Edit, site: Site, number: int, block: Block, anatomy: Anatomy
) -> PlannedEdit:
    """Return an edit of the stream before a block.

    The stream is read of the first module in the block that takes it, but edited as the block
    itself takes it: what goes around that module is the stream, too.
    """
    point = block.resid_pre
    assert site.layer is not None  # `pick_sites` gives layers
    if point.side == "out":  # the stream begins after a norm of the block's own
        refuse_operations(point.operations, site, anatomy.family)
        step = EditStep("edit", number, site.layer, "out", point.path, is_stream=True)
        return PlannedEdit(edit, site, [TimedStep(point.time, 0, step)], point, None)
    step = EditStep("edit", number, site.layer, "in", anatomy.block(site.layer), is_stream=True)
    return PlannedEdit(edit, site, [TimedStep(BEFORE_BLOCK, 0, step)], point, None)


def within_block(
    edit: Edit, site: Site, number: int, block: Block, anatomy: Anatomy
) -> PlannedEdit:
    """Return an edit before or within a block.

    Raises:
        LensError: the site cannot be edited.
    """
    family = anatomy.family
    layer, component = site.layer, site.component
    assert layer is not None  # `pick_sites` gives layers
    if component in ("embed", "resid_pre"):
        return stream_before(edit, site, number, block, anatomy)
    if component == "head_out":
        heads = heads_of(block, layer, family)
        assert site.head is not None  # `pick_sites` names one
        columns = tuple(heads.columns[site.head])
        point = heads.point
        step = EditStep("edit", number, layer, point.side, point.path, columns=columns)
        return PlannedEdit(edit, site, [TimedStep(point.time, 0, step)], point, columns)
    if component == "resid_mid":
        return middle_of_block(edit, site, number, block, family)
    writes = [write for write in block.writes if write.component == component]
    if len(writes) > 1:
        raise LensError(
            f"{family}: {component} of layer {layer} is written at {len(writes)} places, so it "
            "cannot be edited as one."
        )
    point = writes[0].point
    refuse_operations(point.operations, site, family)
    step = EditStep("edit", number, layer, point.side, point.path, point.operations)
    return PlannedEdit(edit, site, [TimedStep(point.time, 0, step)], point, None)


def middle_of_block(edit: Edit, site: Site, number: int, block: Block, family: str) -> PlannedEdit:
    """Return an edit of the stream between attention and MLP.

    Where a module gives that stream alone, it is edited there. Elsewhere it is edited by what is
    added last before it; what takes it is then given the very numbers that were asked for, and so
    is the sum after the block: of a stream of nearly nothing a rounded sum would be all there is.

    Raises:
        LensError: the stream passes through norms or is scaled within the block, or what comes
            before cannot be told.
    """
    layer = site.layer
    assert layer is not None  # `pick_sites` has seen to it
    middle = block.resid_mid
    assert middle is not None
    before = [write for write in block.writes if write.component in WRITES_BEFORE_MIDDLE]
    if block.norms or block.residual_scale or not before:
        raise LensError(
            f"{family}: resid_mid of layer {layer} cannot be edited, as the stream passes through "
            "norms or is scaled on its way to it. Edit attn_out or resid_post."
        )
    if middle.side == "out":
        refuse_operations(middle.operations, site, family)
        only = EditStep("edit", number, layer, "out", middle.path, middle.operations)
        return PlannedEdit(edit, site, [TimedStep(middle.time, 1, only)], middle, None)
    last = before[-1].point
    refuse_operations(last.operations, site, family)
    stream = block.resid_pre
    hold = EditStep("hold", number, layer, stream.side, stream.path, stream.operations)
    steps = [TimedStep(stream.time, 1, hold)]
    for write in before[:-1]:
        point = write.point
        held = EditStep("hold", number, layer, point.side, point.path, point.operations)
        steps.append(TimedStep(point.time, 1, held))
    step = EditStep("edit", number, layer, last.side, last.path, last.operations)
    steps.append(TimedStep(last.time, 1, step))
    settle = EditStep("settle", number, layer, "in", middle.path)
    steps.append(TimedStep(middle.time, 1, settle))
    after = block.resid_post
    finish = EditStep("finish", number, layer, after.side, after.path)
    steps.append(TimedStep(after.time, 1, finish))
    return PlannedEdit(edit, site, steps, middle, None)


def refuse_operations(operations: tuple[Operation, ...], site: Site, family: str) -> None:
    """Raise LensError if an edit cannot be taken back through what the model does to a tensor."""
    if can_be_undone(operations):
        return
    names = ", ".join(map(str, operations))
    raise LensError(
        f"{family}: {site.component} of layer {site.layer} cannot be edited: the model does "
        f"{names} between the module and the stream, which cannot be undone. Edit resid_post."
    )


def is_setting(edit: Edit) -> bool:
    """Tell whether an edit sets what is there, so that no other one can set it, too."""
    return not isinstance(edit, Steering)


def copies(edit: Edit) -> bool:
    """Tell whether an edit takes something from another run."""
    if isinstance(edit, Patch):
        return True
    if isinstance(edit, Swap):
        return edit.clamp
    replacement = getattr(edit, "to", None)
    return isinstance(replacement, str) and replacement in ("mean", "resample")
