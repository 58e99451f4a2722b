"""`trajectory()`: some tokens followed through the layers, as lines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, find_metric, vocab_size
from lens_recipes.arrays.metrics.tracks import Track
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    COLORS,
    DASHES,
    FONT,
    HOVER_TEMPLATE,
    MARKERS,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.unreadable import add_bands
from lens_recipes.views.figures.layers.axes import LayerSeries, after_token_label, find_series
from lens_recipes.views.figures.layers.metrics import (
    TRAJECTORY_METRICS,
    axis_values,
    value_axis,
)
from lens_recipes.views.figures.layers.track_groups import (
    TrackGroup,
    choose_positions,
    choose_prompts,
    make_groups,
)
from lens_recipes.views.summaries.trust import cannot
from lens_recipes.views.words import format_value, probability, prompt_end

MIN_HEIGHT = 460  # pixels
SMALLEST_LINEAR = 0.01  # of a probability that can be told from 0 on a linear axis
LEGEND_LINE = 21  # pixels


def trajectory(
    result: LensArrays,
    *,
    of: str | int | Iterable[str | int] | None = None,
    metric: str = "prob",
    prompts: int | Iterable[int] | None = None,
    position: int | Iterable[int] = -1,
    component: str | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw tokens from layer to layer, with a colour for each token and a dash for each place.

    A place is a prompt and a position in it. Hatched layers cannot be read with this lens after
    most of the tokens (`result.readable`).

    Args:
        result: Any lens result with layers.
        of: None for all targets, or "final" where there are none; or "next", "final", "target"
            (each prompt's own), a target or a tracked token, as text or id, or a list of them, each
            drawn where the result has it. For "logit_diff" the pair (a, b), drawn as a − b, or None
            where each prompt has two targets.
        metric: "prob", "logprob" (nats), "rank" (log scale, 0 at the top), "logit" or "logit_diff"
            (nats).
        prompts: Which prompts. None for all, of which the first six are drawn.
        position: Which of each prompt's selected tokens are read, one or several; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only component that was
            read.
        title: Replaces the figure's own.
        show_all: Leave the hatching out.

    Raises:
        ValueError: a metric, token, prompt, position or component that the result does not have, or
            more of them than can be told apart.

    Example:
        >>> trajectory(result, metric="rank").show()
        >>> trajectory(result, of=" Paris", position=[2, 3, 4]).show()
    """
    find_metric(metric, TRAJECTORY_METRICS)
    series = find_series(result, component)
    positions = choose_positions(position)
    prompt_numbers = choose_prompts(result, prompts, len(positions))
    groups = make_groups(result, prompt_numbers, positions, of, metric)
    n_prompts = len(prompt_numbers)

    figure = Figure()
    _add_lines(figure, groups, series, metric)
    if len(groups) > 1:
        _add_group_titles(figure, groups, n_prompts, len(positions))

    if title is None:
        title = f"Through the layers: {METRICS[metric].title}"
    else:
        title = escape_plotly(title)
    note = ""
    if prompts is None and n_prompts < len(result):
        note = f"the first {n_prompts} of {len(result)} prompts (prompts= for others)"
    legend_lines = sum(len(group.tracks) + 2 for group in groups)
    height = max(MIN_HEIGHT, 180 + LEGEND_LINE * legend_lines)
    layout_title = figure_title(
        result,
        title,
        _subtitle(groups, n_prompts, positions),
        note,
        prompt=prompt_end(groups[0].single.prompts[0], 110) if n_prompts == 1 else "",
        height=height,
    )
    figure.update_layout(
        template="plotly_white",
        title=layout_title,
        width=980,
        height=height,
        margin={"l": 80, "r": 20, "t": title_height(layout_title) + 20, "b": 60},
        font=FONT,
        legend={"groupclick": "toggleitem", "font": {"size": 13}, "tracegroupgap": 12},
        showlegend=True,
        hoverlabel={"align": "left"},
    )
    ends = [series.layers[0] - 0.5, series.layers[-1] + 0.5]
    figure.update_xaxes(title_text=series.title, range=ends, **series.axis())
    figure.update_yaxes(
        title_text=METRICS[metric].axis_title, **value_axis(metric, vocab_size(result))
    )
    if metric == "prob":
        _take_decades(figure, vocab_size(result))
    if not show_all:
        readable = _readable_layers(groups, series)
        add_bands(figure, series.layers, readable, cannot=cannot(result))
    return figure


def _take_decades(figure: go.Figure, vocab: int) -> None:
    """Make the axis of probabilities logarithmic where they span decades.

    It ends at a hundredth of the probability that each token has under a uniform guess.
    """
    numbers = np.concatenate([np.asarray(trace.y, dtype=np.float64) for trace in figure.data])
    smallest = numbers[numbers > 0].min(initial=1.0)
    if smallest > SMALLEST_LINEAR:
        return
    lowest = max(math.log10(smallest), -math.log10(100 * vocab))
    figure.update_yaxes(
        type="log",
        exponentformat="power",
        range=[lowest - 0.1, 0.1],
        dtick=1,
        title_text=f"{METRICS['prob'].title} (log scale)",
    )


def _readable_layers(groups: list[TrackGroup], series: LayerSeries) -> NDArray[np.bool_]:
    """Return which layers can be read after at least half of the tokens that are drawn."""
    readable = np.stack(
        [group.single.readable[series.site_indices, group.token] for group in groups]
    )
    return readable.mean(axis=0) >= 0.5


# -- lines -------------------------------------------------------------


def _add_lines(
    figure: go.Figure, groups: list[TrackGroup], series: LayerSeries, metric: str
) -> None:
    """Draw the tokens of all groups."""
    colors = _assign_colors(groups)
    for number, group in enumerate(groups):
        for track in group.tracks:
            line = go.Scatter(
                x=series.layers,
                y=axis_values(metric, track.values[series.site_indices]),
                mode="lines+markers",
                name=escape_plotly(track.name),
                line={"color": colors[track.key], "dash": DASHES[number], "width": 2},
                marker={"symbol": MARKERS[number], "size": 6},
                legendgroup=f"line {number}",
                customdata=_hover(group, track, series, metric),
                hovertemplate=HOVER_TEMPLATE,
            )
            figure.add_trace(line)


def _assign_colors(groups: list[TrackGroup]) -> dict[Any, str]:
    """Return the colour of each token, by the key that its tracks have in all groups.

    Raises:
        ValueError: more tokens than colours tell apart.
    """
    keys = list(dict.fromkeys(track.key for group in groups for track in group.tracks))
    if len(keys) > len(COLORS):
        raise ValueError(
            f"{len(keys)} tokens are more than the {len(COLORS)} that colours tell apart: "
            "name some in of=."
        )
    return dict(zip(keys, COLORS, strict=False))


def _hover(group: TrackGroup, track: Track, series: LayerSeries, metric: str) -> list[str]:
    """Return what each point of a line says."""
    name = f"<b>{escape_plotly(track.name)}</b>"
    token_label = after_token_label(group.single, group.token)
    prompt = f"prompt: {escape_plotly(prompt_end(group.single.prompts[0]))}"
    hover_texts = []
    for site_index, layer in zip(series.site_indices, series.layers, strict=True):
        value = _format_point(track.values[site_index], metric)
        lines = [
            name,
            f"layer {layer} ({escape_plotly(series.component)})",
            f"{METRICS[metric].title} {value}",
            token_label,
            prompt,
        ]
        hover_texts.append("<br>".join(lines))
    return hover_texts


def _format_point(value: float, metric: str) -> str:
    """Return a number of a line in words; a probability can be very small."""
    if metric != "prob":
        return format_value(value, metric)
    with np.errstate(divide="ignore"):  # the logarithm of 0
        return probability(np.log(value))


# -- legend and title --------------------------------------------------


def _add_group_titles(
    figure: go.Figure, groups: list[TrackGroup], n_prompts: int, n_positions: int
) -> None:
    """Write above the legend entries of each group what its lines have in common."""
    for number, group in enumerate(groups):
        title = {"text": f"<b>{_group_title(group, n_prompts, n_positions)}</b>"}
        figure.update_traces(legendgrouptitle=title, selector={"legendgroup": f"line {number}"})


def _group_title(group: TrackGroup, n_prompts: int, n_positions: int) -> str:
    """Return the prompt and the token of a group, each only where there are several."""
    parts = []
    tokens = group.single.tokens
    if n_prompts > 1:
        parts.append(escape_plotly(prompt_end(group.single.prompts[0], 34)))
    if n_positions > 1:
        text = plotly_safe(tokens.text[group.token], 20)
        parts.append(f"after token {tokens.position[group.token]} {text}")
    return ", ".join(parts)


def _subtitle(groups: list[TrackGroup], n_prompts: int, positions: list[int]) -> str:
    """Return a sentence that says after which tokens the lines are predicted."""
    if len(groups) == 1:
        return after_token_label(groups[0].single, groups[0].token)
    if len(positions) > 1:
        each = " of each prompt" if n_prompts > 1 else ""
        return f"predicted after {len(positions)} tokens{each}"
    which = "the last token" if positions == [-1] else f"token {positions[0]} of those"
    return f"predicted after {which} read of each prompt"
