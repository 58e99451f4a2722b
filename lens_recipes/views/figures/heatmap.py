"""`heatmap()`: what each site predicts after each token."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import Important, are_vectors
from lens_recipes.views.figures.base.grid import Columns, _runs, _where, site_map
from lens_recipes.views.figures.base.style import BORDER, LEGEND, expect, outline


def heatmap(
    result: LensArrays,
    *,
    metric: str = "prob",
    of: Any = None,
    prompt: int = 0,
    stride: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    colors: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layers × tokens, coloured by one metric, with each layer's top-1 token written in its cell.

    The row on top is the model's own output. Outlined are the cells whose top-1 is already what the model answers.
    Beyond 60 tokens the words leave the cells; the figure is as wide as its tokens need, up to 7500 pixels.

    Args:
        result: Any lens result; one prompt of it is shown.
        metric, of: What is coloured, and whose it is, as for `metric_values`: "prob", "logprob", "rank",
            "entropy", "kl", "loss", "logit" or "logit_diff"; and None, "next", "final", a target or a tracked token, or
            a pair of targets.
        prompt: Which prompt.
        stride: Show every n-th layer, counted from the last, which is always there. None: about 40 rows, or all of
            the `sites` that were named.
        sites: Which rows. None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the rows of this one, "attn_out" for one.
        colors: Another of plotly's colour scales, by name: a sequential one, for "logit_diff" a diverging one.
        title: Replaces the figure's own.

    Raises:
        ValueError: an unknown metric, a metric that does not go with `of` or `colors`, or a target, site or component
            that the result does not hold.

    Example:
        >>> heatmap(result, metric="rank", of=" Paris").show()
        >>> heatmap(result, sites=result.important("kl_drop", 1.0)).show()
    """
    expect(LensArrays, result)
    one = result[prompt]
    vectors = are_vectors(one.sites)  # have a name, but no position
    columns = Columns(
        range(len(one.tokens)),
        one.tokens.text,
        None if vectors else one.tokens.position.tolist(),
        "vector" if vectors else "input token (a cell shows what is predicted to come after it)",
        partial(_where, one),
    )
    figure, rows = site_map(
        one, columns, "Logit lens", metric=metric, of=of, stride=stride, sites=sites, component=component,
        colors=colors, title=title, output=not vectors,
    )  # fmt: skip
    if vectors:
        return figure
    runs = list(_runs(one.final_ranks[rows] == 0))
    height = figure.layout.height
    figure.add_traces(outline(runs, "top-1 is what the model answers", width=1))
    figure.update_layout(legend=LEGEND, margin_t=110, height=height + 20)
    figure.update_xaxes(
        range=[-0.5 - BORDER, len(one.tokens) - 0.5 + BORDER]
    )  # lines would add a margin of their own
    figure.update_yaxes(range=[-0.5 - 2 * BORDER, len(rows) + 0.5])
    return figure
