"""What a caller wants to see on a map of sites and tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import metric_values
from lens_recipes.arrays.sites import Important, selected_sites, thinned_sites
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.color import colorscale

MAX_COMPONENT_ROWS = 160  # up to so many, no layer is left out for having several components


class Measurement(NamedTuple):
    """The numbers of one metric `[site, token]`, and what they are called."""

    values: NDArray[np.floating[Any]]
    value_label: str


class Rows(NamedTuple):
    """Indices of sites: those that were selected, and of these the ones that have a row."""

    selected: list[int]
    drawn: list[int]


@dataclass(frozen=True, kw_only=True)
class View:
    """The arguments that `heatmap`, `generation_heatmap` and `compare` share.

    `heatmap` explains each of them. A method checks the arguments that it uses, against the result
    that it is given, and raises the ValueError that says what is accepted.
    """

    metric: str
    of: Any
    stride: int | None
    component: str | None
    colors: str | None
    title: str | None
    sites: Iterable[int | Important] | None = None
    show_all: bool = False

    def measure(self, single: LensArrays) -> Measurement:
        """Return the numbers of one prompt's result that are coloured."""
        values, value_label = metric_values(single, self.metric, self.of)
        return Measurement(values, value_label)

    def choose_rows(self, sites: Sequence[Site]) -> Rows:
        """Return which of some sites are shown, and which of these have a row of their own."""
        selected = selected_sites(sites, self.sites, self.component)
        named = self.sites is not None
        keep_components = len(selected) <= MAX_COMPONENT_ROWS
        drawn = thinned_sites(
            sites, selected, self.stride, named=named, layers_only=keep_components
        )
        return Rows(selected, drawn)

    def colorscale(self) -> Any:
        """Return the plotly colour scale of the metric."""
        return colorscale(self.metric, self.colors)

    def title_or(self, default: str) -> str:
        """Return the caller's title as it is written, or the figure's own where there is none."""
        return default if self.title is None else escape_plotly(self.title)
