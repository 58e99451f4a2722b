"""The lines of a survey's figures: one for each group with its band, and the control in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.sites import UNORDERED, layer_series
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Curve, Draws, curve
from lens_recipes.arrays.survey.joint import places_of
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import counted, escape_plotly
from lens_recipes.caller import argument
from lens_recipes.views.figures.base.style import (
    COLORS,
    DASHES,
    HOVER_TEMPLATE,
    MARKERS,
    check_result_kind,
)
from lens_recipes.views.figures.layers.axes import LayerSeries
from lens_recipes.views.summaries.survey.words import group_names

MAX_GROUPS = 24  # lines; of more groups the largest are drawn
FEW_GROUPS = 6  # bands of more groups are fainter, so that lines are seen through them
NAME_LETTERS = 28
CONTROL_COLOR = "#767676"
ALL_ITEMS = "all items"


class SurveyLine(NamedTuple):
    """A line with its band.

    Attributes:
        name: What the legend calls it; it may hold anything that a group's name may.
        drawn: The curve.
        places: Where in the curve the layers are.
        color, dash, marker: Its look.
        opacity: Of the band.
    """

    name: str
    drawn: Curve
    places: list[int]
    color: str
    dash: str
    marker: str | None
    opacity: float

    @property
    def values(self) -> NDArray[np.float64]:
        """The estimates, `[layer]`."""
        return self.drawn.interval.estimate[self.places]

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ends of the band, `[layer]` each; NaN where there is none."""
        return self.drawn.interval.low[self.places], self.drawn.interval.high[self.places]


def survey_series(survey: SurveyArrays, component: str | None) -> LayerSeries:
    """Return the sites of one component, layer after layer.

    Raises:
        TypeError: something else than a survey.
        ValueError: heads or the embedding, which have no layers to follow; a component that was not
            read, or several to choose from.
    """
    check_result_kind(SurveyArrays, survey)
    site_indices = layer_series(survey.sites, component)
    read = survey.sites[site_indices[0]].component
    if read in (*UNORDERED, "embed"):
        raise ValueError(f"{argument('component', read)} is no series of layers: pass another one.")
    layers = [survey.sites[index].layer or 0 for index in site_indices]
    return LayerSeries(read, site_indices, layers)


def groups_drawn(survey: SurveyArrays, by: str | None) -> list[str | None]:
    """Return the groups that have a line, in their order; None stands for all items together.

    Raises:
        ValueError: an unknown `by`.
    """
    if by not in (None, "group"):
        raise ValueError(f'{argument("by", by)} is unknown: accepted are None and "group".')
    groups = survey.groups
    if by is None or len(groups) < 2:
        return [None]
    sizes = {group: len(survey.items_of(group)) for group in groups}
    largest = sorted(groups, key=lambda group: -sizes[group])[:MAX_GROUPS]
    return [group for group in groups if group in largest]


def groups_note(survey: SurveyArrays, groups: Sequence[str | None]) -> str:
    """Return how many of the groups are drawn, where it is not all."""
    n_groups = len(survey.groups)
    if groups == [None] or len(groups) == n_groups:
        return ""
    return f"{len(groups)} of {n_groups} groups, the largest"


def group_looks(n_groups: int) -> list[dict[str, Any]]:
    """Return the colour, dash, marker and opacity of each group."""
    looks = []
    for number in range(n_groups):
        looks.append(
            {
                "color": COLORS[number % len(COLORS)],
                "dash": DASHES[number // len(COLORS) % len(DASHES)],
                "marker": MARKERS[number // len(COLORS) % len(MARKERS)],
                "opacity": 0.2 if n_groups <= FEW_GROUPS else 0.08,
            }
        )
    return looks


def survey_lines(
    survey: SurveyArrays,
    metric: str,
    groups: Sequence[str | None],
    control: str | None,
    series: LayerSeries,
    draws: Draws,
) -> list[SurveyLine]:
    """Return the line of the control, then one for each group.

    The control is that of all items.
    """
    places = places_of(survey, metric, series.site_indices)
    lines = []
    if control is not None:
        drawn = curve(survey, metric, control=control, draws=draws)
        name = f"control: {control}"
        lines.append(SurveyLine(name, drawn, places, CONTROL_COLOR, "dash", None, 0.2))
    names = [ALL_ITEMS] if groups == [None] else group_names([group or "" for group in groups])
    names = _cut(names)
    for name, group, look in zip(names, groups, group_looks(len(groups)), strict=True):
        drawn = curve(survey, metric, group=group, draws=draws)
        lines.append(SurveyLine(name, drawn, places, **look))
    return lines


def _cut(names: list[str]) -> list[str]:
    """Return names that have room in a legend, no two of them the same."""
    return group_names(names, NAME_LETTERS)


def line_traces(
    line: SurveyLine,
    layers: Sequence[int],
    *,
    scale: Any = None,
    shape: str = "linear",
    name: str | None = None,
) -> list[go.Scatter]:
    """Return a line above its band.

    Args:
        line: The line.
        layers: Where its points are.
        scale: Puts numbers on the axis; None for as they are.
        shape: Of the line, as plotly calls it: "hv" for steps.
        name: What the legend calls it, in place of its name.
    """
    on_axis = scale if scale is not None else np.asarray
    shown_name = escape_plotly(line.name if name is None else name)
    drawn = go.Scatter(
        x=list(layers),
        y=on_axis(line.values),
        name=shown_name,
        legendgroup=shown_name,
        mode="lines" if line.marker is None else "lines+markers",
        line={"color": line.color, "dash": line.dash, "width": 2, "shape": shape},
        marker={"size": 6, "symbol": line.marker or "circle"},
        cliponaxis=False,
        customdata=hover_texts(line, layers),
        hovertemplate=HOVER_TEMPLATE,
    )
    low, high = line.ends
    if np.isnan(low).all():
        return [drawn]
    edge = {
        "x": list(layers),
        "mode": "lines",
        "line": {"width": 0, "shape": shape},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": shown_name,
    }
    filled = {"fill": "tonexty", "fillcolor": see_through(line.color, line.opacity)}
    return [
        go.Scatter(y=on_axis(low), name="band", **edge),
        go.Scatter(y=on_axis(high), name="band", **edge, **filled),
        drawn,
    ]


def see_through(color: str, opacity: float) -> str:
    """Return a colour "#rrggbb" of some opacity."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def hover_texts(line: SurveyLine, layers: Sequence[int]) -> list[str]:
    """Return what the point of each layer says: the number, its interval and its n."""
    name = find_name(line.drawn.metric)
    low, high = line.ends
    counts = line.drawn.interval.n[line.places]
    texts = []
    for place, layer in enumerate(layers):
        number = name.with_interval(
            float(line.values[place]), float(low[place]), float(high[place])
        )
        size = counted(int(counts[place]), "item")
        if line.drawn.n_clusters is not None:
            size += f", {counted(line.drawn.n_clusters, 'cluster')}"
        interval = "" if np.isfinite(low[place]) else ", no interval"
        where = f"<b>layer {layer}</b>, {escape_plotly(line.name)}"
        texts.append(f"{where}<br>{name.title} {number}<br>n: {size}{interval}")
    return texts
