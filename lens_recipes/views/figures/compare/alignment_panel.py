"""The panel of a figure of lenses that says whether each lens is about the model."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.lens_alignment import MEAN, LensAlignment
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.views.figures.base.color import faint
from lens_recipes.views.figures.base.style import HOVER_TEMPLATE
from lens_recipes.views.figures.compare.lens_lines import Line

AXIS = {"title_text": "alignment", "title_standoff": 8, "tickformat": ".1f", "zeroline": True}


def alignment_traces(line: Line) -> list[go.Scatter]:
    """Return the line of a lens's alignment in its interval, and that of its control."""
    measured = line.alignment
    if measured is None:
        return []
    spread, control = measured.alignment[MEAN], measured.control[MEAN]
    edge = _unnamed(line, measured) | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = faint(line.look["color"])
    of_control = {**line.look, "width": 1, "dash": "dot"}
    hover = _hover(line, measured)
    shown = {"customdata": hover, "hovertemplate": HOVER_TEMPLATE, "cliponaxis": False}
    return [
        go.Scatter(y=spread.low, **edge),
        go.Scatter(y=spread.high, fill="tonexty", fillcolor=fill, **edge),
        go.Scatter(
            y=control.mean, mode="lines", line=of_control, **_unnamed(line, measured), **shown
        ),
        go.Scatter(
            y=spread.mean,
            mode="lines+markers",
            line=line.look,
            marker=line.marker,
            **_unnamed(line, measured),
            **shown,
        ),
    ]


def _unnamed(line: Line, measured: LensAlignment) -> dict[str, Any]:
    """Return what all traces of a lens have here: its legend is that of another panel."""
    return {"x": measured.layers, "showlegend": False, "legendgroup": line.name}


def _hover(line: Line, measured: LensAlignment) -> list[str]:
    """Return what the point of each layer says."""
    hover = []
    for row, layer in enumerate(measured.layers):
        place = "the embedding" if layer == EMBEDDING else f"layer {layer}"
        spread = measured.alignment[MEAN]
        hover.append(
            f"<b>{place}</b>, {escape_plotly(line.name)}<br>alignment {spread.mean[row]:.2f} "
            f"({spread.low[row]:.2f} … {spread.high[row]:.2f})<br>with random pushes "
            f"{measured.control[MEAN].mean[row]:.2f}<br>{measured.finding(row)}"
        )
    return hover
