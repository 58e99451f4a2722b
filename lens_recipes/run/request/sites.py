"""Turn components and heads as a caller names them into sites, and into the plan to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import ORDER, PARTS
from lens_recipes.errors import LensError
from lens_recipes.models.structure.parts import Anatomy, Block, Heads, HookPoint
from lens_recipes.run.request.prompts import is_token_id
from lens_recipes.run.request.selection import pick_indices
from lens_recipes.trace.lens_head import IDENTITY
from lens_recipes.trace.plan import (
    HeadSplit,
    ReadPlan,
    ReadStep,
    SiteRead,
    StreamLinks,
    StreamScales,
)

COMPONENTS = ORDER[:-1]  # all but a vector


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
) -> tuple[list[Site], ReadPlan]:
    """Return the sites that were asked for, and the plan to read them and the certificate's.

    Each stream after a block is compared with what the model goes on with.

    Raises:
        ValueError, LensError: as `pick_sites`.
    """
    last = Site(anatomy.last_layer)
    if components == ["resid_post"] and heads is None:
        chosen = pick_layers(layers, anatomy)
        sites = [Site(layer) for layer in chosen]
        read_layers = chosen if anatomy.last_layer in chosen else [*chosen, anatomy.last_layer]
        steps = stream_steps(read_layers, anatomy, readers)
        slots = {site: slot for slot, site in enumerate(with_site(sites, last))}
        blocks = []
    else:
        blocks = find_blocks()
        sites = pick_sites(components, heads, layers, blocks, anatomy)
        slots = slots_of(with_site(sites, last))
        steps = site_steps(slots, blocks, anatomy, readers)
    reads = [site_read(site, slots, blocks, anatomy.family, apply_norm) for site in sites]
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


# -- which sites -------------------------------------------------------


def component_names(components: Any) -> list[str]:
    """Return one or several components as a list, each once.

    Raises:
        ValueError: none, or one that does not exist.
    """
    given = [components] if isinstance(components, str) else components
    names = list(given) if isinstance(given, Iterable) else []
    unknown = [component for component in names if component not in COMPONENTS]
    if not names or unknown:
        problem = f"received {components!r}"
        if unknown:
            problem = f"unknown: {', '.join(map(repr, unknown))}"
        raise ValueError(
            f"components must be one or several of {', '.join(COMPONENTS)}; {problem}."
        )
    return list(dict.fromkeys(names))


def pick_layers(layers: Any, anatomy: Anatomy) -> list[int]:
    """Return the numbers of the layers that were asked for, ascending.

    None and a slice pass over those that a text prompt passes over.

    Raises:
        ValueError: a layer that this model does not have, or one that text passes over.
    """
    chosen = sorted(pick_indices(layers, anatomy.n_layers, "layers", "this model"))
    running = [layer for layer in chosen if layer in anatomy.layers]
    if running == chosen or (running and (layers is None or isinstance(layers, slice))):
        return running
    passed_over = [layer for layer in chosen if layer not in anatomy.layers]
    raise ValueError(
        f"{anatomy.family}: a text prompt passes over layers {passed_over} (they read an image), "
        f"so there is nothing to read. Its layers are {list(anatomy.layers)}."
    )


def pick_sites(
    components: Any, heads: Any, layers: Any, blocks: list[Block], anatomy: Anatomy
) -> list[Site]:
    """Return the sites that were asked for, by layer and then in the order of the stream.

    Raises:
        ValueError: a component, layer or head that this model does not have.
        LensError: a component that cannot be read in this model; the message says why.
    """
    names = component_names(components)
    if names != ["resid_post"]:
        refuse_scattered(anatomy)
    if heads is not None and "head_out" not in names:
        raise ValueError(
            f'heads={heads!r} needs components=("head_out",): only single heads have numbers.'
        )
    chosen = pick_layers(layers, anatomy)
    sites: list[Site] = []
    for component in names:
        having = layers_with(component, chosen, layers is None, blocks, anatomy.family)
        if component == "head_out":
            pairs = head_pairs(heads, having, blocks)
            sites += [Site(layer, "head_out", head) for layer, head in pairs]
        else:
            sites += [Site(layer, component) for layer in having]
    return sorted(
        sites, key=lambda site: (site.layer, COMPONENTS.index(site.component), site.head or 0)
    )


def layers_with(
    name: str, layers: list[int], any_layer: bool, blocks: list[Block], family: str
) -> list[int]:
    """Return the layers that have a component, of those asked for.

    Args:
        name: The component.
        layers: Those asked for.
        any_layer: Whether layers without it are passed over.
        blocks: All blocks of the model.
        family: Its class, for messages.

    Raises:
        ValueError: a layer that was named lacks it, or all do.
        LensError: a block that cannot be read, or heads that cannot be told apart.
    """
    if name == "embed":
        return [0]
    if name in ("resid_pre", "resid_post"):
        return layers
    for layer in layers:
        refuse_unreadable(blocks[layer], layer, family)
    kind = "attn_out" if name == "head_out" else name
    having = [layer for layer in layers if kind in blocks[layer].components]
    is_incomplete = len(having) < len(layers) and not any_layer
    if not having or is_incomplete:
        lacking = [layer for layer in layers if layer not in having]
        raise ValueError(no_such_component(name, kind, lacking, blocks, family))
    if name == "head_out":
        for layer in having:
            heads_of(blocks[layer], layer, family)
    return having


def no_such_component(
    name: str, kind: str, lacking: list[int], blocks: list[Block], family: str
) -> str:
    """Return the message about a component that layers do not have."""
    present = {component for block in blocks for component in block.components}
    known = ", ".join(component for component in COMPONENTS if component in present)
    everywhere = [layer for layer, block in enumerate(blocks) if kind in block.components]
    if kind == "resid_mid" and not everywhere:
        return (
            f"{family} has no resid_mid that can be read: attention and MLP are in parallel in its "
            "blocks, or no "
            f"module of the block's own takes the stream between them. Its components are {known}."
        )
    instead = f"only its layers {everywhere} have it" if everywhere else f"it has {known}"
    return f"{family} has no {name} in layers {lacking}: {instead}."


def refuse_scattered(anatomy: Anatomy) -> None:
    """Raise LensError if a layer is no module, so that there is no block to take apart."""
    if not anatomy.is_chain:
        raise LensError(
            f"{anatomy.family}: its layers are no modules of their own, or something comes between "
            "them, so what a layer takes and adds cannot be read. The stream after each layer can: "
            'components="resid_post".'
        )


def refuse_unreadable(block: Block, layer: int, family: str) -> None:
    """Raise LensError if what a block adds to the stream cannot be told."""
    if block.unreadable_reason:
        raise LensError(
            f"{family}: what layer {layer} adds to the residual stream cannot be read: "
            f"{block.unreadable_reason}. "
            'resid_pre and resid_post can be read: components=("resid_pre", "resid_post").'
        )


def heads_of(block: Block, layer: int, family: str) -> Heads:
    """Return the heads of a block's attention.

    Raises:
        LensError: they cannot be told apart.
    """
    writes = [write for write in block.writes if write.component == "attn_out"]
    if len(writes) > 1:
        raise LensError(
            f"{family}: attention writes into the stream at {len(writes)} places of layer {layer}, "
            "so a head has no "
            'one share. unit="component" and components="attn_out" work.'
        )
    if not writes or writes[0].heads is None:
        raise LensError(
            f"{family}: the heads of layer {layer} cannot be told apart: what attention makes of "
            "the values does not "
            "reach its output projection as it is, head beside head (gated, linear, recurrent or "
            "differential "
            'attention), so no share of a head is defined. unit="component" and '
            'components="attn_out" work.'
        )
    return writes[0].heads


def head_pairs(heads: Any, layers: list[int], blocks: list[Block]) -> list[tuple[int, int]]:
    """Return (layer, head) of each head that was asked for.

    `heads` are numbers for every layer, or such pairs.
    """
    counts = {layer: blocks[layer].n_heads for layer in layers}
    given = heads.tolist() if hasattr(heads, "tolist") else heads
    if isinstance(given, Sequence) and any(isinstance(item, list | tuple) for item in given):
        return list(dict.fromkeys(head_pair(item, counts) for item in given))
    pairs = []
    for layer in layers:
        for head in pick_indices(heads, counts[layer], "heads", f"layer {layer}"):
            pairs.append((layer, head))
    return pairs


def head_pair(pair: Any, counts: dict[int, int]) -> tuple[int, int]:
    """Return one (layer, head), where the head may be counted from the end.

    Raises:
        ValueError: no pair of whole numbers, or no such head among `counts`, the heads of each
            layer.
    """
    is_pair = isinstance(pair, list | tuple) and len(pair) == 2
    if not is_pair or not all(map(is_token_id, pair)):
        raise ValueError(
            f"heads={pair!r} is no pair (layer, head) of whole numbers, and the others are."
        )
    layer, head = map(int, pair)
    if layer not in counts or not -counts[layer] <= head < counts[layer]:
        most = max(counts.values())
        raise ValueError(
            f"there is no head {head} in layer {layer}: the layers asked for are {list(counts)}, "
            f"with {most} heads "
            f"(0 to {most - 1})."
        )
    return layer, head % counts[layer]


# -- the plan ----------------------------------------------------------


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
