"""`attribution_bars()`: the largest parts of one logit, as bars that sum to the total."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.batch.parts import is_parts_batch
from lens_recipes.arrays.metrics import DIVERGING
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.attribution.logit import (
    ExplainedLogit,
    choose_parts,
    exact,
    find_logit,
    finite_values,
    set_layout,
)
from lens_recipes.views.figures.attribution.numbers import LogitFormat
from lens_recipes.views.figures.attribution.over_prompts import mean_bars
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import HOVER_TEMPLATE, check_result_kind
from lens_recipes.views.words import minus, part_name

HURTS = str(DIVERGING[0][1])
HELPS = str(DIVERGING[-1][1])
REST = "#9a9a9a"

DEFAULT_TOP = 20
DEFAULT_TOP_LAYERS = 100

# Pixels.
WIDTH = 860
BAR_HEIGHT = 23


class _Bar(NamedTuple):
    """One part, or the sum of the parts that have no bar of their own."""

    name: str
    value: float
    color: str


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as NaN
def attribution_bars(
    result: AttributionArrays,
    *,
    prompt: int | None = None,
    position: int = -1,
    target: int = 0,
    top: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw the largest parts of one logit as bars, and the sum of all others as one more bar.

    The bars sum to the total. Embedding, edits and bias are always shown. The bars of
    `unit="layer"`, and those of `unit="component"` if no part is left out, stand in the order of
    the model; otherwise the largest |value| comes first.

    Of the same parts of several prompts, a bar is the mean with its standard error, the dots are
    the prompts, and beside them stands in how many the part helps.

    Args:
        result: Any attribution.
        prompt: Which prompt. None for the means over all; with `unit="token"`, whose parts differ
            from prompt to prompt, the first.
        position: Which of its selected tokens, an index into them; −1 is the last.
        target: Which target, an index.
        top: How many bars, besides embedding, edits and bias. None: 20, or 100 for `unit="layer"`.
        title: Replaces the figure's own.

    Raises:
        ValueError: `top` below 1, or no such prompt, token or target.

    Example:
        >>> attribution_bars(result, target=1).show()
    """
    check_result_kind(AttributionArrays, result)
    if top is None:
        top = DEFAULT_TOP_LAYERS if result.unit == "layer" else DEFAULT_TOP
    if top < 1:
        raise ValueError(f"top={top} must be at least 1.")
    if prompt is None and is_parts_batch(result):
        colors = (HELPS, HURTS, REST)
        return mean_bars(
            result, position=position, target=target, top=top, title=title, colors=colors
        )
    logit = find_logit(result, prompt or 0, position, target)
    shown_parts = choose_parts(logit.single, logit.values, top)
    other_parts = [part for part in range(len(logit.values)) if part not in shown_parts]
    bars = _make_bars(logit, shown_parts, other_parts)

    if title is None:
        selection = "the largest parts" if other_parts else "all parts"
        title = f"{logit.target_name}: {selection}"
    else:
        title = escape_plotly(title)
    values = np.array([bar.value for bar in bars])
    numbers = LogitFormat.fit(values)
    lengths = finite_values(values)
    shortest = np.nanmin(lengths, initial=0)
    longest = np.nanmax(lengths, initial=0)
    room_for_numbers = 0.12 * (longest - shortest) + 1e-6
    figure = Figure(_bar_trace(bars, numbers))
    body_height = BAR_HEIGHT * len(bars)
    set_layout(figure, logit, title, numbers, width=WIDTH, body_height=body_height)
    figure.update_xaxes(
        title_text=f"logits towards {logit.target_name}",
        range=[shortest - room_for_numbers, longest + room_for_numbers],
        zerolinecolor="#444444",
    )
    figure.update_yaxes(
        tickvals=list(range(len(bars))),
        ticktext=[_bar_label(bar) for bar in bars],
        range=[len(bars) - 0.4, -0.6],
        automargin=True,
        showgrid=False,
    )
    return figure


def _make_bars(logit: ExplainedLogit, shown_parts: list[int], other_parts: list[int]) -> list[_Bar]:
    """Return a bar for each part that is shown, and one for the rest where there is a rest."""
    bars = []
    for index in shown_parts:
        name = part_name(logit.single, logit.single.parts[index], plotly_safe)
        value = float(logit.values[index])
        bars.append(_Bar(name, value, HELPS if value >= 0 else HURTS))
    if other_parts:
        total = float(logit.values[other_parts].sum())
        bars.append(_Bar(f"all the others ({len(other_parts)})", total, REST))
    return bars


def _bar_label(bar: _Bar) -> str:
    """Return the label of a bar; a value for which no bar can be drawn is written beside it."""
    if math.isfinite(bar.value):
        return bar.name
    return f"{bar.name}: {minus(str(bar.value))}"


def _bar_trace(bars: list[_Bar], numbers: LogitFormat) -> go.Bar:
    """Return the bars, each with its number at its end; a hover shows small ones exactly."""
    return go.Bar(
        x=finite_values(np.array([bar.value for bar in bars])),
        y=list(range(len(bars))),
        orientation="h",
        marker={"color": [bar.color for bar in bars]},
        text=[numbers.write(bar.value) for bar in bars],
        textposition="outside",
        cliponaxis=False,
        customdata=[f"<b>{bar.name}</b><br>{exact(bar.value)} logits" for bar in bars],
        hovertemplate=HOVER_TEMPLATE,
    )
