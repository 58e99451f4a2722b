"""Plan how sites are read: at which module each, and what is compared there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import PARTS
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.structure.parts import Anatomy, Block, HookPoint
from lens_recipes.run.request.lenses import sites_with_transports, transport_of
from lens_recipes.run.request.sites import heads_of, pick_layers, pick_sites
from lens_recipes.trace.plan import (
    HeadSplit,
    ReadPlan,
    ReadStep,
    SiteRead,
    StreamLinks,
    StreamScales,
)
from lens_recipes.trace.transport import IDENTITY


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
) -> tuple[list[Site], ReadPlan]:
    """Return the sites that were asked for, and the plan to read them and the certificate's.

    Each stream after a block is compared with what the model goes on with. With `layers=None`,
    sites for which the lens has no transport are passed over.

    Raises:
        ValueError, LensError: as `pick_sites` and `sites_with_transports`.
    """
    last = Site(anatomy.last_layer)
    any_layer = layers is None
    if components == ["resid_post"] and heads is None:
        chosen = [Site(layer) for layer in pick_layers(layers, anatomy)]
        sites = sites_with_transports(chosen, lens, anatomy, any_layer=any_layer)
        read_layers = [site.layer for site in with_site(sites, last) if site.layer is not None]
        steps = stream_steps(read_layers, anatomy, readers)
        slots = {site: slot for slot, site in enumerate(with_site(sites, last))}
        blocks = []
    else:
        blocks = find_blocks()
        asked = pick_sites(components, heads, layers, blocks, anatomy)
        sites = sites_with_transports(asked, lens, anatomy, any_layer=any_layer)
        slots = slots_of(with_site(sites, last))
        steps = site_steps(slots, blocks, anatomy, readers)
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


def links_of(steps: list[ReadStep], layers: dict[int, int], last_layer: int) -> StreamLinks:
    """Return which streams a plan compares with what the model goes on with, and which it does not.

    Args:
        steps: The plan's.
        layers: The layer of each vector that is the stream after a block.
        last_layer: The model's, whose stream the logits prove.
    """
    compared = [layers[step.slots[0]] for step in steps if step.role == "next"]
    not_compared = sorted(set(layers.values()) - {*compared, last_layer})
    return StreamLinks(compared, not_compared)


def link_steps(
    layer: int, slots: tuple[int, ...], anatomy: Anatomy, readers: LinkReaders
) -> list[ReadStep]:
    """Return the step that compares the stream after a layer with what the model goes on with.

    There is none where that cannot be read.
    """
    link = anatomy.links[layer]
    if link is None or not slots:
        return []
    reader: str | None = link.reader
    if readers is LinkReaders.lone_only:
        reader = link.lone_reader
    elif readers is LinkReaders.lone_first:
        reader = link.lone_reader or link.reader
    if reader is None:
        return []
    return [ReadStep("next", "in", reader, slots=slots, factor=link.factor)]


def stream_steps(layers: list[int], anatomy: Anatomy, readers: LinkReaders) -> list[ReadStep]:
    """Return the plan for the stream after some layers, ascending.

    It needs no look inside the blocks.
    """
    steps = []
    for slot, layer in enumerate(layers):
        steps.append(ReadStep("read", "out", anatomy.block(layer), slots=(slot,)))
        steps += link_steps(layer, (slot,), anatomy, readers)
    return steps


def site_steps(
    slots: dict[Site, int], blocks: list[Block], anatomy: Anatomy, readers: LinkReaders
) -> list[ReadStep]:
    """Return the plan for any sites.

    Whatever a block adds is checked once one site is not the stream.
    """
    is_checked = any(site.component in (*PARTS, "resid_mid") for site in slots)
    layers_before = {site.layer for site in slots if site.component == "resid_pre"}
    steps: list[ReadStep] = []
    links: list[ReadStep] = []  # of the block before: they are read where the next one begins
    for layer, block in enumerate(blocks):
        block_slots: dict[str, tuple[int, ...]] = {}
        for site, slot in slots.items():
            if site.layer == layer:
                block_slots[site.component] = (slot,)
        own_steps = block_steps(block, block_slots, is_first=layer == 0, is_checked=is_checked)
        if layer not in anatomy.layers:  # text passes over it: nothing of it runs
            steps += own_steps
            continue
        steps += [*links, *own_steps]
        # What the next block takes may be read already, and is then not read within it.
        is_read = is_checked or layer + 1 in layers_before
        block_readers = LinkReaders.any if is_read else readers
        links = link_steps(layer, block_slots.get("resid_post", ()), anatomy, block_readers)
    return steps + links


def block_steps(
    block: Block,
    slots: dict[str, tuple[int, ...]],
    *,
    is_first: bool,
    is_checked: bool,
    norm_slots: Sequence[int] = (),
) -> list[ReadStep]:
    """Return one block's part of a plan.

    Args:
        block: The block.
        slots: Where each component goes; what goes nowhere is read to be checked.
        norm_slots: Where the stream before each of the block's norms goes, if anywhere.
        is_first: Whether it is block 0, before which the stream is the embedding.
        is_checked: Whether the sum of its writes is compared with the stream.
    """
    points: list[tuple[HookPoint, ReadStep]] = []

    def plan(point: HookPoint, role: str, to: tuple[int, ...], **more: Any) -> None:
        step = ReadStep(role, point.side, point.path, tuple(point.operations), to, **more)
        points.append((point, step))

    before = slots.get("resid_pre", ())
    if is_first:
        before += slots.get("embed", ())
    if is_checked:
        scales = StreamScales(block.interblock_scale, block.residual_scale)
        plan(block.resid_pre, "before", before, scales=scales)
    elif before:
        plan(block.resid_pre, "before", before)
    if block.resid_mid and "resid_mid" in slots:
        # Where the stream is scaled or normed later in the block, the sum on the way is not the
        # stream in the middle.
        is_plain_sum = not block.residual_scale and not block.norms
        plan(block.resid_mid, "after" if is_plain_sum else "read", slots["resid_mid"])
    for number, norm in enumerate(block.norms if is_checked else ()):
        scales = StreamScales((norm.call,), norm.scale)
        plan(norm.point, "norm", tuple(norm_slots[number : number + 1]), scales=scales)
    for write in block.writes if is_checked else []:
        heads = write.heads
        plan(write.point, "write", slots.get(write.component, ()), has_heads=heads is not None)
        if heads and "head_out" in slots:
            split = HeadSplit(heads.columns, list(heads.to_stream))
            plan(heads.point, "heads", slots["head_out"], heads=split)
            sources = heads.sources
            if sources is not None and "attention" in slots:
                item = sources.weights_item
                plan(sources.weights, "attention", slots["attention"], output=item)
                plan(sources.values, "values", slots["values"])
    if "resid_post" in slots or is_checked:
        plan(block.resid_post, "after", slots.get("resid_post", ()))
    points.sort(key=lambda item: item[0].time)
    return [step for _, step in points]
