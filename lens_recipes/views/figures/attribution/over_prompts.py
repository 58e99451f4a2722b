"""Bars of what the parts of a logit add on average over many prompts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Part
from lens_recipes.arrays.batch.parts import (
    Spread,
    common_target_name,
    prompt_values,
    read_tokens,
    spread,
    target_index,
)
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.attribution.logit import choose_parts, finite_values
from lens_recipes.views.figures.attribution.numbers import LogitFormat
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    edited_lines,
    provenance_line,
    title_height,
    title_layout,
)
from lens_recipes.views.words import mean_and_error, minus, part_label

MAX_DOTS = 3000

TITLE_GAP = 24  # pixels below the title

DOT_COLOR = "rgba(0,0,0,0.35)"  # of one prompt

BAR_HEIGHT = 25  # pixels


class MeanBar(NamedTuple):
    """One part, or the sum of the parts that have no bar of their own, over the prompts.

    Attributes:
        name: Of the part.
        values: Its value in each prompt, in logits.
        color: Of the bar.
    """

    name: str
    values: list[float]
    color: str

    @property
    def spread(self) -> Spread:
        """The mean of the values, its standard error, and how many are positive."""
        return spread(np.array(self.values))


def mean_bars(
    result: AttributionArrays,
    *,
    position: int,
    target: int,
    top: int,
    title: str | None,
    colors: tuple[str, str, str],
) -> go.Figure:
    """Draw the largest parts on average over prompts. See `attribution_bars`.

    Args:
        result: The same parts of several prompts.
        position, target, top, title: As for `attribution_bars`.
        colors: Of the parts that help, of those that hurt, and of the rest.
    """
    values = prompt_values(result, position, target)
    bars = _choose_bars(result, values, top, colors)
    name = common_target_name(result, target_index(result, target), plotly_safe)
    if title is None:
        title = f"{name}: mean over {values.shape[1]} prompts"
    else:
        title = escape_plotly(title)
    ends = finite_values(np.concatenate([np.array(bar.values) for bar in bars]))
    lowest, highest = np.nanmin(ends, initial=0), np.nanmax(ends, initial=0)
    room_for_numbers = 0.3 * (highest - lowest) + 1e-6
    figure = Figure([_bar_trace(bars), _numbers(bars, highest)])
    has_dots = len(bars) * values.shape[1] <= MAX_DOTS
    if has_dots:
        figure.add_trace(_dots(result, bars, position))
    total = spread(result.total[read_tokens(result, position), target].astype(np.float64))
    mean, error = mean_and_error(total.mean, total.standard_error)
    lines = [
        f"total {minus(mean)} ± {error}, positive in {total.positive} of {total.n}",
        "mean ± standard error, and in how many it is positive" + "; dots: prompts" * has_dots,
        provenance_line(result),
        *edited_lines(result),
    ]
    title_texts = title_layout(title, "<br>".join(lines))
    margin_above = title_height(title_texts) + TITLE_GAP
    height = margin_above + 80 + BAR_HEIGHT * len(bars)
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(title_texts, height),
        margin={"l": 60, "r": 20, "t": margin_above, "b": 70},
        font=FONT,
        width=900,
        height=height,
        showlegend=False,
    )
    figure.update_xaxes(
        title_text=f"logits towards {name}",
        range=[lowest - 0.04 * (highest - lowest), highest + room_for_numbers],
        zerolinecolor="#444444",
    )
    figure.update_yaxes(
        tickvals=list(range(len(bars))),
        ticktext=[bar.name for bar in bars],
        range=[len(bars) - 0.4, -0.6],
        automargin=True,
        showgrid=False,
    )
    return figure


def _choose_bars(
    result: AttributionArrays, values: NDArray[np.float64], top: int, colors: tuple[str, str, str]
) -> list[MeanBar]:
    """Return a bar for each of the largest parts, and one for the rest where there is a rest."""
    helps, hurts, rest = colors
    means = np.array([spread(numbers).mean for numbers in values])
    shown = choose_parts(result, means, top)
    others = [index for index in range(len(means)) if index not in shown]
    bars = []
    for index in shown:
        name = _bar_name(result.parts[index])
        color = helps if means[index] >= 0 else hurts
        bars.append(MeanBar(name, values[index].tolist(), color))
    if others:
        sums = values[others].sum(axis=0)
        bars.append(MeanBar(f"all the others ({len(others)})", sums.tolist(), rest))
    return bars


def _bar_name(part: Part) -> str:
    """Return the name of a part, where plotly cannot act on it."""
    return part_label(part, plotly_safe)


def _bar_trace(bars: list[MeanBar]) -> go.Bar:
    """Return the bars, each with its standard error."""
    spreads = [bar.spread for bar in bars]
    return go.Bar(
        x=finite_values(np.array([bar_spread.mean for bar_spread in spreads])),
        y=list(range(len(bars))),
        orientation="h",
        marker={"color": [bar.color for bar in bars]},
        error_x={
            "type": "data",
            "array": [_finite(bar_spread.standard_error) for bar_spread in spreads],
            "color": "#000000",
            "thickness": 1.5,
            "width": 4,
        },
        customdata=[_hover(bar) for bar in bars],
        hovertemplate=HOVER_TEMPLATE,
    )


def _finite(number: float) -> float | None:
    """Return a number that can be drawn, else None."""
    return number if math.isfinite(number) else None


def _hover(bar: MeanBar) -> str:
    """Return what a bar says."""
    mean, error = mean_and_error(bar.spread.mean, bar.spread.standard_error)
    lines = [
        f"<b>{bar.name}</b>",
        f"{mean} ± {error} logits",
        f"positive in {bar.spread.positive} of {bar.spread.n} prompts",
    ]
    return "<br>".join(lines)


def _dots(result: AttributionArrays, bars: list[MeanBar], position: int) -> go.Scatter:
    """Return a dot for each prompt and bar."""
    prompts = result.tokens.prompt[read_tokens(result, position)].tolist()
    x: list[float] = []
    y: list[int] = []
    hover: list[str] = []
    for row, bar in enumerate(bars):
        for prompt, value in zip(prompts, bar.values, strict=True):
            x.append(value)
            y.append(row)
            mean, _ = mean_and_error(value, math.nan)
            hover.append(f"<b>{bar.name}</b><br>prompt {prompt}: {mean} logits")
    return go.Scatter(
        x=finite_values(np.array(x)),
        y=y,
        mode="markers",
        marker={"color": DOT_COLOR, "size": 4},
        customdata=hover,
        hovertemplate=HOVER_TEMPLATE,
    )


def _numbers(bars: list[MeanBar], highest: float) -> go.Scatter:
    """Return the numbers of each bar, in a column to the right of all dots."""
    spreads = [bar.spread for bar in bars]
    numbers = LogitFormat.fit(np.array([bar_spread.mean for bar_spread in spreads]))
    texts = []
    for bar_spread in spreads:
        error = numbers.write(bar_spread.standard_error).removeprefix("+")
        if math.isnan(bar_spread.standard_error):
            error = "–"
        mean = numbers.write(bar_spread.mean)
        texts.append(f"  {mean} ± {error}, {bar_spread.positive} of {bar_spread.n}")
    return go.Scatter(
        x=[highest] * len(bars),
        y=list(range(len(bars))),
        mode="text",
        text=texts,
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
    )
