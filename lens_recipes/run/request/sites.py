"""Turn components and heads as a caller names them into sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import ORDER
from lens_recipes.caller import advised, argument, parameter
from lens_recipes.errors import LensError
from lens_recipes.models.structure.parts import Anatomy, Block, Heads
from lens_recipes.run.request.prompts import is_token_id
from lens_recipes.run.request.selection import pick_indices

COMPONENTS = ORDER[:-1]  # all but a vector


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
            f"{parameter('components')} must be one or several of {', '.join(COMPONENTS)}; "
            f"{problem}."
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
            f"{argument('heads', heads)} needs {advised('components', ('head_out',))}: only "
            "single heads have numbers."
        )
    chosen = pick_layers(layers, anatomy)
    sites: list[Site] = []
    for component in names:
        named = chosen
        if component == "head_out" and layers is None:
            named = layers_of_pairs(heads, chosen)
        having = layers_with(component, named, layers is None, blocks, anatomy.family)
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
            f"{advised('components', 'resid_post')}."
        )


def refuse_unreadable(block: Block, layer: int, family: str) -> None:
    """Raise LensError if what a block adds to the stream cannot be told."""
    if block.unreadable_reason:
        raise LensError(
            f"{family}: what layer {layer} adds to the residual stream cannot be read: "
            f"{block.unreadable_reason}. "
            "resid_pre and resid_post can be read: "
            f"{advised('components', ('resid_pre', 'resid_post'))}."
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
            "so a head has no one share. "
            f"{advised('unit', 'component')} and {advised('components', 'attn_out')} work."
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


def layers_of_pairs(heads: Any, layers: list[int]) -> list[int]:
    """Return the layers of pairs (layer, head), so that no other layer needs to have heads.

    Of heads that are no such pairs, or in no layer that there is, all layers.
    """
    given = heads.tolist() if hasattr(heads, "tolist") else heads
    if not isinstance(given, Sequence) or isinstance(given, str):
        return layers
    named = set()
    for pair in given:
        if not isinstance(pair, list | tuple) or not pair or pair[0] not in layers:
            return layers
        named.add(int(pair[0]))
    return sorted(named) or layers


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
