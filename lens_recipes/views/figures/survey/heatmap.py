"""`survey_heatmap()`: one metric of each group at each layer, as a map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, beyond_control, draws_of
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.color import color_axis
from lens_recipes.views.figures.base.contrast import split_words_by_contrast
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.grid import row_label_margin
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    title_height,
)
from lens_recipes.views.figures.layers.axes import LayerSeries
from lens_recipes.views.figures.survey.frame import title_of, unreadable_warning
from lens_recipes.views.figures.survey.lines import (
    SurveyLine,
    groups_drawn,
    groups_note,
    hover_texts,
    survey_lines,
    survey_series,
)
from lens_recipes.views.tables.survey.content import NOT_BEYOND, control_of

ROW_HEIGHT = 26  # pixels
MIN_ROWS = 6  # so high is the shortest map that has room for its colour bar
CELL_WIDTH = 30  # pixels; a number has room in it
MAX_WORD_COLUMNS = 48
MIN_WIDTH = 640
MAX_WIDTH = 1500
COLOR_BAR_WIDTH = 130
MAX_TICKS = 32  # labelled layers


class MapRow(NamedTuple):
    """A row of the map: its line, and where its control is as good, `[layer]`."""

    line: SurveyLine
    is_no_better: NDArray[np.bool_]


def survey_heatmap(
    survey: SurveyArrays,
    metric: str = "accuracy@1",
    *,
    by: str | None = "group",
    control: str | None = "auto",
    component: str | None = None,
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw one metric of each group at each layer as a map, with all items and the control below.

    A cell with ° is no better than its control: the interval of their difference holds 0. The hover
    says each interval and its n.

    Args:
        survey: What `survey()` returns.
        metric: Any metric of `survey_table`.
        by, control, component, title, draws: As for `accuracy_curve`.

    Raises:
        ValueError: another metric, `by`, control or component.

    Example:
        >>> survey_heatmap(survey, "rank").show()
    """
    name = find_name(metric)
    series = survey_series(survey, component)
    draws = draws_of(survey, draws)
    groups = groups_drawn(survey, by)
    chosen_control = control_of(survey, control) if name.has_control else None
    rows = map_rows(survey, metric, groups, chosen_control, series, draws)
    labels = [escape_plotly(row.line.name) for row in rows]
    height = ROW_HEIGHT * max(MIN_ROWS, len(rows)) + 60
    margin_left = row_label_margin(labels)
    width = min(MAX_WIDTH, max(MIN_WIDTH, CELL_WIDTH * len(series.layers)))
    width += margin_left + COLOR_BAR_WIDTH
    what = "layer" if groups == [None] else "group and layer"
    heading = escape_plotly(title) if title is not None else f"{name.title} by {what}"
    are_marked = any(row.is_no_better.any() for row in rows)
    title_texts = title_of(
        survey,
        heading[:1].upper() + heading[1:],
        f"{NOT_BEYOND}: no better than the control" if are_marked else "",
        groups_note(survey, groups),
        draws=draws,
        where="in the hover",
        by_group=groups != [None],
        warning=unreadable_warning(survey, series).replace("hatched: ", ""),
    )
    margin_top = title_height(title_texts) + 12
    figure = Figure(_traces(survey, metric, rows, series.layers))
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(title_texts, height + margin_top),
        width=width,
        height=height + margin_top,
        margin={"l": margin_left, "r": 20, "t": margin_top, "b": 60},
        font=FONT,
    )
    figure.update_xaxes(title_text=series.title, showgrid=False, **_ticks(series))
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, showgrid=False, zeroline=False
    )
    return figure


def map_rows(
    survey: SurveyArrays,
    metric: str,
    groups: list[str | None],
    control: str | None,
    series: LayerSeries,
    draws: Draws,
) -> list[MapRow]:
    """Return the rows from the lowest up: the control, all items, and the groups."""
    everything = survey_lines(survey, metric, [None], control, series, draws)
    lines = everything
    if groups != [None]:
        of_groups = survey_lines(survey, metric, groups, None, series, draws)
        lines = [*everything, *reversed(of_groups)]
    rows = []
    for line in lines:
        is_no_better = np.zeros(len(series.layers), dtype=bool)
        if control is not None and line.drawn.control is None:
            compared = beyond_control(
                survey, metric, group=line.drawn.group, control=control, draws=draws
            )
            is_known = np.isfinite(compared.difference.low)
            is_no_better = (is_known & ~compared.is_beyond)[line.places]
        rows.append(MapRow(line, is_no_better))
    return rows


def _traces(
    survey: SurveyArrays, metric: str, rows: list[MapRow], layers: list[int]
) -> list[dict[str, Any]]:
    """Return the cells, with their numbers in them where there is room."""
    values = np.array([row.line.values for row in rows])
    colored, limits, bar, scale = _colors(survey, metric, values)
    cells: dict[str, Any] = {
        "type": "heatmap",
        "z": colored,
        "x": list(range(len(layers))),
        "y": list(range(len(rows))),
        "customdata": [hover_texts(row.line, layers) for row in rows],
        "hovertemplate": HOVER_TEMPLATE,
        "hoverongaps": True,
        "colorscale": scale,
        "colorbar": {"title": {"text": _bar_title(metric), "side": "right"}, **bar},
        "xgap": 1,
        "ygap": 1,
        **limits,
    }
    if len(layers) > MAX_WORD_COLUMNS:
        return [cells]
    return list(split_words_by_contrast(cells | {"text": _words(metric, rows)}))


def _colors(
    survey: SurveyArrays, metric: str, values: NDArray[np.float64]
) -> tuple[NDArray[np.floating[Any]], dict[str, float], dict[str, Any], Any]:
    """Return the numbers on their colour scale, its limits, its bar, and the scale itself."""
    if metric in METRICS:
        vocab = max(2, int(survey.provenance.get("vocab_size") or 2))
        axis = color_axis(metric, values, vocab)
        return axis.values, axis.limits, axis.bar, METRICS[metric].colors
    bar = {"tickformat": ".0%"} if find_name(metric).unit == "share" else {}
    return values, {"zmin": 0.0, "zmax": 1.0}, bar, "Viridis"


def _bar_title(metric: str) -> str:
    """Return the title of the colour bar, which is short."""
    name = find_name(metric)
    return f"{name.heading} ({name.unit})" if name.unit == "nats" else name.heading


def _words(metric: str, rows: list[MapRow]) -> list[list[str]]:
    """Return the number in each cell in a few letters, marked where its control is as good."""
    words = []
    for row in rows:
        marks = np.where(row.is_no_better, NOT_BEYOND, "")
        words.append([_short(metric, v) + m for v, m in zip(row.line.values, marks, strict=True)])
    return words


def _short(metric: str, value: float) -> str:
    """Return a number in at most four letters."""
    if not np.isfinite(value):
        return ""
    if find_name(metric).unit == "share":
        return f"{100 * value:.0f}"
    if abs(value) >= 9_950:
        return f"{value / 1000:.0f}k"
    if abs(value) >= 995:
        return f"{value / 1000:.1f}k"
    if metric == "rank" or abs(value) >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if find_name(metric).unit else f"{value:.2f}".removeprefix("0")


def _ticks(series: LayerSeries) -> dict[str, Any]:
    """Return the ticks of the columns, which are numbered from 0, whatever the layers are."""
    step = 1 + (len(series.layers) - 1) // MAX_TICKS
    shown = list(range(len(series.layers)))[::-1][::step][::-1]
    labels = [str(series.layers[column]) for column in shown]
    return {"tickvals": shown, "ticktext": labels, "zeroline": False}
