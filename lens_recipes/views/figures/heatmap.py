"""`heatmap()`: the predictions of each site after each token."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import Important, are_vectors, site_label
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.cells import hover_token
from lens_recipes.views.figures.base.grid import SiteMap, make_room
from lens_recipes.views.figures.base.outline import BORDER, find_runs, outline_traces
from lens_recipes.views.figures.base.style import LEGEND, check_result_kind
from lens_recipes.views.figures.base.token_axis import Columns, token_names
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.figures.prompts.map import default_component, prompt_map
from lens_recipes.views.words import lens_title

LEGEND_LINE = 22  # pixels

DEFAULT_METRICS = {"tokens": "prob", "prompts": "rank"}


def heatmap(
    result: LensArrays,
    *,
    kind: str = "tokens",
    metric: str | None = None,
    of: Any = None,
    prompt: int = 0,
    position: int = -1,
    stride: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    colors: str | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw layers × tokens, coloured by one metric, with each layer's top-1 token in its cell.

    The row on top is the model's own output. An outline surrounds the cells whose top-1 is already
    the model's answer. Grey cells cannot be read with this lens (`result.readable`). A † stands
    before a token at whose position the lens was never fitted (`result.fitted`). Beyond 60 tokens
    the words leave the cells. Beyond 120 the figure shows the last 60, above an overview of all in
    which a reader moves the window.

    With `kind="prompts"` it draws prompts × layers instead, after one token of each prompt: where
    many prompts come to their targets, or to the model's answers. The answers stand on the right.

    Args:
        result: Any lens result; the figure shows one of its prompts, or all.
        kind: "tokens" for the tokens of one prompt, "prompts" for all prompts.
        metric, of: What is coloured, and of which token, as for `metric_values`: "prob", "logprob",
            "rank", "entropy", "kl", "loss", "logit" or "logit_diff"; and None, "next", "final",
            "target", a target or a tracked token, or a pair of targets. A `metric` of None is
            "prob". For prompts it is "rank", and an `of` of None is "target" there, or "final"
            where the result has no targets.
        prompt: Which prompt, for tokens.
        position: Which of each prompt's selected tokens, for prompts; −1 is the last.
        stride: Show every n-th layer, counted from the last, which is always shown. None: about 40
            rows, or all of the `sites` that were named.
        sites: Which rows. None for all, or indices into `result.sites`, or the return value of
            `result.important()`.
        component: None for all, or only the rows of this one, such as "attn_out".
        colors: Another of plotly's colour scales, by name: a sequential one, or a diverging one for
            "logit_diff".
        title: Replaces the figure's own.
        show_all: Give what cannot be read its colour, too.

    Raises:
        ValueError: an unknown metric, a metric that does not go with `of` or `colors`, or a target,
            site or component that the result does not hold.

    Example:
        >>> heatmap(result, metric="rank", of=" Paris").show()
        >>> heatmap(result, sites=result.important("kl_drop", 1.0)).show()
        >>> heatmap(result, kind="prompts").show()
    """
    check_result_kind(LensArrays, result)
    if kind not in DEFAULT_METRICS:
        raise ValueError(f'kind={kind!r} is unknown: accepted are "tokens" and "prompts".')
    if kind == "prompts":
        component = default_component(result, sites, component)
    view = View(
        metric=metric or DEFAULT_METRICS[kind],
        of=of,
        stride=stride,
        sites=sites,
        component=component,
        colors=colors,
        title=title,
        show_all=show_all,
    )
    if kind == "prompts":
        return prompt_map(result, view, position)
    single = result[prompt]
    if are_vectors(single.sites):
        return SiteMap(single, view, _vector_columns(single)).figure(lens_title(single))
    site_map = SiteMap(single, view, _token_columns(single), with_output=True)
    figure = site_map.figure(lens_title(single))
    _outline_answers(figure, site_map)
    return figure


def _token_columns(single: LensArrays) -> Columns:
    """Return a column for each token of a prompt."""
    return Columns(
        range(len(single.tokens)),
        token_names(single),
        single.tokens.position.tolist(),
        "input token (a cell shows what is predicted to come after it)",
        partial(_describe_place, single),
    )


def _describe_place(single: LensArrays, site_index: int, token: int) -> list[str]:
    """Return the first lines of a cell's hover: site, position, input and next token."""
    place = escape_plotly(site_label(single.sites[site_index]))
    next_id = int(single.tokens.next_id[token])
    next_token = "(the prompt ends here)"
    if next_id >= 0:
        next_token = hover_token(single.text(next_id))
    return [
        f"<b>{place}</b>, position {single.tokens.position[token]}",
        f"input {hover_token(single.tokens.text[token])}",
        f"next token {next_token}",
    ]


def _vector_columns(single: LensArrays) -> Columns:
    """Return a column for each vector, which has a name but no position."""

    def describe(site_index: int, token: int) -> list[str]:
        """Return the first line of a cell's hover: the name of the vector."""
        return [f"<b>vector {hover_token(single.tokens.text[token])}</b>"]

    return Columns(range(len(single.tokens)), single.tokens.text, None, "vector", describe)


def _outline_answers(figure: go.Figure, site_map: SiteMap) -> None:
    """Outline the cells whose top-1 is the model's own answer, and make room for the legend."""
    is_answer = site_map.single.final_ranks[site_map.rows] == 0
    answers = is_answer & site_map.readable[: len(site_map.rows)]
    n_rows = len(answers)
    outlines = outline_traces(find_runs(answers), "top-1 is what the model answers", width=1)
    figure.add_traces(outlines)
    make_room(figure, LEGEND_LINE)
    figure.update_layout(legend=LEGEND)
    # The ranges are set because plotly would add a margin for the lines.
    figure.update_xaxes(range=site_map.columns.visible_range(BORDER))
    figure.update_yaxes(range=[-0.5 - 2 * BORDER, n_rows + 0.5])
