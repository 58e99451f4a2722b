"""Which places are read: components and heads as the caller names them, as sites and as a plan for `collect`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import ORDER, PARTS
from lens_recipes.errors import LensError
from lens_recipes.models.structure.anatomy import Anatomy
from lens_recipes.models.structure.blocks import residual_blocks
from lens_recipes.models.structure.parts import Block, Heads, HookPoint
from lens_recipes.run.prompts import pick_indices
from lens_recipes.trace.operations import Operation

COMPONENTS = ORDER[:-1]  # all but a vector


@dataclass(frozen=True)
class Reads:
    """What a trace is to read for some sites.

    Attributes:
        plan: For `collect`.
        n_slots: How many vectors it gives.
        slots: Which of them is each site's, `[site]`; for a head that of all its layer's heads.
        heads: (columns, chain) for each site that is a head, else None.
    """

    plan: list[tuple]
    n_slots: int
    slots: list[int]
    heads: list[tuple[list[int], list[Operation]] | None]

    def plain(self, n_sites: int, norm: bool = True) -> dict[str, Any]:
        """All of it as plain values that can travel, and the rows that `readout` makes of it as "sites"."""
        return {**vars(self), "sites": self.rows(n_sites, norm)}

    def rows(self, n_sites: int, norm: bool = True) -> list[tuple[int, bool]]:
        """(read, whether the norm is applied) of the sites, and last the certificate's: the last layer through it."""
        sites, certified = [(site, norm) for site in range(n_sites)], (len(self.slots) - 1, True)
        return sites if sites[-1] == certified else [*sites, certified]


def sites_and_reads(
    model: Envoy, parts: Anatomy, layers: Any, components: list[str], heads: Any = None
) -> tuple[list[Site], Reads]:
    """The sites that were asked for, and what is to be read for them; the last layer's stream always comes last.

    Raises:
        ValueError, LensError: as `pick_sites`.
    """
    last = parts.n_layers - 1
    if components == ["resid_post"] and heads is None:
        read = sorted(pick_indices(layers, parts.n_layers, "layers", "this model"))
        return [Site(layer) for layer in read], stream_reads([*read, *({last} - {*read})], parts)
    blocks = residual_blocks(model)
    sites = pick_sites(components, heads, layers, blocks, parts)
    return sites, site_reads([*sites, *({Site(last)} - {*sites})], blocks, parts.family)


def pick_sites(
    components: Any, heads: Any, layers: Any, blocks: list[Block], parts: Anatomy
) -> list[Site]:
    """The sites that were asked for, by layer and then in the order of the stream.

    Raises:
        ValueError: a component, layer or head that this model does not have.
        LensError: a component that cannot be read in this model; the message says why.
    """
    names = component_names(components)
    if heads is not None and "head_out" not in names:
        raise ValueError(
            f'heads={heads!r} needs components=("head_out",): only single heads have numbers.'
        )
    chosen = sorted(pick_indices(layers, parts.n_layers, "layers", "this model"))
    of_component = {
        name: _layers_with(name, chosen, layers is None, blocks, parts.family) for name in names
    }
    pairs = _head_pairs(heads, of_component["head_out"], blocks) if "head_out" in names else []
    found = [
        Site(layer, name)
        for name, where in of_component.items()
        if name != "head_out"
        for layer in where
    ]
    found += [Site(layer, "head_out", head) for layer, head in pairs]
    return sorted(
        found, key=lambda site: (site.layer, COMPONENTS.index(site.component), site.head or 0)
    )


def component_names(components: Any) -> list[str]:
    """One or several components as a list, each once.

    Raises:
        ValueError: none, or one that does not exist.
    """
    given = [components] if isinstance(components, str) else components
    names = list(given) if isinstance(given, Iterable) else []
    unknown = [name for name in names if name not in COMPONENTS]
    if not names or unknown:
        what = (
            f"unknown: {', '.join(map(repr, unknown))}" if unknown else f"received {components!r}"
        )
        raise ValueError(f"components must be one or several of {', '.join(COMPONENTS)}; {what}.")
    return list(dict.fromkeys(names))


def _layers_with(
    name: str, layers: list[int], any_layer: bool, blocks: list[Block], family: str
) -> list[int]:
    """Where a component is, of the layers asked for; with `any_layer`, those without it are passed over."""
    if name == "embed":
        return [0]
    kind = "attn_out" if name == "head_out" else name
    if kind in ("resid_pre", "resid_post"):
        return layers
    for layer in layers:
        refuse_broken(blocks[layer], layer, family)
    having = [layer for layer in layers if kind in blocks[layer].components]
    if not having or (len(having) < len(layers) and not any_layer):
        everywhere = [layer for layer, block in enumerate(blocks) if kind in block.components]
        if kind == "resid_mid" and not everywhere:
            raise ValueError(
                f"{family} has no resid_mid that can be read: attention and MLP are in parallel in its blocks, or no "
                f"module of the block's own takes the stream between them. Its components are {_components(blocks)}."
            )
        where = (
            f"only its layers {everywhere} have it"
            if everywhere
            else f"it has {_components(blocks)}"
        )
        raise ValueError(
            f"{family} has no {name} in layers {[n for n in layers if n not in having]}: {where}."
        )
    if name == "head_out":
        for layer in having:
            heads_of(blocks[layer], layer, family)
    return having


def refuse_broken(block: Block, layer: int, family: str) -> None:
    """Raise LensError if what a block adds to the stream cannot be told."""
    if block.unreadable_reason:
        raise LensError(
            f"{family}: what layer {layer} adds to the residual stream cannot be read: {block.unreadable_reason}. "
            'resid_pre and resid_post can be read: components=("resid_pre", "resid_post").'
        )


def heads_of(block: Block, layer: int, family: str) -> Heads:
    """The heads of a block's attention.

    Raises:
        LensError: there are none that can be told apart.
    """
    writes = [write for write in block.writes if write.component == "attn_out"]
    if len(writes) > 1:
        raise LensError(
            f"{family}: attention writes into the stream at {len(writes)} places of layer {layer}, so a head has no "
            'one share. unit="component" and components="attn_out" work.'
        )
    if not writes or writes[0].heads is None:
        raise LensError(
            f"{family}: the heads of layer {layer} cannot be told apart: what attention makes of the values does not "
            "reach its output projection as it is, head beside head (gated, linear, recurrent or differential "
            'attention), so no share of a head is defined. unit="component" and components="attn_out" work.'
        )
    return writes[0].heads


def _components(blocks: list[Block]) -> str:
    names = {name for block in blocks for name in block.components}
    return ", ".join(name for name in COMPONENTS if name in names)


def _head_pairs(heads: Any, layers: list[int], blocks: list[Block]) -> list[tuple[int, int]]:
    """(layer, head) of each head that was asked for: numbers for every layer, or such pairs."""
    counts = {layer: blocks[layer].n_heads for layer in layers}
    given = heads.tolist() if hasattr(heads, "tolist") else heads
    if isinstance(given, Sequence) and any(isinstance(item, list | tuple) for item in given):
        return list(dict.fromkeys(_head_pair(item, counts) for item in given))
    return [
        (layer, head)
        for layer in layers
        for head in pick_indices(heads, counts[layer], "heads", f"layer {layer}")
    ]


def _head_pair(pair: Any, counts: dict[int, int]) -> tuple[int, int]:
    """One (layer, head), the head perhaps counted from the end."""
    whole = (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(number) is int for number in pair)
    )
    if not whole:
        raise ValueError(
            f"heads={pair!r} is no pair (layer, head) of whole numbers, and the others are."
        )
    layer, head = pair
    if layer not in counts or not -counts[layer] <= head < counts[layer]:
        most = max(counts.values())
        raise ValueError(
            f"there is no head {head} in layer {layer}: the layers asked for are {list(counts)}, with {most} heads "
            f"(0 to {most - 1})."
        )
    return layer, head % counts[layer]


# -- the plan ----------------------------------------------------------


def stream_reads(layers: list[int], parts: Anatomy) -> Reads:
    """The stream after some layers, ascending: what needs no look inside the blocks."""
    plan = [
        ("read", "out", f"{parts.blocks}.{layer}", (), (slot,), None)
        for slot, layer in enumerate(layers)
    ]
    return Reads(plan, len(layers), list(range(len(layers))), [None] * len(layers))


def site_reads(sites: list[Site], blocks: list[Block], family: str) -> Reads:
    """All that is needed for some sites; whatever a block adds is checked as soon as one site is not the stream."""
    slot_of: dict[Site, int] = {}
    for site in sites:
        slot_of.setdefault(site._replace(head=None), len(slot_of))
    checked = any(site.component in (*PARTS, "resid_mid") for site in sites)
    plan = []
    for layer, block in enumerate(blocks):
        own = {name: slot_of.get(Site(layer, name)) for name in COMPONENTS}
        slots: dict[str, tuple[int, ...]] = {
            name: (slot,) for name, slot in own.items() if slot is not None
        }
        plan += block_plan(block, slots, first=layer == 0, checked=checked)
    heads = [_columns(blocks[site.layer or 0], site, family) for site in sites]
    return Reads(plan, len(slot_of), [slot_of[site._replace(head=None)] for site in sites], heads)


def _columns(block: Block, site: Site, family: str) -> tuple[list[int], list[Operation]] | None:
    if site.head is None:
        return None
    heads = heads_of(block, site.layer or 0, family)
    return heads.columns[site.head], list(heads.to_stream)


def block_plan(
    block: Block, slots: dict[str, tuple[int, ...]], *, first: bool, checked: bool
) -> list[tuple]:
    """One block's part of a plan: `slots` says where each component goes; what goes nowhere is read to be checked."""
    steps: list[tuple[HookPoint, str, tuple[int, ...], Any]] = []
    pre = (*slots.get("resid_pre", ()), *(slots.get("embed", ()) if first else ()))
    if pre or checked:
        scales = (block.interblock_scale, block.residual_scale)
        steps.append((block.resid_pre, "pre", pre, scales if checked else None))
    if block.resid_mid and "resid_mid" in slots:
        later_scaled = bool(
            block.residual_scale
        )  # then the sum on the way is not the stream in the middle
        steps.append((block.resid_mid, "read" if later_scaled else "mid", slots["resid_mid"], None))
    for write in block.writes if checked else []:
        steps.append(
            (write.point, "write", slots.get(write.component, ()), write.heads is not None)
        )
        if write.heads and "head_out" in slots:
            extra = (write.heads.columns, list(write.heads.to_stream))
            steps.append((write.heads.point, "heads", slots["head_out"], extra))
            sources = write.heads.sources
            if sources is not None and "attention" in slots:
                item = sources.weights_item
                steps.append((sources.weights, "attention", slots["attention"], item))
                steps.append((sources.values, "values", slots["values"], None))
    if "resid_post" in slots or checked:
        steps.append((block.resid_post, "post", slots.get("resid_post", ()), None))
    steps.sort(key=lambda step: step[0].time)
    return [
        (role, tap.side, tap.path, tap.operations, where, extra)
        for tap, role, where, extra in steps
    ]
