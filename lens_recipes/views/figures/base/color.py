"""The colour scale of a metric, and the range of numbers that it spans."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import METRICS, find_metric, fixed_range, rank_ticks

SMALLEST_RANGE = 1e-6  # a scale must have some extent even where all numbers are the same


def colorscale(metric: str, colors: str | None = None) -> Any:
    """Return the plotly colour scale of a metric: its own, or another one of the same sort.

    Raises:
        ValueError: `colors` is no name that plotly knows, or a scale of another sort: a diverging
            one for a metric without a middle, a sequential one for a metric that has a middle, or
            a cyclical one, whose two ends look the same.
    """
    entry = find_metric(metric)
    if colors is None:
        return entry.colors
    from plotly import colors as plotly_colors

    try:
        points = plotly_colors.get_colorscale(colors)
    except Exception as error:  # plotly's own error, or whatever an odd name makes it raise
        raise ValueError(
            f"colors={colors!r} is not the name of a plotly colour scale, such as 'Magma'."
        ) from error
    received = _colorscale_sort(colors)
    if entry.two_sided:
        accepted, reason = "diverging", "a middle, zero"
    else:
        accepted, reason = "sequential", "two ends and no middle"
    if received != accepted:
        raise ValueError(
            f"colors={colors!r} is a {received} scale, and metric={metric!r} has {reason}: "
            "pass another scale."
        )
    return points


def _colorscale_sort(colors: str) -> str:
    """Return whether a plotly colour scale is "cyclical", "diverging" or "sequential"."""
    from plotly import colors as plotly_colors

    scale_name = colors.lower().removesuffix("_r")
    if scale_name in _scale_names(plotly_colors.cyclical):
        return "cyclical"
    # Plotly counts "bluered" among the sequential scales, but it has a middle.
    if scale_name in _scale_names(plotly_colors.diverging) or scale_name == "bluered":
        return "diverging"
    return "sequential"


def _scale_names(module: ModuleType) -> set[str]:
    """Return the lower-case names of the colour scales in one of plotly's modules."""
    return {name.lower() for name in dir(module) if not name.startswith("_")}


class ColorAxis(NamedTuple):
    """Numbers as a colour scale shows them.

    Attributes:
        values: The numbers on the scale, of the shape of those that were passed.
        limits: The range of the scale as plotly's `zmin` and `zmax`; empty where no number is
            finite.
        bar: The ticks of the colour bar; empty for plotly's own.
    """

    values: NDArray[np.floating[Any]]
    limits: dict[str, float]
    bar: dict[str, Any]


def color_axis(metric: str, values: NDArray[np.floating[Any]], vocab: int) -> ColorAxis:
    """Return the numbers of a metric as its colour scale shows them.

    The scale spans the whole range that the metric can have, so that figures can be compared. A
    metric without such a range gets the range of its numbers, and the same to both sides of zero
    where zero is the middle. Infinities take the colour at the end of the scale. Ranks are
    logarithmic, with the top rank at the upper end.
    """
    bar: dict[str, Any] = {}
    if metric == "rank":
        values = -np.log10(values + 1)
        bar = rank_bar(vocab)
    lowest, highest = _color_range(metric, values, vocab)
    if not math.isfinite(lowest + highest):
        return ColorAxis(values, {}, bar)
    colored = np.where(np.isinf(values), np.clip(values, lowest, highest), values)
    return ColorAxis(colored, {"zmin": lowest, "zmax": highest}, bar)


def _color_range(metric: str, values: NDArray[np.floating[Any]], vocab: int) -> tuple[float, float]:
    """Return the two ends of a metric's colour scale; infinite where no number is finite."""
    finite = values[np.isfinite(values)]
    if METRICS[metric].two_sided:
        reach = max(float(np.abs(finite).max(initial=0)), SMALLEST_RANGE)
        return -reach, reach
    lowest, highest = fixed_range(metric, vocab)
    if lowest is None:
        lowest = float(finite.min(initial=np.inf))
    if highest is None:
        highest = max(float(finite.max(initial=-np.inf)), lowest + SMALLEST_RANGE)
    return lowest, highest


def rank_bar(vocab: int) -> dict[str, Any]:
    """Return the ticks of a colour bar of ranks, on which the top rank is uppermost."""
    heights, labels = rank_ticks(vocab)
    return {"tickvals": [-height for height in heights], "ticktext": labels}


def faint(color: str) -> str:
    """Return a colour "#rrggbb" through which another one can be seen."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"
