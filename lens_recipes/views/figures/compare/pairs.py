"""Two results as one comparison: their common sites, and the difference of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import common_label
from lens_recipes.arrays.sites import are_vectors, components
from lens_recipes.arrays.text import escape_plotly, number_ranges
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.words import prompt_end

Array = NDArray[np.floating[Any]]

ALIGN = ("token", "position")

LABEL_WIDTH = 30  # letters of a side's name


class Side(NamedTuple):
    """One of the two results.

    Attributes:
        name: What the caller calls it.
        single: The result of one prompt.
        site_indices: Indices of the common sites in this result.
        values: The numbers at these sites, `[site, token]`.
        show_all: Whether what cannot be read has its colour, too.
    """

    name: str
    single: LensArrays
    site_indices: list[int]
    values: Array
    show_all: bool = False

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Which cells have a colour, `[site, token]`."""
        readable = self.single.readable[self.site_indices]
        return np.ones_like(readable) if self.show_all else readable

    @property
    def colored_values(self) -> Array:
        """The numbers that have a colour, `[site, token]`; NaN where the lens cannot be read."""
        return np.where(self.readable, self.values, np.nan)

    @property
    def label(self) -> str:
        """The name as short text that plotly cannot act on."""
        return escape_plotly(prompt_end(self.name, LABEL_WIDTH))


class Comparison(NamedTuple):
    """Two results at the sites that both have.

    Attributes:
        first, second: The two sides.
        metric: Of the numbers.
        value_label: What the numbers are called.
        difference: The first side's numbers minus the second's, `[site, token]`.
    """

    first: Side
    second: Side
    metric: str
    value_label: str
    difference: Array

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both sides."""
        return self.first, self.second

    @property
    def sites(self) -> list[Site]:
        """The common sites, in the order of the first side."""
        return [self.first.single.sites[site_index] for site_index in self.first.site_indices]

    @property
    def colored_difference(self) -> Array:
        """The difference where both sides can be read, `[site, token]`; else NaN."""
        readable = self.first.readable & self.second.readable
        return np.where(readable, self.difference, np.nan)

    @property
    def n_tokens(self) -> int:
        """The number of tokens, which is the same on both sides."""
        return len(self.first.single.tokens)

    @property
    def difference_label(self) -> str:
        """What is subtracted from what: "A − B"."""
        return f"{self.first.label} − {self.second.label}"


def pair_results(
    singles: tuple[LensArrays, LensArrays], names: Any, view: View, align: str
) -> Comparison:
    """Return two results as one comparison.

    Args:
        singles: Two results of one prompt each.
        names: What to call them.
        view: Which metric and component to compare.
        align: "token" or "position", as for `compare`.

    Raises:
        ValueError: as for `compare`.
    """
    name_pair = _check_names(names)
    _check_aligned(singles, name_pair, align)
    sites = common_sites(singles, name_pair, view.component)
    sides = []
    value_labels = []
    for single, side_name in zip(singles, name_pair, strict=True):
        values, value_label = view.measure(single)
        site_indices = [single.sites.index(site) for site in sites]
        side_values = values[site_indices].astype(np.float64)
        sides.append(Side(side_name, single, site_indices, side_values, view.show_all))
        value_labels.append(value_label)
    first, second = sides
    difference = _subtract(first.values, second.values, view.metric)
    if np.isnan(difference).all():
        raise ValueError(
            f"metric={view.metric!r}, of={view.of!r}: there is no token at which {first.name} and "
            f"{second.name} both have a number. Name another metric or token, or read other "
            "positions=."
        )
    value_label = value_labels[0]
    if view.of == "target":  # of another token in each
        value_label = common_label(view.metric, view.of, value_labels)
    return Comparison(first, second, view.metric, value_label, difference)


def _subtract(first: Array, second: Array, metric: str) -> Array:
    """Return the first numbers minus the second; NaN where one is missing.

    Ranks are subtracted as log10(rank + 1).
    """
    if metric == "rank":
        first, second = np.log10(first + 1), np.log10(second + 1)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ has no value
        return first - second


# -- sites -------------------------------------------------------------


def common_sites(
    singles: tuple[LensArrays, LensArrays], names: tuple[str, str], component: str | None
) -> list[Site]:
    """Return the sites that both results have, in the order of the first.

    Args:
        singles: The two results.
        names: What an error calls them.
        component: None for all, or only the sites of this one.

    Raises:
        ValueError: there are none, or they are vectors, which have no layers.
    """
    first, second = singles
    if are_vectors(first.sites) or are_vectors(second.sites):
        raise ValueError("vectors have no layers to compare: heatmap() shows them.")
    common = []
    for site in first.sites:
        if site in second.sites and component in (None, site.component):
            common.append(site)
    if common:
        return common
    which = "" if component is None else f" of component={component!r}"
    held = []
    for single, side_name in zip(singles, names, strict=True):
        held.append(f"{side_name} has {describe_sites(single.sites)}")
    raise ValueError(
        f"there is no site{which} that both have: {', '.join(held)}. "
        "Read the same layers= and components=."
    )


def describe_sites(sites: Sequence[Site]) -> str:
    """Return some sites in a few words: "layers 0–11, 14; mlp_out 3–5"."""
    parts = []
    for component in components(sites):
        if component == "embed":
            parts.append(component)
            continue
        layers = set()
        for site in sites:
            if site.component == component and site.layer is not None:
                layers.add(site.layer)
        shown_name = component
        if component == "resid_post":
            shown_name = "layer" if len(layers) == 1 else "layers"
        parts.append(f"{shown_name} {', '.join(number_ranges(layers))}")
    return "; ".join(parts)


# -- checks ------------------------------------------------------------


def _check_names(names: Any) -> tuple[str, str]:
    """Return the names of the two sides.

    Raises:
        ValueError: not two different texts.
    """
    items = []
    if isinstance(names, Iterable) and not isinstance(names, str):
        items = list(names)
    all_texts = all(isinstance(name, str) and name for name in items)
    if len(items) != 2 or not all_texts or items[0] == items[1]:
        raise ValueError(f'names={names!r} must be two different texts, such as ("base", "tuned").')
    first, second = items
    return first, second


def _check_aligned(
    singles: tuple[LensArrays, LensArrays], names: tuple[str, str], align: str
) -> None:
    """Check that the tokens of both sides can stand in the same columns.

    Raises:
        ValueError: they cannot; the message says where they differ first. Or an unknown `align`.
    """
    if align not in ALIGN:
        raise ValueError(f"align={align!r} is unknown: accepted are {', '.join(map(repr, ALIGN))}.")
    first, second = (single.tokens for single in singles)
    same_positions = first.position.tolist() == second.position.tolist()
    if same_positions and (align == "position" or first.text == second.text):
        return
    number = _first_difference(singles, align)
    described = []
    for single, side_name in zip(singles, names, strict=True):
        described.append(f"{side_name} has {_describe_token(single, number)}")
    hint = "Read the same positions="
    if same_positions:
        hint = 'Pass align="position" to compare them nevertheless'
    raise ValueError(
        f"the tokens do not go together; the first that differ are number {number} of those read: "
        f"{', '.join(described)}. {hint}, or name other prompts (prompt=, prompt_b=)."
    )


def _first_difference(singles: tuple[LensArrays, LensArrays], align: str) -> int:
    """Return the number of the first tokens that do not go together, counted from 0."""
    first, second = (single.tokens for single in singles)
    n_common = min(len(first), len(second))
    for number in range(n_common):
        if first.position[number] != second.position[number]:
            return number
        if align == "token" and first.text[number] != second.text[number]:
            return number
    return n_common


def _describe_token(single: LensArrays, number: int) -> str:
    """Return the text and position of a token that was read, if so many were read."""
    tokens = single.tokens
    if number >= len(tokens):
        return "no more"
    return f"{tokens.text[number]!r} at position {tokens.position[number]}"
