"""`layer_profile()`: how sure the layers are, over all tokens at once, layer by layer."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, vocab_size
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.color import faint
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    COLORS,
    HOVER_TEMPLATE,
    figure_title,
    panels_layout,
)
from lens_recipes.views.figures.base.unreadable import add_bands
from lens_recipes.views.figures.layers.axes import LayerSeries, find_series
from lens_recipes.views.figures.layers.metrics import (
    DEFAULT_PROFILE_METRICS,
    axis_values,
    value_axis,
)
from lens_recipes.views.figures.layers.quartiles import Panel, counted_tokens, make_panel
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import format_value, prompt_end

OVER = ("token", "prompt")

PANEL_HEIGHT = 170  # pixels
PANEL_GAP = 34  # pixels
TITLE_GAP = 26  # pixels below the title, for what stands above the first panel


def layer_profile(
    result: LensArrays,
    *,
    metric: str | None = None,
    of: Any = None,
    over: str = "token",
    component: str | None = None,
    first_position: bool = False,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw a metric of all tokens at each layer: the median as a line, the quartiles as a band.

    Position 0 is left out where others were read: there many models keep a vector of huge size,
    which says nothing about the text. Tokens without a number (the end of a prompt has no next
    token) are left out, too, and each panel says how many tokens it is about. A single token has a
    line and no band. Hatched layers cannot be read with this lens after most of the tokens
    (`result.readable`).

    Args:
        result: Any lens result with layers; all its prompts.
        metric: None for "entropy", "kl" and "loss", one below the other, or one of them, or "prob",
            "logprob", "rank" or "logit_diff".
        of: The token that the metric is about, as for `metric_values`.
        over: "token": quartiles over all tokens that were read. "prompt": over the prompts, each
            the mean of its tokens (of ranks, the geometric mean of rank + 1), so that a long prompt
            does not count for more.
        component: Along which sites; None for "resid_post", or for the only component that was
            read.
        first_position: Count position 0 as well.
        title: Replaces the figure's own.
        show_all: Leave the hatching out.

    Raises:
        ValueError: a metric, token or component that the result does not have, heads, which follow
            no order, or a metric that no token has.

    Example:
        >>> layer_profile(result).show()
        >>> layer_profile(result, metric="rank", of="next", over="prompt").show()
    """
    series = find_series(result, component)
    metrics = _choose_metrics(metric, of, over)
    panels = []
    for metric_name in metrics:
        panel = make_panel(result, metric_name, of, over, series, first_position=first_position)
        panels.append(panel)
    drawn = [panel for panel in panels if not panel.is_empty]
    if not drawn:
        raise ValueError(
            f"no token that was read has a number for {' or '.join(metrics)}: "
            "read others (positions=)."
        )
    height = 2 * PANEL_HEIGHT
    if len(drawn) > 1:
        height = len(drawn) * (PANEL_HEIGHT + PANEL_GAP)
    spacing = PANEL_GAP / height
    figure = make_subplots(
        len(drawn), 1, figure=Figure(), shared_xaxes=True, vertical_spacing=spacing
    )
    for row, panel in enumerate(drawn, start=1):
        _add_panel(figure, row, panel, series, vocab_size(result))
    readable = result.readable[series.site_indices].mean(axis=1) >= 0.5
    warning = ""
    if not show_all and not readable.all():
        warning = f"hatched: {unreadable_sentence(result)}"
        for row in range(1, len(drawn) + 1):
            add_bands(figure, series.layers, readable, row)

    if title is None:
        title = "Layer profile"
        if metric is not None:
            title += f": {escape_plotly(drawn[0].value_label)}"
    else:
        title = escape_plotly(title)
    title_texts = figure_title(
        result,
        title,
        _legend_note(panels),
        _first_position_note(result, first_position),
        _missing_note(panels),
        prompt=prompt_end(result.prompts[0], 110) if len(result) == 1 else "",
        warning=warning,
    )
    figure.update_layout(
        panels_layout(title_texts, height, TITLE_GAP),
        showlegend=False,
        hovermode="x",
    )
    figure.update_xaxes(range=[series.layers[0] - 0.5, series.layers[-1] + 0.5], **series.axis())
    figure.update_xaxes(title_text=series.title, row=len(drawn), col=1)
    return figure


def _choose_metrics(metric: str | None, of: Any, over: str) -> list[str]:
    """Return the metrics that are drawn.

    Raises:
        ValueError: an unknown `over`, or a token without a metric that is about it.
    """
    if over not in OVER:
        raise ValueError(f"over={over!r} is unknown: accepted are {', '.join(map(repr, OVER))}.")
    if metric is not None:
        return [metric]
    if of is not None:
        raise ValueError(
            f'of={of!r} goes with one metric: pass metric="prob", "rank" or another as well.'
        )
    return list(DEFAULT_PROFILE_METRICS)


# -- panels ------------------------------------------------------------


def _add_panel(figure: go.Figure, row: int, panel: Panel, series: LayerSeries, vocab: int) -> None:
    """Draw one panel in a row of the figure, counted from 1."""
    color = COLORS[0]
    axis = value_axis(panel.metric, vocab)
    if panel.metric in DEFAULT_PROFILE_METRICS:
        color = COLORS[DEFAULT_PROFILE_METRICS.index(panel.metric)]
        axis["rangemode"] = "tozero"
    figure.add_traces(_panel_traces(panel, series.layers, color), rows=row, cols=1)
    title = METRICS[panel.metric].axis_title
    figure.update_yaxes(row=row, col=1, title_text=title, title_standoff=8, **axis)
    upper_right = {
        "x": 1,
        "xref": "x domain",
        "xanchor": "right",
        "y": 1,
        "yref": "y domain",
        "yanchor": "bottom",
    }
    figure.add_annotation(text=_count_note(panel), row=row, col=1, showarrow=False, **upper_right)


def _panel_traces(panel: Panel, layers: list[int], color: str) -> list[go.Scatter]:
    """Return the line of the medians above the band between the other quartiles."""
    lower, median, upper = axis_values(panel.metric, panel.quartiles).T
    line = go.Scatter(
        x=layers,
        y=median,
        mode="lines+markers",
        line={"color": color, "width": 2},
        marker={"size": 5},
        cliponaxis=False,
        customdata=_hover(panel, layers),
        hovertemplate=HOVER_TEMPLATE,
    )
    if not panel.has_quartiles:
        return [line]
    edge = {"x": layers, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    lower_edge = go.Scatter(y=lower, **edge)
    upper_edge = go.Scatter(y=upper, fill="tonexty", fillcolor=faint(color), **edge)
    return [lower_edge, upper_edge, line]


# -- words -------------------------------------------------------------


def _hover(panel: Panel, layers: list[int]) -> list[str]:
    """Return what the point of each layer says."""
    entry = METRICS[panel.metric]
    unit = f" {entry.unit}".rstrip()
    hover_texts = []
    for layer, quartiles, count in zip(layers, panel.quartiles, panel.counts, strict=True):
        lower, median, upper = (_format_quartile(value, panel.metric) for value in quartiles)
        place = f"<b>layer {layer}</b>, {entry.title}"
        item_count = _count_items(count, panel.over)
        if count < 2:
            hover_texts.append(f"{place} {median}{unit}<br>{item_count}")
        else:
            band = f"quartiles {lower} to {upper}{unit}"
            hover_texts.append(f"{place}<br>median {median}{unit}<br>{band}<br>{item_count}")
    return hover_texts


def _format_quartile(value: float, metric: str) -> str:
    """Return a quartile in words; that of ranks need not be a whole number."""
    if metric == "rank" and value < 1000:
        return f"{value:,.4g}"
    return format_value(value, metric)


def _count_note(panel: Panel) -> str:
    """Return how many tokens or prompts a panel is about, and why not about the others."""
    count = int(panel.counts.max())
    note = _count_items(count, panel.over)
    if panel.over == "prompt":
        note += f", each {_mean_in_words(panel.metric)} of its tokens"
    if count < panel.n_read:
        n_missing = panel.n_read - count
        note += f" ({n_missing} of {panel.n_read} left out: {panel.reason})"
    if count == 1:
        note += ", so no quartiles"
    if panel.ends_at_zero:
        note += "; 0 at the end by construction"
    return note


def _mean_in_words(metric: str) -> str:
    """Return which mean stands for the tokens of a prompt."""
    if METRICS[metric].logarithmic:
        return "the geometric mean of rank + 1"
    return "the mean"


def _count_items(count: int, over: str) -> str:
    """Return a number of tokens or prompts in words."""
    plural = "" if count == 1 else "s"
    return f"{count:,} {over}{plural}"


def _legend_note(panels: list[Panel]) -> str:
    """Return what line and band mean, where some panel has a band."""
    if any(panel.has_quartiles for panel in panels):
        return "line: median, band: quartiles"
    return ""


def _first_position_note(result: LensArrays, first_position: bool) -> str:
    """Return that position 0 is left out, where it was read."""
    for single in result:
        if not counted_tokens(single, first_position).all():
            return "without position 0"
    return ""


def _missing_note(panels: list[Panel]) -> str:
    """Return which metrics are not drawn, and why."""
    titles = [METRICS[panel.metric].title for panel in panels if panel.is_empty]
    if not titles:
        return ""
    return f"no {' and '.join(titles)}: only last tokens were read"
