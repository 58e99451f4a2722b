"""`dose_figure()`: what an edit does over its scale, above the band of its controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_recipes.arrays.edits.dose import DoseArrays
from lens_recipes.arrays.edits.verdict import Verdict
from lens_recipes.arrays.text import EACH_TARGET, escape_plotly, plotly_safe
from lens_recipes.views.figures.base.color import faint
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    COLORS,
    HOVER_TEMPLATE,
    LEGEND,
    panels_layout,
    title_layout,
)
from lens_recipes.views.summaries.edits.dose import controls_in_words, edit_in_words, measured
from lens_recipes.views.summaries.edits.effects import beside_controls
from lens_recipes.views.words import prompt_end

PANEL_HEIGHT = 230  # pixels
PANEL_GAP = 34  # pixels
LEGEND_HEIGHT = 38  # pixels below the title
MAX_PANELS = 4
TITLE_LETTERS = 90
CONTROL_COLOR = "#666666"
EDIT_COLOR = COLORS[0]


def dose_figure(dose: DoseArrays, *, title: str | None = None) -> go.Figure:
    """Draw an edit's effect over its scale, and the band between its controls.

    The grey band spans the smallest and the largest control, each the mean over the prompts; the
    blue one is the 95 % interval of the effect over the prompts. A full point is beyond the
    control, an open one is not. There is a panel for each of the first targets, and one for KL.

    Args:
        dose: What `dose` returns.
        title: Replaces the figure's own.

    Raises:
        TypeError: something else.

    Example:
        >>> curve = dose(model, prompts, steer(" Rome", layer=20), targets=" Rome")
        >>> dose_figure(curve).show()
    """
    if not isinstance(dose, DoseArrays):
        raise TypeError(f"received {type(dose).__name__}, expected what dose() returns.")
    panels = [*measured(dose)[: MAX_PANELS - 1][: dose.n_targets], "kl"]
    height = len(panels) * PANEL_HEIGHT + (len(panels) - 1) * PANEL_GAP
    figure = make_subplots(
        len(panels),
        1,
        figure=Figure(),
        shared_xaxes=True,
        vertical_spacing=PANEL_GAP / height if len(panels) > 1 else 0,
    )
    for row, what in enumerate(panels, start=1):
        for trace in panel_traces(dose, what, is_first=row == 1):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(
            row=row, col=1, title_text=axis_title(dose, what), title_standoff=8, zeroline=True
        )
    text = "Effect over the scale" if title is None else title
    n_prompts = len(dose.prompts)
    prompts = f"“{prompt_end(dose.prompts[0], 60)}”" if n_prompts == 1 else f"{n_prompts} prompts"
    lines = [
        prompt_end(edit_in_words(dose), TITLE_LETTERS),
        f"{prompts}, after the last token; {controls_in_words(dose)}",
    ]
    subtitle = "<br>".join(escape_plotly(line) for line in lines)
    figure.update_layout(
        panels_layout(title_layout(escape_plotly(text), subtitle), height, LEGEND_HEIGHT),
        legend=LEGEND,
    )
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title_text=scale_title(dose), row=len(panels), col=1)
    return figure


def panel_traces(dose: DoseArrays, what: int | str, *, is_first: bool) -> list[go.Scatter]:
    """Return the bands of the controls and of the interval, and the line of the effect."""
    verdicts = dose.verdicts(what)
    traces = []
    if dose.controls:
        low = [verdict.control_low for verdict in verdicts]
        high = [verdict.control_high for verdict in verdicts]
        traces += band(dose, low, high, CONTROL_COLOR, "controls", showlegend=is_first)
    if len(dose.prompts) > 1:
        low = [verdict.effect_interval.low for verdict in verdicts]
        high = [verdict.effect_interval.high for verdict in verdicts]
        traces += band(dose, low, high, EDIT_COLOR, "95 % over prompts", showlegend=is_first)
    symbols = ["circle" if verdict.beyond else "circle-open" for verdict in verdicts]
    traces.append(
        go.Scatter(
            x=dose.scales,
            y=[verdict.effect for verdict in verdicts],
            name="edit (full points: beyond the control)",
            legendgroup="edit",
            showlegend=is_first,
            mode="lines+markers",
            line={"color": EDIT_COLOR, "width": 2},
            marker={
                "size": 9,
                "symbol": symbols,
                "color": EDIT_COLOR,
                "line": {"width": 2, "color": EDIT_COLOR},
            },
            cliponaxis=False,
            customdata=hover_texts(dose, what, verdicts),
            hovertemplate=HOVER_TEMPLATE,
        )
    )
    return traces


def band(
    dose: DoseArrays,
    low: list[float],
    high: list[float],
    color: str,
    name: str,
    *,
    showlegend: bool,
) -> list[go.Scatter]:
    """Return the two edges of a band; the second is filled down to the first."""
    edge: dict[str, Any] = {
        "x": dose.scales,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "legendgroup": name,
    }
    filled = {"fill": "tonexty", "fillcolor": faint(color), "name": name}
    return [
        go.Scatter(y=np.array(low), showlegend=False, **edge),
        go.Scatter(y=np.array(high), showlegend=showlegend, **filled, **edge),
    ]


def axis_title(dose: DoseArrays, what: int | str) -> str:
    """Return what a panel shows, with its unit."""
    if what == "kl":
        return "KL to unedited (nats)"
    name = dose.target_name(int(what))
    shown = escape_plotly(name) if name == EACH_TARGET else plotly_safe(name, 16)
    return f"Δ logprob {shown}<br>(nats)"


def scale_title(dose: DoseArrays) -> str:
    """Return what the axis of the scales is."""
    if dose.unit == "share":
        return "share of the way to what the edit puts there"
    if dose.edit.normalize:  # type: ignore[attr-defined]
        return "scale, in median norms of the prompt's own vectors at the site"
    return "scale, times the vector"


def hover_texts(dose: DoseArrays, what: int | str, verdicts: list[Verdict]) -> list[str]:
    """Return what the point of each scale says."""
    texts = []
    for scale, verdict in zip(dose.scales, verdicts, strict=True):
        told = beside_controls(verdict, is_change=what != "kl")
        texts.append(f"<b>{dose.unit} {scale:g}</b><br>{escape_plotly(told)}")
    return texts
