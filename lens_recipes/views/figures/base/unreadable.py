"""Grey for what cannot be read: cells of a map, and bands behind lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.views.figures.base.contrast import words_trace

GREY = "#d9d9d9"
HATCH = "#c4c4c4"  # the lines of a band
BAND = "#f1f1f1"  # what is between them
BAND_MARGIN = 0.05  # beyond the numbers, as a share of their range

GREY_INK = "#5e5e5e"  # of words on it; the contrast is 4.6 to 1


def unreadable_cells(
    readable: NDArray[np.bool_], words: list[list[str]] | None = None, **properties: Any
) -> dict[str, Any]:
    """Return a trace that fills the cells `[row, column]` that cannot be read with grey.

    It stands below the coloured cells, which have no number there and say in their hover what the
    lens says all the same.

    Args:
        readable: Which cells have a colour, `[row, column]`.
        words: Of all cells; those of the grey ones are written here, and dimmed.
        properties: Of the trace, in place of its own, such as where the cells stand.
    """
    cells: dict[str, Any] = {
        "type": "heatmap",
        "name": "unreadable",
        "z": np.where(readable, np.nan, 1.0),
        "x": list(range(readable.shape[1])),
        "y": list(range(readable.shape[0])),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, GREY], [1, GREY]],
        "showscale": False,
        "hoverinfo": "skip",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    if words is not None:
        cells |= words_trace(words, ~readable, GREY_INK)
    return cells | properties


def add_bands(
    figure: go.Figure,
    layers: Sequence[int],
    readable: NDArray[np.bool_],
    row: int | None = None,
    *,
    cannot: str = "cannot be read with this lens",
) -> None:
    """Hatch the layers that cannot be read, behind the lines of a figure.

    Args:
        figure: With its lines and its axes.
        layers: Of the axis.
        readable: Of each of them.
        row: Of which subplot, from 1; None for the only one.
        cannot: What the legend says of them.
    """
    chosen = [layer for layer, is_readable in zip(layers, readable, strict=True) if not is_readable]
    if not chosen:
        return
    name = "y" if row in (None, 1) else f"y{row}"
    axis = figure.layout["yaxis" + name[1:]]
    if axis.range is None:
        axis.range = _range_of(figure, name, from_zero=axis.rangemode == "tozero")
    low, high = sorted(axis.range)
    if axis.type == "log":
        low, high = 10**low, 10**high
    bars = go.Bar(
        x=chosen,
        y=[high - low] * len(chosen),
        base=low,
        width=1,
        marker={
            "color": BAND,
            "line": {"width": 0},
            "pattern": {"shape": "/", "fgcolor": HATCH, "bgcolor": BAND, "size": 7},
        },
        hoverinfo="skip",
        name=f"hatched: {cannot}",
        legendrank=2000,  # last
        showlegend=row is None,
    )
    if row is None:
        figure.add_trace(bars)
    else:
        figure.add_trace(bars, row=row, col=1)


def _range_of(figure: go.Figure, axis_name: str, *, from_zero: bool) -> list[float]:
    """Return a range that holds all numbers on a y axis."""
    numbers = [0.0] if from_zero else []
    for trace in figure.data:
        if (trace.yaxis or "y") == axis_name:
            values = np.asarray(trace.y, dtype=np.float64)
            numbers += values[np.isfinite(values)].tolist()
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = BAND_MARGIN * (high - low) or 1.0
    return [low if from_zero and low == 0 else low - margin, high + margin]
