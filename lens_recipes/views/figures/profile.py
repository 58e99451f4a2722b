"""How sure the layers are, over all tokens at once: entropy, KL to final and loss, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, find_metric, metric_values, vocab_size
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.axes import (
    layer_axis,
    layer_numbers,
    layer_sites,
    value_axis,
    value_title,
)
from lens_recipes.views.figures.base.style import COLORS, FONT, heading
from lens_recipes.views.words import format_value

Array = NDArray[np.floating[Any]]

TOGETHER = ("entropy", "kl", "loss")

DRAWN = (
    *TOGETHER,
    "prob",
    "logprob",
    "rank",
    "logit_diff",
)  # logits of different layers cannot be compared

OVER = ("token", "prompt")

QUARTILES = (0.25, 0.5, 0.75)

PANEL, BETWEEN = 170, 34  # pixels


class _Panel(NamedTuple):
    """What one panel shows: the quartiles `[layer, 3]` of a metric, of how many items `[layer]`, of how many read."""

    metric: str
    what: str
    quartiles: Array
    n: NDArray[np.int64]
    read: int


def layer_profile(
    result: LensArrays,
    *,
    metric: str | None = None,
    of: Any = None,
    over: str = "token",
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """What the tokens have in common at each layer: the median of a metric as a line, its quartiles as a band.

    Tokens without a number (the end of a prompt has no next token) are left out, and each panel says how many it is
    about; of a single one there is a line and no band.

    Args:
        result: Any lens result with layers; all its prompts.
        metric: None for "entropy", "kl" and "loss", one below the other, or one of them, or "prob", "logprob", "rank"
            or "logit_diff".
        of: Whose, as for `metric_values`.
        over: "token": quartiles over all tokens that were read. "prompt": over the prompts, each the mean of its
            tokens, so that a long one does not count for more.
        component: Along which sites; None for "resid_post", or for the only component that was read.
        title: Replaces the figure's own.

    Raises:
        ValueError: a metric, token or component that the result does not have, heads, which follow no order, or a
            metric that no token has.

    Example:
        >>> layer_profile(result).show()
        >>> layer_profile(result, metric="rank", of="next", over="prompt").show()
    """
    along = layer_sites(result, component)
    if over not in OVER:
        raise ValueError(f"over={over!r} is unknown: accepted are {', '.join(map(repr, OVER))}.")
    if metric is None and of is not None:
        raise ValueError(
            f'of={of!r} goes with one metric: pass metric="prob", "rank" or another as well.'
        )
    names = TOGETHER if metric is None else [metric]
    panels = [_panel(result, name, of, over, along) for name in names]
    drawn = [panel for panel in panels if panel.n.any()]
    if not drawn:
        raise ValueError(
            f"no token that was read has a number for {' or '.join(names)}: read others (positions=)."
        )
    height = len(drawn) * (PANEL + BETWEEN) if len(drawn) > 1 else 2 * PANEL
    figure = make_subplots(len(drawn), 1, shared_xaxes=True, vertical_spacing=BETWEEN / height)
    layers = layer_numbers(result, along)
    for row, panel in enumerate(drawn, 1):
        color = COLORS[TOGETHER.index(panel.metric) if panel.metric in TOGETHER else 0]
        figure.add_traces(_traces(panel, layers, over, color), rows=row, cols=1)
        axis = value_axis(panel.metric, vocab_size(result))
        # Of these, zero is the least there can be, and without it a small change looks like a large one.
        axis |= {"rangemode": "tozero"} if panel.metric in TOGETHER else {}
        figure.update_yaxes(
            row=row, col=1, title_text=value_title(panel.metric), title_standoff=8, **axis
        )
        corner = {
            "x": 1,
            "xref": "x domain",
            "xanchor": "right",
            "y": 1,
            "yref": "y domain",
            "yanchor": "bottom",
        }
        figure.add_annotation(
            text=_about(panel, of, over), row=row, col=1, showarrow=False, **corner
        )
    text = "Layer profile" if metric is None else f"Layer profile: {escape_plotly(drawn[0].what)}"
    alone = all(panel.n.max() == 1 for panel in drawn)
    without = [METRICS[panel.metric].title for panel in panels if not panel.n.any()]
    figure.update_layout(
        template="plotly_white",
        title=heading(
            result,
            title if title is not None else text,
            "" if alone else "line: median, band: quartiles",
            f"{' and '.join(without)} left out: no token read has one" if without else "",
        ),
        width=980,
        height=height + 150,
        margin={"l": 80, "r": 30, "t": 90, "b": 60},
        font=FONT,
        showlegend=False,
        hovermode="x",
        hoverlabel={"align": "left"},
    )
    title_text = (axis := layer_axis(result, along)).pop("title_text")
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], **axis)
    figure.update_xaxes(title_text=title_text, row=len(drawn), col=1)
    return figure


def _panel(result: LensArrays, metric: str, of: Any, over: str, along: list[int]) -> _Panel:
    find_metric(metric, DRAWN)
    found = [metric_values(one, metric, of) for one in result]
    each: list[Array] = [numbers[along].astype(np.float64) for numbers, _ in found]
    if over == "prompt":
        each = [_by_row(numbers, np.mean)[:, None] for numbers in each]
    numbers = np.concatenate(each, axis=1)
    names = {what for _, what in found}  # of logit_diff each prompt may have a pair of its own
    return _Panel(
        metric,
        names.pop() if len(names) == 1 else METRICS[metric].label,
        _by_row(numbers, lambda row: np.quantile(row, QUARTILES), 3),
        (~np.isnan(numbers)).sum(1),
        numbers.shape[1],
    )


def _by_row(numbers: Array, reduce: Callable[[Array], Any], *shape: int) -> Array:
    """What becomes of each row without its NaNs, `[row, *shape]`; NaN where nothing is left."""
    out = np.full((len(numbers), *shape), np.nan)
    with np.errstate(invalid="ignore"):  # between infinities there is no mean
        for row, there in enumerate(~np.isnan(numbers)):
            if there.any():
                out[row] = reduce(numbers[row, there])
    return out


def _traces(panel: _Panel, layers: list[int], over: str, color: str) -> list[go.Scatter]:
    drawn = np.log10(panel.quartiles + 1) if panel.metric == "rank" else panel.quartiles
    low, middle, high = drawn.T
    hover = [
        _hover(layer, q, n, panel.metric, over)
        for layer, q, n in zip(layers, panel.quartiles, panel.n, strict=True)
    ]
    line = go.Scatter(
        x=layers,
        y=middle,
        mode="lines+markers",
        line={"color": color, "width": 2},
        marker={"size": 5},
        cliponaxis=False,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )
    if panel.n.max() == 1:
        return [line]
    edge = {"x": layers, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    band = go.Scatter(y=high, fill="tonexty", fillcolor=_faint(color), **edge)
    return [go.Scatter(y=low, **edge), band, line]


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def _hover(layer: int, quartiles: Array, n: int, metric: str, over: str) -> str:
    low, middle, high = (
        f"{q:,.4g}" if metric == "rank" and q < 1000 else format_value(q, metric) for q in quartiles
    )
    unit = f" {METRICS[metric].unit}".rstrip()
    where = f"<b>layer {layer}</b>, {METRICS[metric].title}"
    if n < 2:
        return f"{where} {middle}{unit}<br>{_count(n, over)}"
    return (
        f"{where}<br>median {middle}{unit}<br>quartiles {low} to {high}{unit}<br>{_count(n, over)}"
    )


def _about(panel: _Panel, of: Any, over: str) -> str:
    """Of how many tokens or prompts a panel tells, and why not of the others."""
    n = int(panel.n.max())
    why = "no next token" if "next" in (METRICS[panel.metric].about, of) else "no number"
    others = f" ({panel.read - n} of {panel.read} left out: {why})" if n < panel.read else ""
    mean = ", each the mean of its tokens" if over == "prompt" else ""
    return f"{_count(n, over)}{mean}{others}" + (", so no quartiles" if n == 1 else "")


def _count(n: int, over: str) -> str:
    return f"{n:,} {over}{'' if n == 1 else 's'}"
