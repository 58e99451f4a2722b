"""The sites that a figure along the layers follows, and the axis on which they stand."""

from __future__ import annotations

from typing import Any, NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors, layer_series
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.style import check_result_kind

MAX_TICKS = 12
TICK_STEPS = (1, 5, 10, 20, 50)


class LayerSeries(NamedTuple):
    """The sites of one component, layer after layer.

    Attributes:
        component: Which component.
        site_indices: Indices into the sites of the result.
        layers: The layer of each of these sites.
    """

    component: str
    site_indices: list[int]
    layers: list[int]

    @property
    def title(self) -> str:
        """The title of the axis; it names every component but the stream after each block."""
        if self.component == "resid_post":
            return "layer"
        return f"layer ({escape_plotly(self.component)})"

    def axis(self) -> dict[str, Any]:
        """Return the axis of the layers without its title: ticks at whole numbers, not too many."""
        n_layers = self.layers[-1] - self.layers[0]
        return {"zeroline": False, "tick0": 0, "dtick": _tick_step(n_layers)}


def _tick_step(n_layers: int) -> int:
    """Return how many layers lie between two ticks of an axis that is so many layers long."""
    for step in TICK_STEPS:
        if n_layers / step <= MAX_TICKS:
            return step
    return 10**9


def find_series(result: LensArrays, component: str | None) -> LayerSeries:
    """Return the sites of one component, layer after layer.

    Args:
        result: Any lens result; anything else is refused.
        component: None for "resid_post", or for the only component that was read.

    Raises:
        TypeError: not a lens result.
        ValueError: vectors, heads or the embedding, which have no layers to follow; a component
            that was not read, or several to choose from.
    """
    check_result_kind(LensArrays, result)
    if are_vectors(result.sites):
        raise ValueError("vectors have no layers to follow: table() and heatmap() show them.")
    site_indices = layer_series(result.sites, component)
    read_component = result.sites[site_indices[0]].component
    if read_component == "embed":
        raise ValueError('"embed" is one site, not a series of layers: pass another component=.')
    layers = []
    for site_index in site_indices:
        layer = result.sites[site_index].layer
        if layer is not None:
            layers.append(layer)
    return LayerSeries(read_component, site_indices, layers)


def after_token_label(single: LensArrays, token: int) -> str:
    """Return a sentence that says which token of one prompt a prediction follows."""
    text = plotly_safe(single.tokens.text[token], 40)
    return f"predicted after token {single.tokens.position[token]}, {text}"
