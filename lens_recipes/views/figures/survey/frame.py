"""What stands around the figures of a survey: the title with n and the ledger, the axes."""

from __future__ import annotations

import html
import math
from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws
from lens_recipes.arrays.survey.names import control_in_words
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.style import LEGEND, panels_layout, title_layout
from lens_recipes.views.figures.base.unreadable import add_bands
from lens_recipes.views.figures.layers.axes import LayerSeries
from lens_recipes.views.summaries.survey.doubts import unreadable_words
from lens_recipes.views.summaries.survey.words import (
    edited_line,
    interval_line,
    ledger_line,
    model_words,
    size_words,
    small_groups_line,
)

HEIGHT = 400  # pixels of the panel
LEGEND_LINE = 29  # pixels
LEGEND_WIDTH = 870  # pixels of a legend above the panel
ENTRY_WIDTH = 48  # pixels of an entry, besides its name
MAX_ABOVE = 6  # entries of a legend above the panel; more stand beside it
LETTER_WIDTH = 7  # pixels
TITLE_LETTERS = 130  # of a line below the title


def title_of(
    survey: SurveyArrays,
    title: str,
    *notes: str,
    draws: Draws,
    where: str = "bands",
    control: str | None = None,
    by_group: bool = False,
    control_note: str = "",
    warning: str = "",
) -> dict[str, Any]:
    """Return the title of a figure with the lines below it: lens, n, intervals, what is left out.

    Args:
        survey: What is drawn.
        title: The title; it is safe for plotly.
        notes: More for the line of the intervals; empty ones are left out.
        draws: How intervals are made.
        where: Where the intervals are.
        control: What is drawn in grey; None for nothing.
        by_group: Whether groups are drawn, of which some may be too small.
        control_note: What does not leave its control, a line of its own.
        warning: What cannot be believed, a line of its own.
    """
    proof = verdict(survey)
    lines = [f"{model_words(survey)}, {proof}; {size_words(survey)}"]
    second = [interval_line(survey, None, draws, where)]
    if control is not None:
        second.append(f"grey: {control_in_words(control)}")
    second += filter(None, notes)
    lines.append("; ".join(second))
    lines.append(control_note)
    lines.append(ledger_line(survey))
    lines.append(edited_line(survey))
    if by_group:
        lines.append(small_groups_line(survey))
    shown = [escape_plotly(_cut(line)) for line in lines if line]
    if warning:
        shown.append(f"<b>{escape_plotly(_cut(warning))}</b>")
    if survey.mark:
        shown.append(f"<b>{escape_plotly(survey.mark)}</b>")
    return title_layout(title, "<br>".join(shown))


def _cut(line: str) -> str:
    """Return a line that is no wider than the figure."""
    return line if len(line) <= TITLE_LETTERS else f"{line[: TITLE_LETTERS - 1]}…"


def unreadable_warning(survey: SurveyArrays, series: LayerSeries) -> str:
    """Return what the hatching means; empty where there is none."""
    readable = survey.readable[:, series.site_indices]
    if (2 * readable.sum(0) >= len(survey)).all():
        return ""
    return f"hatched: {unreadable_words(survey)}"


def lay_out(
    figure: go.Figure,
    survey: SurveyArrays,
    series: LayerSeries,
    title_texts: dict[str, Any],
    value_axis: dict[str, Any],
    room: float = 0.5,
) -> None:
    """Give a figure of lines its axes, its legend and its title, and hatch what cannot be read.

    Args:
        figure: With its lines.
        survey: What is drawn.
        series: Along which sites.
        title_texts: The title.
        value_axis: The axis of values.
        room: Beyond the last layer, in layers.
    """
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    widest = LETTER_WIDTH * max(len(html.unescape(name)) for name in names)
    is_above = len(names) <= MAX_ABOVE
    legend: dict[str, Any] = dict(LEGEND)
    in_a_line = max(1, LEGEND_WIDTH // (widest + ENTRY_WIDTH))
    space = LEGEND_LINE * math.ceil(len(names) / in_a_line) + 6
    if not is_above:
        legend = {"x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
        space = 16
    figure.update_layout(
        panels_layout(title_texts, HEIGHT, space),
        legend=legend,
        showlegend=len(names) > 1,
        hovermode="closest",
    )
    if not is_above:
        figure.update_layout(width=980 + widest)
    figure.update_yaxes(title_standoff=8, **value_axis)
    figure.update_xaxes(
        title_text=series.title,
        range=[series.layers[0] - 0.5, series.layers[-1] + room],
        **series.axis(),
    )
    readable = 2 * survey.readable[:, series.site_indices].sum(0) >= len(survey)
    add_bands(figure, series.layers, readable, row=None)
    if not readable.all():  # the title says what the hatching is
        figure.data[-1].showlegend = False
