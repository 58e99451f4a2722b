"""`difference_curve()`: how two surveys of the same items differ, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.sites import site_label
from lens_recipes.arrays.survey.compare import SurveyComparison
from lens_recipes.arrays.survey.curves import LESS_IS_BETTER
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import counted, escape_plotly
from lens_recipes.views.figures.base.color import faint
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    COLORS,
    HOVER_TEMPLATE,
    LEGEND,
    panels_layout,
    title_layout,
)
from lens_recipes.views.tables.survey.comparison import (
    LEVEL,
    aligned_line,
    changed_line,
    comparison_title,
    confidence_words,
    difference_number,
    metric_words,
    p_value,
    pairs_line,
    run_lines,
)

HEIGHT = 360
LEGEND_ROOM = 34  # pixels below the title
MAX_TICKS = 16
BAND_NOTE = (
    "intervals of the difference, resampled pair by pair; p: sign-flip test, corrected over all "
    "layers (max-T)"
)


def difference_curve(
    comparison: SurveyComparison,
    *,
    names: Sequence[str] = ("the first", "the other"),
    title: str | None = None,
) -> go.Figure:
    """Draw the paired differences of two surveys with the band of their intervals.

    A full marker stands where the difference is significant with p corrected over all layers
    (max-T).

    Args:
        comparison: What `compare_surveys` returns.
        names: What the two surveys are called, in the order in which they were compared.
        title: Replaces the figure's own.

    Raises:
        TypeError: this is no comparison.
        ValueError: not two names.

    Example:
        >>> difference_curve(compare_surveys(base, edited, "logprob")).show()
    """
    if not isinstance(comparison, SurveyComparison):
        raise TypeError(
            f"received {type(comparison).__name__}, expected what compare() of two surveys "
            "returns: difference_curve(first.compare(other))."
        )
    name = find_name(comparison.metric)
    places = list(range(len(comparison.sites)))
    estimate, low, high, _ = comparison.difference
    is_significant = comparison.test.corrected_p < LEVEL
    color = COLORS[0]
    edge = {"x": places, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    traces = []
    sure = confidence_words(comparison)
    if np.isfinite(low).any():
        band = {"fill": "tonexty", "fillcolor": faint(color), "name": f"{sure} interval"}
        traces.append(go.Scatter(y=low, name="band", showlegend=False, **edge))
        traces.append(go.Scatter(y=high, showlegend=False, **(edge | band)))
    traces.append(
        go.Scatter(
            x=places,
            y=estimate,
            name="difference",
            mode="lines",
            line={"color": color, "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    hover = np.array(_hover(comparison))
    for chosen, symbol, label in (
        (is_significant, "circle", f"corrected p < {LEVEL:g}"),
        (~is_significant, "circle-open", f"corrected p ≥ {LEVEL:g}"),
    ):
        traces.append(
            go.Scatter(
                x=np.flatnonzero(chosen),
                y=estimate[chosen],
                name=escape_plotly(label),
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 8, "line": {"width": 1.5}},
                customdata=hover[chosen],
                hovertemplate=HOVER_TEMPLATE,
            )
        )
    figure = Figure(traces)
    heading = escape_plotly(comparison_title(comparison, names) if title is None else title)
    changed, aligned = changed_line(comparison), aligned_line(comparison)
    band_note = f"band: {sure} {BAND_NOTE}"
    runs = run_lines(comparison, names)
    lines = [pairs_line(comparison), changed, band_note, aligned, *runs]
    figure.update_layout(
        panels_layout(
            title_layout(heading, "<br>".join(escape_plotly(line) for line in lines if line)),
            HEIGHT,
            LEGEND_ROOM,
        ),
        legend=LEGEND,
    )
    better = "lower is better" if comparison.metric in LESS_IS_BETTER else ""
    unit = {"nats": "nats", "share": "points"}.get(name.unit, "")
    notes = ", ".join(filter(None, (unit, better)))
    axis_title = f"difference in {metric_words(comparison)}" + (f" ({notes})" if notes else "")
    figure.update_yaxes(
        title_text=axis_title, title_standoff=8, zeroline=True, zerolinecolor="#767676"
    )
    if name.unit == "share":
        figure.update_yaxes(tickformat="+.0%")
    step = 1 + (len(places) - 1) // MAX_TICKS
    shown = places[::-1][::step][::-1]
    figure.update_xaxes(
        title_text="layer",
        tickvals=shown,
        ticktext=[escape_plotly(comparison.sites[place]) for place in shown],
        range=[-0.5, len(places) - 0.5],
        zeroline=False,
    )
    return figure


def _hover(comparison: SurveyComparison) -> list[str]:
    """Return what the point of each site says."""
    texts = []
    estimate, low, high, n = comparison.difference
    for place, site in enumerate(comparison.sites):
        number = difference_number(
            comparison.metric, float(estimate[place]), float(low[place]), float(high[place])
        )
        other = comparison.other_sites[place]
        where = f"<b>{escape_plotly(site_label(site))}</b>"
        if other != site:
            where += f" against {escape_plotly(site_label(other))}"
        texts.append(
            f"{where}<br>{escape_plotly(number)}<br>"
            f"p {p_value(float(comparison.test.p[place]))}, corrected "
            f"{p_value(float(comparison.test.corrected_p[place]))}<br>"
            f"n: {counted(int(n[place]), 'pair')}"
        )
    return texts
