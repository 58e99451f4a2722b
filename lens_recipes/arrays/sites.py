"""Which sites of a result belong together, and which of them a view shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.models.components import ADDED, NAMES, STREAM

# From left to right in a view: the order in which a block has them. `vector` is what
# `decode_vectors` reads.
ORDER = (*NAMES, "vector")

PARTS = ADDED  # what a block adds, not the stream itself

MAX_ROWS = 40  # of a figure or a table; beyond that layers are left out, unless asked otherwise

UNORDERED = (
    "head_out",
    "vector",
)  # head 2 of one layer and head 2 of the next have nothing to do with each other


class Important(NamedTuple):
    """A site that matters, its index into `result.sites`, and the number that says so."""

    site: int
    where: Site
    value: float


def components(sites: Iterable[Site]) -> list[str]:
    """The components of some sites, in the order in which a block has them."""
    there = dict.fromkeys(site.component for site in sites)
    return sorted(there, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def are_vectors(sites: Iterable[Site]) -> bool:
    """Whether these are the sites of `decode_vectors`: no layers, and names in place of tokens."""
    return any(site.component == "vector" for site in sites)


def main_component(sites: Iterable[Site]) -> str | None:
    """The component that is meant when none is named: the stream after each block, or the only one there is."""
    there = components(sites)
    if "resid_post" in there:
        return "resid_post"
    return there[0] if len(there) == 1 else None


def layer_series(sites: Sequence[Site], component: str | None = None) -> list[int]:
    """Indices of the sites of one component, layer after layer.

    Raises:
        ValueError: a component that is not there, several to choose from, or heads, which follow no order.
    """
    there = components(sites)
    name = main_component(sites) if component is None else component
    if name in there and name != "head_out":
        return [s for s, site in enumerate(sites) if site.component == name]
    accepted = ", ".join(repr(other) for other in there if other != "head_out")
    if name == "head_out" and name in there:
        why = "the heads of different layers have no order"
    else:
        why = (
            "this result has several components" if name is None else f"this result has no {name!r}"
        )
    todo = (
        f"pass component= one of {accepted}"
        if accepted
        else 'run the recipe with components="resid_post" as well'
    )
    raise ValueError(f"component={component!r}: {why}; {todo}.")


def previous_sites(sites: Sequence[Site]) -> list[int]:
    """For each site the index of the one that it is a step from, −1 for none.

    The stream is one line, from the embedding through the middle of each block: a step to `resid_mid` is what attention
    did, one to `resid_post` what the MLP did. What a block adds is on no line; only where there is no stream among the
    sites, it is compared with the same component of the layer before.
    """
    streams = any(site.component in STREAM for site in sites)
    last: dict[str, int] = {}
    before = []
    for s, site in enumerate(sites):
        line = "stream" if site.component in STREAM else site.component
        alone = line in UNORDERED or (streams and line != "stream")
        before.append(-1 if alone else last.get(line, -1))
        last[line] = s
    return before


def selected_sites(
    sites: Sequence[Site], wanted: Iterable[Any] | None = None, component: str | None = None
) -> list[int]:
    """Indices of the sites that a view shows, ascending.

    Args:
        sites: Of the result.
        wanted: None for all, or indices (negative from the end) or what `important` gave.
        component: None for all, or only the sites of this one.

    Raises:
        ValueError: no such site or component, or nothing left to show.
    """
    there = components(sites)
    if component is not None and component not in there:
        raise ValueError(
            f"component={component!r} was not read: this result has {', '.join(map(repr, there))}."
        )
    if wanted is not None and (
        isinstance(wanted, str | Important | Site) or not isinstance(wanted, Iterable)
    ):
        raise ValueError(
            f"sites must be None or a list of indices or of what important() gives; received {wanted!r}."
        )
    every = (
        range(len(sites)) if wanted is None else sorted({_index(sites, item) for item in wanted})
    )
    found = [s for s in every if component in (None, sites[s].component)]
    if not found:
        what = (
            "none of the chosen sites is one of it"
            if every
            else "important() found none: lower its threshold"
        )
        raise ValueError(
            f"there is no site to show (sites={wanted!r}, component={component!r}): {what}."
        )
    return found


def _index(sites: Sequence[Site], item: Any) -> int:
    if isinstance(item, Important):
        if not (0 <= item.site < len(sites) and sites[item.site] == item.where):
            raise ValueError(
                f"{item} is not a site of this result: take important() of the result that is shown."
            )
        return item.site
    if not isinstance(item, int | np.integer) or isinstance(item, bool):
        raise ValueError(
            f"sites must be indices into result.sites or what important() gives; received {item!r}."
        )
    if not -len(sites) <= item < len(sites):
        raise ValueError(
            f"site {item} is out of range: the result has the sites 0 to {len(sites) - 1}."
        )
    return int(item) % len(sites)


def thinned_sites(
    sites: Sequence[Site],
    rows: list[int],
    stride: int | None,
    *,
    named: bool = False,
    layers_only: bool = False,
) -> list[int]:
    """Those of some sites that every n-th layer has, counted from the last, which is always among them.

    Args:
        sites: Of the result.
        rows: Indices into them, as `chosen` gives.
        stride: n; None for about 40 rows.
        named: Whether the caller named the sites: then None keeps them all.
        layers_only: Whether None is about 40 layers, however many sites each of them has.

    Raises:
        ValueError: a stride that is no whole number from 1.
    """
    layers = list(dict.fromkeys(sites[s].layer for s in rows))
    if stride is None:
        stride = 1 if named else math.ceil(len(layers if layers_only else rows) / MAX_ROWS)
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 1:
        raise ValueError(f"stride={stride!r} must be a whole number from 1.")
    kept = set(layers[::-1][::stride])
    return [s for s in rows if sites[s].layer in kept]


def site_label(site: Site) -> str:
    """A site in a sentence: "layer 3", "3.attn_out", "embed"."""
    return f"layer {site}" if site.component == "resid_post" else str(site)


def token_index(n: int, number: int, name: str) -> int:
    """An index into the `n` tokens that were read of a prompt, negative ones from the end.

    Raises:
        ValueError: out of range; `name` is the argument that says so.
    """
    if not isinstance(number, int | np.integer) or not -n <= number < n:
        raise ValueError(
            f"{name}={number!r} is out of range: {n} positions of this prompt were read."
        )
    return range(n)[number]
