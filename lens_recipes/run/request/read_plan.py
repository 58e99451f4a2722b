"""Plan how sites are read: at which module each, and what is compared there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import PARTS
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.structure.parts import Anatomy, Block, HookPoint, ResidualWrite
from lens_recipes.run.request.edits.planned import PlannedEdit, TimedStep
from lens_recipes.run.request.lenses import sites_with_transports, transport_of
from lens_recipes.run.request.sites import heads_of, pick_layers, pick_sites
from lens_recipes.trace.plan import (
    EditStep,
    HeadSplit,
    ReadPlan,
    ReadStep,
    SiteRead,
    StreamLinks,
    StreamScales,
)
from lens_recipes.trace.transport import IDENTITY

Step = ReadStep | EditStep


class LinkReaders(Enum):
    """Where a trace may read what the model goes on with after a block."""

    any = "any"  # here: what the next block takes
    lone_first = "lone_first"  # on a server: what a module takes that is given nothing else
    lone_only = "lone_only"  # of a text being written on a server: never beside the cache


def plan_sites(
    anatomy: Anatomy,
    find_blocks: Callable[[], list[Block]],
    layers: Any,
    components: list[str],
    heads: Any = None,
    apply_norm: bool = True,
    readers: LinkReaders = LinkReaders.any,
    lens: Lens | None = None,
    edits: Sequence[PlannedEdit] = (),
) -> tuple[list[Site], ReadPlan]:
    """Return the sites that were asked for, and the plan to read them and the certificate's.

    Each stream after a block is compared with what the model goes on with. With `layers=None`,
    sites for which the lens has no transport are passed over. Edits are made on the way.

    Raises:
        ValueError, LensError: as `pick_sites` and `sites_with_transports`.
    """
    last = Site(anatomy.last_layer)
    any_layer = layers is None
    only_after_blocks = all(item.site.component == "resid_post" for item in edits)
    if components == ["resid_post"] and heads is None and only_after_blocks:
        chosen = [Site(layer) for layer in pick_layers(layers, anatomy)]
        sites = sites_with_transports(chosen, lens, anatomy, any_layer=any_layer)
        read_layers = [site.layer for site in with_site(sites, last) if site.layer is not None]
        steps = stream_steps(read_layers, anatomy, readers, edits)
        slots = {site: slot for slot, site in enumerate(with_site(sites, last))}
        blocks = []
    else:
        blocks = find_blocks()
        asked = pick_sites(components, heads, layers, blocks, anatomy)
        sites = sites_with_transports(asked, lens, anatomy, any_layer=any_layer)
        slots = slots_of(with_site(sites, last))
        steps = site_steps(slots, blocks, anatomy, readers, edits)
    reads = []
    for site in sites:
        read = site_read(site, slots, blocks, anatomy.family, apply_norm)
        transport = transport_of(site, lens, anatomy)
        assert transport is not None  # `sites_with_transports` has seen to it
        reads.append(read._replace(transport=transport))
    if not is_certificate_read(reads[-1], slots[last]):
        reads.append(SiteRead(slots[last]))
    layers_after = {}
    for site, slot in slots.items():
        if site.component == "resid_post" and site.layer is not None:
            layers_after[slot] = site.layer
    links = links_of(steps, layers_after, anatomy.last_layer)
    return sites, ReadPlan(steps, len(slots), reads, links)


def is_certificate_read(read: SiteRead, last_slot: int) -> bool:
    """Tell whether a site is read as the model itself reads its last stream.

    Transports are compared by identity: two named tuples without fields are equal whatever their
    class.
    """
    is_plain = read.head is None and read.apply_norm and read.transport is IDENTITY
    return read.slot == last_slot and is_plain


def with_site(sites: list[Site], last: Site) -> list[Site]:
    """Return the sites, and after them one that must be among them."""
    return sites if last in sites else [*sites, last]


def slots_of(sites: list[Site]) -> dict[Site, int]:
    """Return which vector each site is read into; all heads of a layer share one."""
    slots: dict[Site, int] = {}
    for site in sites:
        slots.setdefault(site._replace(head=None), len(slots))
    return slots


def site_read(
    site: Site, slots: dict[Site, int], blocks: list[Block], family: str, apply_norm: bool
) -> SiteRead:
    """Return how a site is decoded."""
    slot = slots[site._replace(head=None)]
    if site.head is None or site.layer is None:
        return SiteRead(slot, apply_norm=apply_norm)
    heads = heads_of(blocks[site.layer], site.layer, family)
    split = HeadSplit([heads.columns[site.head]], list(heads.to_stream))
    return SiteRead(slot, split, apply_norm)


def links_of(steps: Sequence[Step], layers: dict[int, int], last_layer: int) -> StreamLinks:
    """Return which streams a plan compares with what the model goes on with, and which it does not.

    Args:
        steps: The plan's.
        layers: The layer of each vector that is the stream after a block.
        last_layer: The model's, whose stream the logits prove.
    """
    compared = []
    for step in steps:
        if isinstance(step, ReadStep) and step.role == "next" and step.at is None:
            compared.append(layers[step.slots[0]])
    not_compared = sorted(set(layers.values()) - {*compared, last_layer})
    return StreamLinks(compared, not_compared)


def link_steps(
    layer: int, slots: tuple[int, ...], anatomy: Anatomy, readers: LinkReaders
) -> list[ReadStep]:
    """Return the step that compares the stream after a layer with what the model goes on with.

    There is none where that cannot be read.
    """
    link = next_step(layer, anatomy, readers)
    if link is None or not slots:
        return []
    return [link._replace(slots=slots)]


def next_step(layer: int, anatomy: Anatomy, readers: LinkReaders) -> ReadStep | None:
    """Return the step that reads what the model goes on with after a layer, or None."""
    link = anatomy.links[layer]
    if link is None:
        return None
    reader: str | None = link.reader
    if readers is LinkReaders.lone_only:
        reader = link.lone_reader
    elif readers is LinkReaders.lone_first:
        reader = link.lone_reader or link.reader
    if reader is None:
        return None
    return ReadStep("next", "in", reader, factor=link.factor)


def proof_steps(
    layer: int, edits: Sequence[PlannedEdit], anatomy: Anatomy, readers: LinkReaders
) -> list[ReadStep]:
    """Return the step that proves the edits of the stream after a layer, if there are any.

    The model must go on with what they set.
    """
    if not any(item.site == Site(layer) for item in edits):
        return []
    link = next_step(layer, anatomy, readers)
    return [] if link is None else [link._replace(at=layer)]


def stream_steps(
    layers: list[int], anatomy: Anatomy, readers: LinkReaders, edits: Sequence[PlannedEdit] = ()
) -> list[Step]:
    """Return the plan for the stream after some layers, ascending.

    It needs no look inside the blocks.
    """
    slot_of = {layer: slot for slot, layer in enumerate(layers)}
    edited = [item.site.layer for item in edits if item.site.layer is not None]
    steps: list[Step] = []
    for layer in sorted({*layers, *edited}):
        for item in edits:
            if item.site.layer == layer:
                steps += [timed.step for timed in item.steps]
        slots: tuple[int, ...] = ()
        if layer in slot_of:
            slots = (slot_of[layer],)
            steps.append(ReadStep("read", "out", anatomy.block(layer), slots=slots))
        steps += proof_steps(layer, edits, anatomy, readers)
        steps += link_steps(layer, slots, anatomy, readers)
    return steps


def site_steps(
    slots: dict[Site, int],
    blocks: list[Block],
    anatomy: Anatomy,
    readers: LinkReaders,
    edits: Sequence[PlannedEdit] = (),
) -> list[Step]:
    """Return the plan for any sites.

    Whatever a block adds is checked once one site is not the stream.
    """
    is_checked = any(site.component in (*PARTS, "resid_mid") for site in slots)
    layers_before = {
        site.layer
        for site in [*slots, *(item.site for item in edits)]
        if site.component in ("resid_pre", "embed")
    }
    steps: list[Step] = []
    links: list[Step] = []  # of the block before: they are read where the next one begins
    for layer, block in enumerate(blocks):
        block_slots: dict[str, tuple[int, ...]] = {}
        for site, slot in slots.items():
            if site.layer == layer:
                block_slots[site.component] = (slot,)
        own_edits = [item for item in edits if item.site.layer == layer]
        own_steps = block_steps(
            block, block_slots, is_first=layer == 0, is_checked=is_checked, edits=own_edits
        )
        if layer not in anatomy.layers:  # text passes over it: nothing of it runs
            steps += own_steps
            continue
        steps += [*links, *own_steps]
        # What the next block takes may be read already, and is then not read within it.
        is_read = is_checked or layer + 1 in layers_before
        block_readers = LinkReaders.any if is_read else readers
        links = [
            *proof_steps(layer, own_edits, anatomy, block_readers),
            *link_steps(layer, block_slots.get("resid_post", ()), anatomy, block_readers),
        ]
    return steps + links


def block_steps(
    block: Block,
    slots: dict[str, tuple[int, ...]],
    *,
    is_first: bool,
    is_checked: bool,
    norm_slots: Sequence[int] = (),
    edits: Sequence[PlannedEdit] = (),
) -> list[Step]:
    """Return one block's part of a plan.

    Args:
        block: The block.
        slots: Where each component goes; what goes nowhere is read to be checked.
        is_first: Whether it is block 0, before which the stream is the embedding.
        is_checked: Whether the sum of its writes is compared with the stream.
        norm_slots: Where the stream before each of the block's norms goes, if anywhere.
        edits: Those of this block. At the tokens that they change, the sum of its writes is
            compared with the stream, too.
    """
    # Heads sum to what attention writes by itself, and not to what an edit has made of that.
    has_heads = not any(item.site.component in ("attn_out", "resid_mid") for item in edits)
    reads = BlockReads(block, slots, is_first=is_first, norm_slots=norm_slots, has_heads=has_heads)
    edited_after = any(item.site.component == "resid_post" for item in edits)
    timed = reads.steps(is_checked=is_checked, edited_after=edited_after)
    for item in edits:
        for step in item.steps:
            after = step.step.is_stream and item.site.component == "resid_post"
            timed.append(step._replace(time=block.resid_post.time) if after else step)
    within = [item for item in edits if item.site.component != "resid_post"]
    if within and not block.unreadable_reason:
        proof = BlockReads(block, {}, is_first=is_first).steps(is_checked=True)
        for proved in proof:
            if proved.step.role != "heads":
                at = proved.step._replace(at=within[0].site.layer)
                timed.append(proved._replace(step=at))
    timed.sort(key=lambda item: (item.time, item.rank))
    return [item.step for item in timed]


class BlockReads:
    """What is read of one block, each at its time."""

    def __init__(
        self,
        block: Block,
        slots: dict[str, tuple[int, ...]],
        *,
        is_first: bool,
        norm_slots: Sequence[int] = (),
        has_heads: bool = True,
    ) -> None:
        """Take what `block_steps` takes, and whether heads are to sum to what attention writes."""
        self.has_heads = has_heads
        self.block = block
        self.slots = slots
        self.is_first = is_first
        self.norm_slots = norm_slots
        self.timed: list[TimedStep] = []

    def steps(self, *, is_checked: bool, edited_after: bool = False) -> list[TimedStep]:
        """Return the steps.

        Args:
            is_checked: As for `block_steps`.
            edited_after: Whether the stream after the block is edited: its sum is then checked
                before that, and the stream is read after it.
        """
        self.timed = []
        self.read_stream_before(is_checked)
        self.read_middle()
        if is_checked:
            self.read_norms()
            for write in self.block.writes:
                self.read_write(write)
        after = self.slots.get("resid_post", ())
        if is_checked and edited_after:
            self.plan(self.block.resid_post, "after", ())
            if after:
                self.plan(self.block.resid_post, "read", after, rank=4)
        elif is_checked or "resid_post" in self.slots:
            self.plan(self.block.resid_post, "after", after, rank=4 if edited_after else 2)
        return self.timed

    def plan(
        self, point: HookPoint, role: str, to: tuple[int, ...], rank: int = 2, **more: Any
    ) -> None:
        """Add the step that reads at a point."""
        step = ReadStep(role, point.side, point.path, tuple(point.operations), to, **more)
        self.timed.append(TimedStep(point.time, rank, step))

    def read_stream_before(self, is_checked: bool) -> None:
        """Add the stream before the block."""
        block = self.block
        before = self.slots.get("resid_pre", ())
        if self.is_first:
            before += self.slots.get("embed", ())
        if is_checked:
            scales = StreamScales(block.interblock_scale, block.residual_scale)
            self.plan(block.resid_pre, "before", before, scales=scales)
        elif before:
            self.plan(block.resid_pre, "before", before)

    def read_middle(self) -> None:
        """Add the stream between attention and MLP."""
        block = self.block
        if block.resid_mid is None or "resid_mid" not in self.slots:
            return
        # Where the stream is scaled or normed later in the block, the sum on the way is not the
        # stream in the middle.
        is_plain_sum = not block.residual_scale and not block.norms
        role = "after" if is_plain_sum else "read"
        self.plan(block.resid_mid, role, self.slots["resid_mid"])

    def read_norms(self) -> None:
        """Add the norms that the stream passes through."""
        for number, norm in enumerate(self.block.norms):
            scales = StreamScales((norm.call,), norm.scale)
            to = tuple(self.norm_slots[number : number + 1])
            self.plan(norm.point, "norm", to, scales=scales)

    def read_write(self, write: ResidualWrite) -> None:
        """Add what a module adds to the stream, and the heads that it is made of."""
        slots, heads = self.slots, write.heads
        to = slots.get(write.component, ())
        self.plan(write.point, "write", to, has_heads=heads is not None and self.has_heads)
        if heads is None or "head_out" not in slots:
            return
        split = HeadSplit(heads.columns, list(heads.to_stream)) if self.has_heads else None
        self.plan(heads.point, "heads", slots["head_out"], heads=split)
        if heads.sources is not None and "attention" in slots:
            item = heads.sources.weights_item
            self.plan(heads.sources.weights, "attention", slots["attention"], output=item)
            self.plan(heads.sources.values, "values", slots["values"])
