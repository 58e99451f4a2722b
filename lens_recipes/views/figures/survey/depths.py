"""`depth_histogram()`: at which layer the answers emerge, and how many never do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from lens_recipes.arrays.statistics.resampling import Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, draws_of, resampling_of
from lens_recipes.arrays.survey.findings import depths_of
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import counted, escape_plotly
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import HOVER_TEMPLATE, panels_layout
from lens_recipes.views.figures.base.unreadable import add_bands
from lens_recipes.views.figures.layers.axes import LayerSeries
from lens_recipes.views.figures.survey.frame import title_of, unreadable_warning
from lens_recipes.views.figures.survey.lines import (
    ALL_ITEMS,
    CONTROL_COLOR,
    NAME_LETTERS,
    group_looks,
    groups_drawn,
    groups_note,
    see_through,
    survey_series,
)
from lens_recipes.views.summaries.survey.words import group_names
from lens_recipes.views.tables.survey.content import control_of

PANEL_HEIGHT = 110  # pixels
LOW_PANEL_HEIGHT = 70  # of many
MANY_PANELS = 6
ONE_PANEL_HEIGHT = 340
PANEL_GAP = 26
TITLE_GAP = 34  # pixels below the title, for the name of the first panel
NEVER_WIDTH = 0.9  # layers
NEVER_GAP = 2  # layers between the last one and "never"
MAX_TICKS = 16  # labelled layers

TITLES = {
    "emergence": "Where answers emerge: the layer from which they stay the top token",
    "decision": "Prediction depth: the layer from which the lens says what the model says",
}


class DepthShares(NamedTuple):
    """How many items of a group have their depth at each layer.

    Attributes:
        name: What the group is called.
        shares: With the interval of each, `[layer + 1]`; the last one is "never".
        n: How many items.
    """

    name: str
    shares: Interval
    n: int


def depth_histogram(
    survey: SurveyArrays,
    *,
    of: str = "emergence",
    by: str | None = "group",
    control: str | None = "auto",
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw in how many items the answer emerges at each layer, and in how many it never does.

    Each group has a panel; the lines on its bars are intervals. Grey and dashed is the control, of
    all items, with its band.

    Args:
        survey: What `survey()` returns.
        of: "emergence": from where on the answer is the top token to the end. "decision": from
            where on the lens's top token is the model's answer (prediction depth); this has no
            control.
        by, control, title, draws: As for `accuracy_curve`.

    Raises:
        ValueError: another `of`, `by` or control.

    Example:
        >>> depth_histogram(survey, by=None).show()
    """
    series = survey_series(survey, None)
    draws = draws_of(survey, draws)
    depths = depths_of(survey, of)
    groups = groups_drawn(survey, by)
    chosen_control = control_of(survey, control) if of == "emergence" else None
    names = [ALL_ITEMS]
    if groups != [None]:
        names = group_names([group or "" for group in groups], NAME_LETTERS)
    shares = []
    for name, group in zip(names, groups, strict=True):
        shares.append(depth_shares(survey, depths, name, group, series, draws))
    beside = None
    if chosen_control is not None:
        of_control = depths_of(survey, of, chosen_control)
        name = f"control: {chosen_control}"
        beside = depth_shares(survey, of_control, name, None, series, draws)

    height = ONE_PANEL_HEIGHT
    if len(shares) > 1:
        panel = PANEL_HEIGHT if len(shares) <= MANY_PANELS else LOW_PANEL_HEIGHT
        height = len(shares) * (panel + PANEL_GAP)
    panel_names = [escape_plotly(f"{each.name} ({counted(each.n, 'item')})") for each in shares]
    figure = make_subplots(
        len(shares),
        1,
        figure=Figure(),
        shared_xaxes=True,
        vertical_spacing=PANEL_GAP / height if len(shares) > 1 else 0,
        subplot_titles=panel_names,
    )
    places = [*series.layers, series.layers[-1] + NEVER_GAP]
    for row, (each, look) in enumerate(zip(shares, group_looks(len(shares)), strict=True), 1):
        figure.add_traces(_bars(each, places, look["color"]), rows=row, cols=1)
        if beside is not None:
            figure.add_traces(_control(beside, places), rows=row, cols=1)
    heading = TITLES[of] if title is None else escape_plotly(title)
    title_texts = title_of(
        survey,
        heading,
        groups_note(survey, groups),
        draws=draws,
        where="lines on bars",
        control=chosen_control,
        by_group=groups != [None],
        warning=unreadable_warning(survey, series),
    )
    figure.update_layout(
        panels_layout(title_texts, height, TITLE_GAP),
        showlegend=False,
        barmode="overlay",
        bargap=0.15,
    )
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    figure.update_yaxes(range=[0, _highest([*shares, *([beside] if beside else [])])])
    figure.update_yaxes(tickformat=".0%", zeroline=False, nticks=4)
    figure.update_xaxes(**_axis(series, places))
    figure.update_xaxes(title_text=series.title, row=len(shares), col=1)
    figure.update_yaxes(title_text="share of items", row=(len(shares) + 1) // 2, col=1)
    readable = 2 * survey.readable[:, series.site_indices].sum(0) >= len(survey)
    for row in range(1, len(shares) + 1):
        add_bands(figure, series.layers, readable, row)
    return figure


def depth_shares(
    survey: SurveyArrays,
    depths: NDArray[np.int64],
    name: str,
    group: str | None,
    series: LayerSeries,
    draws: Draws,
) -> DepthShares:
    """Return in how many items of a group a depth is at each layer."""
    indices = survey.items_of(group)
    n_layers = len(series.layers)
    own = depths[indices]
    places = np.where(own < 0, n_layers, own)
    is_there = (places[:, None] == np.arange(n_layers + 1)).astype(np.float64)
    shares = resampling_of(survey, indices, draws).mean(is_there)
    return DepthShares(name, shares, len(indices))


def _bars(each: DepthShares, places: list[int], color: str) -> list[go.Bar]:
    """Return the bars of a group, with their intervals as lines."""
    estimate, low, high = (np.asarray(ends) for ends in each.shares[:3])
    error = None
    if np.isfinite(low).any():
        error = {
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - estimate),
            "arrayminus": np.nan_to_num(estimate - low),
            "color": "#333333",
            "thickness": 1,
            "width": 2,
        }
    bars = go.Bar(
        x=places,
        y=estimate,
        name=escape_plotly(each.name),
        marker={"color": color},
        error_y=error,
        customdata=_hover(each, places),
        hovertemplate=HOVER_TEMPLATE,
    )
    return [bars]


def _control(each: DepthShares, places: list[int]) -> list[go.Scatter]:
    """Return the control as a dashed line in steps, with its band; "never" stands apart."""
    n_layers = len(places) - 1
    never = [places[-1] - NEVER_WIDTH / 2, places[-1] + NEVER_WIDTH / 2]
    # A gap, and two points for "never", which is as wide as a bar.
    order = [*range(n_layers), n_layers, n_layers, n_layers]
    is_gap = np.arange(len(order)) == n_layers
    look: dict[str, Any] = {"x": [*places[:-1], never[0], *never], "mode": "lines"}
    ends = [np.where(is_gap, np.nan, end[order]) for end in each.shares[:3]]
    hover = _hover(each, places)
    line = go.Scatter(
        y=ends[0],
        name=escape_plotly(each.name),
        line={"color": CONTROL_COLOR, "dash": "dash", "width": 1.5, "shape": "hvh"},
        customdata=[hover[number] for number in order],
        hovertemplate=HOVER_TEMPLATE,
        **look,
    )
    if np.isnan(ends[1]).all():
        return [line]
    bands = []
    for part in (slice(0, n_layers), slice(n_layers + 1, None)):
        x, low, high = look["x"][part], ends[1][part], ends[2][part]
        edge = {"x": x, "mode": "lines", "hoverinfo": "skip", "name": "band"}
        edge_line = {"width": 0, "shape": "hvh"}
        filled = {"fill": "tonexty", "fillcolor": see_through(CONTROL_COLOR, 0.2)}
        bands.append(go.Scatter(y=low, line=edge_line, **edge))
        bands.append(go.Scatter(y=high, line=edge_line, **edge, **filled))
    return [*bands, line]


def _hover(each: DepthShares, places: list[int]) -> list[str]:
    """Return what each bar says."""
    share = find_name("emerged")
    texts = []
    for number, layer in enumerate(places):
        where = "never" if number == len(places) - 1 else f"layer {layer}"
        numbers = share.with_interval(*(float(ends[number]) for ends in each.shares[:3]))
        count = round(float(each.shares.estimate[number]) * each.n)
        texts.append(
            f"<b>{where}</b>, {escape_plotly(each.name)}<br>{numbers}: {count:,} of "
            f"{counted(each.n, 'item')}"
        )
    return texts


def _highest(shares: list[DepthShares]) -> float:
    """Return the upper end of the axes: above all bars and their intervals."""
    numbers = [0.05]
    for each in shares:
        tops = np.concatenate([each.shares.estimate, each.shares.high])
        numbers += tops[np.isfinite(tops)].tolist()
    return min(1.02, 1.08 * max(numbers))


def _axis(series: LayerSeries, places: list[int]) -> dict[str, Any]:
    """Return the axis of the layers, which ends with "never"."""
    step = 1 + (len(series.layers) - 1) // MAX_TICKS
    shown = series.layers[::-1][::step][::-1]
    return {
        "tickvals": [*shown, places[-1]],
        "ticktext": [*map(str, shown), "never"],
        "range": [places[0] - 0.7, places[-1] + 0.7],
        "zeroline": False,
    }
