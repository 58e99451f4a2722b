"""`accuracy_curve()`, `survey_curve()` and others: a survey layer by layer, with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import rank_ticks
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, beyond_control, draws_of, use_median
from lens_recipes.arrays.survey.metrics import item_values
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.caller import argument
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import check_result_kind
from lens_recipes.views.figures.survey.frame import lay_out, title_of, unreadable_warning
from lens_recipes.views.figures.survey.lines import (
    SurveyLine,
    groups_drawn,
    groups_note,
    line_traces,
    survey_lines,
    survey_series,
)
from lens_recipes.views.tables.survey.content import control_of

MARGIN = 0.02  # beyond the ends of an axis, as a share of its range
SHARE_AXIS = {"range": [-MARGIN, 1 + MARGIN], "tickformat": ".0%", "zeroline": False}
ACCURACIES = (1, 5, 10)
MARKER_SIZE = 6  # pixels
HELD = 0.8  # layers for which the end of an emergence curve is drawn on


def accuracy_curve(
    survey: SurveyArrays,
    *,
    k: int = 1,
    by: str | None = "group",
    control: str | None = "auto",
    component: str | None = None,
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw in how many items the answer is among the k most likely tokens, layer by layer.

    Each group has a line with the band of its intervals. Grey and dashed is the control, of all
    items. Hatched layers cannot be read with this lens in most items.

    Args:
        survey: What `survey()` returns.
        k: 1, 5 or 10.
        by: "group" for a line for each group, None for one of all items.
        control: "shuffle", "random", "auto" for the first that there is, or None for none.
        component: Along which sites; None for "resid_post", or for the only one that was read.
        title: Replaces the figure's own.
        draws: How intervals are made; None for as `survey` was told.

    Raises:
        ValueError: another k, `by`, control or component.

    Example:
        >>> accuracy_curve(survey, k=5).show()
    """
    if k not in ACCURACIES:
        raise ValueError(f"{argument('k', k)} is unknown: accepted are 1, 5 and 10.")
    metric = f"accuracy@{k}"
    axis = {"title_text": metric, **SHARE_AXIS}
    return _line_figure(survey, metric, by, control, component, title, draws, axis)


def rank_curve(
    survey: SurveyArrays,
    *,
    by: str | None = "group",
    control: str | None = "auto",
    component: str | None = None,
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw the median rank of the answer, layer by layer, on a logarithmic axis.

    Args:
        survey: What `survey()` returns.
        by, control, component, title, draws: As for `accuracy_curve`.

    Raises:
        ValueError: another `by`, control or component.

    Example:
        >>> rank_curve(survey).show()
    """
    check_result_kind(SurveyArrays, survey)
    vocab = max(2, int(survey.provenance.get("vocab_size") or 0), int(survey.ranks.max()) + 1)
    heights, labels = rank_ticks(vocab)
    last = float(np.log10(vocab))
    axis = {
        "title_text": find_name("rank").axis_title,
        "range": [last * (1 + MARGIN), -MARGIN * last],
        "zeroline": False,
        "tickvals": heights,
        "ticktext": labels,
    }
    return _line_figure(survey, "rank", by, control, component, title, draws, axis)


def emergence_curve(
    survey: SurveyArrays,
    *,
    by: str | None = "group",
    control: str | None = "auto",
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw in how many items the answer has emerged by each layer: is the top token to the end.

    Items whose answer never does hold the curve down at its end, which is drawn on beyond the last
    layer; the legend says how many they are.

    Args:
        survey: What `survey()` returns.
        by, control, title, draws: As for `accuracy_curve`.

    Raises:
        ValueError: another `by` or control.

    Example:
        >>> emergence_curve(survey, by=None).show()
    """
    axis = {"title_text": "share of items whose answer has emerged", **SHARE_AXIS}
    return _line_figure(survey, "emerged", by, control, None, title, draws, axis)


def survey_curve(
    survey: SurveyArrays,
    metric: str = "prob",
    *,
    by: str | None = "group",
    control: str | None = "auto",
    component: str | None = None,
    title: str | None = None,
    draws: Draws | None = None,
) -> go.Figure:
    """Draw any metric of a survey, layer by layer: the mean of each group with its band.

    Args:
        survey: What `survey()` returns.
        metric: As for `Survey.curve`; "rank" is drawn as by `rank_curve`.
        by, component, title, draws: As for `accuracy_curve`.
        control: As for `accuracy_curve`; "auto" is none for a metric that looks at no answer.

    Raises:
        ValueError: no such metric, or another `by`, control or component.

    Example:
        >>> survey_curve(survey, "prob").show()
    """
    name = find_name(metric)
    if control == "auto" and not name.has_control:
        control = None
    axis: dict[str, Any] = {"title_text": name.axis_title}
    if name.unit == "share":
        axis |= SHARE_AXIS
    if metric == "rank":
        return rank_curve(
            survey, by=by, control=control, component=component, title=title, draws=draws
        )
    return _line_figure(survey, metric, by, control, component, title, draws, axis)


def _line_figure(
    survey: SurveyArrays,
    metric: str,
    by: str | None,
    control: str | None,
    component: str | None,
    title: str | None,
    draws: Draws | None,
    axis: dict[str, Any],
) -> go.Figure:
    """Return a figure of one metric with a line for each group."""
    series = survey_series(survey, component)
    draws = draws_of(survey, draws)
    groups = groups_drawn(survey, by)
    chosen_control = control_of(survey, control)
    lines = survey_lines(survey, metric, groups, chosen_control, series, draws)
    figure = Figure()
    traces = [_traces(line, metric, series.layers) for line in lines]
    for drawn in traces:
        figure.add_traces(drawn[:-1])  # bands first: no band covers a line
    figure.add_traces([drawn[-1] for drawn in traces])
    if title is None:
        heading = TITLES.get(metric, f"{find_name(metric).title} by layer")
        heading = heading[:1].upper() + heading[1:]
    else:
        heading = escape_plotly(title)
    title_texts = title_of(
        survey,
        heading,
        groups_note(survey, groups),
        _control_note(survey, metric, chosen_control),
        draws=draws,
        control=chosen_control,
        by_group=groups != [None],
        control_note=_not_beyond_note(survey, lines, chosen_control, draws),
        warning=unreadable_warning(survey, series),
    )
    room = HELD if metric == "emerged" else 0.5
    lay_out(figure, survey, series, title_texts, axis, room)
    return figure


TITLES = {
    "emerged": "When answers emerge: top token from there to the end",
    "rank": "Median rank of the answer by layer",
}


def _traces(line: SurveyLine, metric: str, layers: list[int]) -> list[go.Scatter]:
    """Return a line of one metric and its band."""
    if metric == "rank":
        return line_traces(line, layers, scale=_on_rank_axis)
    if metric != "emerged":
        return line_traces(line, layers)
    never = 1 - float(line.values[-1])
    traces = line_traces(line, layers, shape="hv", name=f"{line.name} (never {never:.0%})")
    for trace in traces:
        trace.x = [*trace.x, layers[-1] + HELD]
        trace.y = [*trace.y, trace.y[-1]]
    drawn = traces[-1]
    drawn.customdata = [*drawn.customdata, drawn.customdata[-1]]
    drawn.marker.update(size=[*[MARKER_SIZE] * len(layers), 0], line_width=0)
    return traces


def _on_rank_axis(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks as they stand on a logarithmic axis."""
    return np.log10(ranks + 1)


def _not_beyond_note(
    survey: SurveyArrays, lines: Sequence[SurveyLine], control: str | None, draws: Draws
) -> str:
    """Return which lines are no better than their control at any layer; empty where all are.

    Each is held against the control of its own items.
    """
    names = []
    for line in lines:
        if control is None or line.drawn.control is not None:
            continue
        found = beyond_control(
            survey, line.drawn.metric, group=line.drawn.group, control=control, draws=draws
        )
        has_interval = np.isfinite(found.difference.low[line.places]).any()
        if has_interval and not found.is_beyond[line.places].any():
            names.append(line.name)
    return f"at no layer better than the control: {', '.join(names)}" if names else ""


def _control_note(survey: SurveyArrays, metric: str, control: str | None) -> str:
    """Return that the control of ranks is a mean, where some items have none."""
    if metric != "rank" or control is None:
        return ""
    if use_median(metric, item_values(survey, metric, control)):
        return ""
    return "its mean, as some items have none"
