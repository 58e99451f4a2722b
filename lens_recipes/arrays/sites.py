"""Which sites of a result belong together, and which of them a view shows."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.caller import advised, argument
from lens_recipes.models.components import ADDED, NAMES, STREAM
from lens_recipes.terminal import show_lines

# From left to right in a view: the order in which a block has them. `vector` is what
# `decode_vectors` reads.
ORDER = (*NAMES, "vector")

PARTS = ADDED  # what a block adds, not the stream itself

# Components whose sites follow no order: head 2 of one layer and head 2 of the next have nothing to
# do with each other.
UNORDERED = ("head_out", "vector")

# Rows of a figure or a table. Beyond that layers are left out, unless the caller asks otherwise.
MAX_ROWS = 40


class Important(NamedTuple):
    """A site that matters, its index into `result.sites`, and the number that says so."""

    site: int
    where: Site
    value: float

    def __str__(self) -> str:
        return f"{site_label(self.where)}: {self.value:.3g}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the sentence in a notebook."""
        show_lines(printer, str(self))


# -- components --------------------------------------------------------


def components(sites: Iterable[Site]) -> list[str]:
    """Return the components of some sites, in the order in which a block has them."""
    names = dict.fromkeys(site.component for site in sites)
    return sorted(names, key=_place_in_block)


def _place_in_block(component: str) -> int:
    """Return where a component comes in a block; an unknown one comes last."""
    if component in ORDER:
        return ORDER.index(component)
    return len(ORDER)


def are_vectors(sites: Iterable[Site]) -> bool:
    """Return whether these are the sites of `decode_vectors`: no layers, and named vectors."""
    return any(site.component == "vector" for site in sites)


def main_component(sites: Iterable[Site]) -> str | None:
    """Return the component that is meant when none is named; None where the choice is open.

    It is the stream after each block, or the only component that was read.
    """
    names = components(sites)
    if "resid_post" in names:
        return "resid_post"
    if len(names) == 1:
        return names[0]
    return None


def site_label(site: Site) -> str:
    """Return a site as a sentence names it: "layer 3", "3.attn_out", "embed"."""
    if site.component == "resid_post":
        return f"layer {site}"
    return str(site)


# -- sites in a line ---------------------------------------------------


def layer_series(sites: Sequence[Site], component: str | None = None) -> list[int]:
    """Return the indices of the sites of one component, layer after layer.

    Args:
        sites: The sites of the result.
        component: Which component; None for the main one.

    Raises:
        ValueError: a component that was not read, several to choose from, or heads, which follow no
            order.
    """
    names = components(sites)
    name = main_component(sites) if component is None else component
    if name not in names or name == "head_out":
        raise ValueError(_why_no_series(names, component, name))
    return [index for index, site in enumerate(sites) if site.component == name]


def _why_no_series(names: list[str], component: str | None, name: str | None) -> str:
    """Say why the sites of a component are no series, and which component has one.

    Args:
        names: The components that were read.
        component: The caller's argument.
        name: The component that it means; None if it could be several.
    """
    if name is None:
        reason = "this result has several components"
    elif name in names:
        reason = "the heads of different layers have no order"
    else:
        reason = f"this result has no {name!r}"
    accepted = [repr(other) for other in names if other != "head_out"]
    if accepted:
        hint = f"pass component= one of {', '.join(accepted)}"
    else:
        hint = f"run it with {advised('components', 'resid_post')} as well"
    return f"component={component!r}: {reason}; {hint}."


def previous_sites(sites: Sequence[Site]) -> list[int]:
    """Return for each site the index of the site before it in its line; −1 where there is none.

    The stream is one line, from the embedding through the middle of each block: a step to
    `resid_mid` is what attention did, a step to `resid_post` what the MLP did. What a block adds is
    on no line. Only where no stream was read, it is compared with the same component of the layer
    before.
    """
    stream_was_read = any(site.component in STREAM for site in sites)
    last_in_line: dict[str, int] = {}
    previous = []
    for index, site in enumerate(sites):
        line = "stream" if site.component in STREAM else site.component
        beside_the_stream = stream_was_read and line != "stream"
        if line in UNORDERED or beside_the_stream:
            previous.append(-1)
        else:
            previous.append(last_in_line.get(line, -1))
        last_in_line[line] = index
    return previous


# -- sites that a view shows -------------------------------------------


def selected_sites(
    sites: Sequence[Site], requested: Iterable[Any] | None = None, component: str | None = None
) -> list[int]:
    """Return the indices of the sites that a view shows, ascending.

    Args:
        sites: The sites of the result.
        requested: None for all, or indices (negative from the end), or what `important` gave.
        component: None for all, or only the sites of this one.

    Raises:
        ValueError: no such site or component, or nothing left to show.
    """
    names = components(sites)
    if component is not None and component not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"component={component!r} was not read: this result has {known}.")
    indices = list(range(len(sites)))
    if requested is not None:
        indices = _requested_indices(sites, requested)
    selected = [index for index in indices if component in (None, sites[index].component)]
    if not selected:
        reason = "important() found none: lower its threshold"
        if indices:
            reason = "none of the chosen sites is one of it"
        raise ValueError(
            f"there is no site to show (sites={requested!r}, component={component!r}): {reason}."
        )
    return selected


def _requested_indices(sites: Sequence[Site], requested: Any) -> list[int]:
    """Return the indices that a view's argument `sites` names, ascending, each once."""
    is_one_site = isinstance(requested, str | Important | Site)
    if is_one_site or not isinstance(requested, Iterable):
        raise ValueError(
            "sites must be None or a list of indices or of what important() gives; "
            f"received {requested!r}."
        )
    return sorted({_site_index(sites, item) for item in requested})


def _site_index(sites: Sequence[Site], item: Any) -> int:
    """Return the index of one requested site.

    Raises:
        ValueError: it is no index, or not one of this result's.
    """
    if isinstance(item, Important):
        is_of_this_result = 0 <= item.site < len(sites) and sites[item.site] == item.where
        if not is_of_this_result:
            raise ValueError(
                f"{item} is not a site of this result: take important() of the result that is "
                "shown."
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
    """Return those of some sites that every n-th layer has, counted from the last layer.

    The last layer is always among them.

    Args:
        sites: The sites of the result.
        rows: Indices into them, as `selected_sites` gives.
        stride: n; None for about 40 rows.
        named: Whether the caller named the sites: then None keeps them all.
        layers_only: Whether None is about 40 layers, however many sites each of them has.

    Raises:
        ValueError: a stride that is no whole number from 1.
    """
    layers = list(dict.fromkeys(sites[row].layer for row in rows))
    if stride is None:
        n_rows = len(layers) if layers_only else len(rows)
        stride = 1 if named else math.ceil(n_rows / MAX_ROWS)
    step = whole_number(stride)
    if step is None or step < 1:
        raise ValueError(f"{argument('stride', stride)} must be a whole number from 1.")
    layers_from_last = layers[::-1]
    shown_layers = set(layers_from_last[::step])
    return [row for row in rows if sites[row].layer in shown_layers]


def whole_number(value: Any) -> int | None:
    """Return a whole number, also one of numpy or torch, as Python's; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def token_index(n_tokens: int, number: int, name: str) -> int:
    """Return an index into the tokens that were read of a prompt, negative ones from the end.

    Args:
        n_tokens: How many tokens were read.
        number: The caller's index.
        name: The caller's argument, for the error.

    Raises:
        ValueError: the index is out of range, or no whole number.
    """
    if not isinstance(number, int | np.integer) or not -n_tokens <= number < n_tokens:
        raise ValueError(
            f"{argument(name, number)} is out of range: {n_tokens} positions of this prompt were "
            "read."
        )
    return int(number) % n_tokens
