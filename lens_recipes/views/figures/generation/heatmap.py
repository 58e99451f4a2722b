"""`generation_heatmap()`: the layer from which each token that a model wrote is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.generation import Step, known_from, settled_layers
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import (
    UNORDERED,
    Important,
    layer_series,
    main_component,
    site_label,
)
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.cells import hover_token
from lens_recipes.views.figures.base.grid import SiteMap, make_room
from lens_recipes.views.figures.base.outline import BORDER, CellRun, outline_traces
from lens_recipes.views.figures.base.style import COLORS, HOVER_TEMPLATE, LEGEND
from lens_recipes.views.figures.base.token_axis import Columns, mark_unfitted
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.figures.generation.written import describe_choice, written_steps
from lens_recipes.views.words import probability

LEGEND_LINE = 30  # pixels

MARK_COLOR = COLORS[1]


def generation_heatmap(
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
    show_all: bool = False,
) -> go.Figure:
    """Draw layers × written tokens, with the layer from which the model's answer is known.

    A cell shows what its layer would have written. The outlined cell of a column is the first from
    which the model's answer is top-1 to the end (`settled_layers`), as far as the lens can be read;
    if its layer is not shown, the next one that is. Grey cells cannot be read with this lens
    (`result.readable`). A triangle marks a written token that is not the model's answer: sampling,
    or a penalty, chose it, and the outline is about the answer.

    Args:
        result: What `generate_lens` gives; the figure shows one prompt of it, without the tokens of
            the prompt itself.
        metric, of: As for `heatmap`; "next" is the written token.
        prompt: Which prompt.
        stride, sites: As for `heatmap`.
        component: Which rows; None for the `sites` that were named, else for "resid_post", or the
            only component.
        colors, title, show_all: As for `heatmap`.

    Raises:
        ValueError: no token was generated, or as for `heatmap`.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> generation_heatmap(result).show()
    """
    single, steps = written_steps(result, prompt)
    settling = main_component(single.sites) if component is None else component
    settled = _settled_sites(single, settling)
    view = View(
        metric=metric,
        of=of,
        stride=stride,
        sites=sites,
        component=settling if sites is None else component,
        colors=colors,
        title=title,
        show_all=show_all,
    )
    lens = "lens" if single.lens.is_logit else single.lens.name
    site_map = SiteMap(single, view, _columns(single, steps, settled))
    figure = site_map.figure(f"The {lens} while the model writes")

    n_rows = len(site_map.rows)
    top_edge = n_rows + 2 * BORDER - 0.5
    legend_height = 0
    outlined = _settled_cells(site_map, steps, settled, settling)
    if outlined:
        name = "from here up, the model's answer is top-1"
        figure.add_traces(outline_traces(outlined, name))
        legend_height += LEGEND_LINE
    other_choices = [column for column, step in enumerate(steps) if not step.first_choice]
    if other_choices:
        figure.add_trace(_other_choice_marks(steps, other_choices, n_rows - 0.1))
        top_edge = n_rows + 0.3
        legend_height += LEGEND_LINE
    # The entries of the legend stand one below the other: a narrow figure has no room beside.
    make_room(figure, legend_height)
    figure.update_layout(legend=LEGEND | {"orientation": "v"})
    # The ranges are set because plotly would add a margin for lines and marks.
    figure.update_xaxes(range=site_map.columns.visible_range(BORDER))
    figure.update_yaxes(range=[-0.5 - BORDER, top_edge])
    return figure


def _settled_sites(single: LensArrays, component: str | None) -> dict[int, int]:
    """Return the site from which each written token's answer is known to be top-1 to the end.

    Args:
        single: A result of one prompt.
        component: Along which sites; where they have no order, the return value is empty.

    Returns:
        Indices of sites by the index of the token, without the tokens that never settle.
    """
    ordered = component is not None and component not in (*UNORDERED, "embed")
    was_read = any(site.component == component for site in single.sites)
    if not ordered or not was_read:
        return {}
    series = layer_series(single.sites, component)
    settled = {}
    for entry in settled_layers(single, component=component):
        if entry.site >= 0:
            start = known_from(single, series, entry.site, entry.token)
            if start is not None:
                settled[entry.token] = series[start]
    return settled


# -- hover -------------------------------------------------------------


def _columns(single: LensArrays, steps: list[Step], settled: dict[int, int]) -> Columns:
    """Return a column for each written token, numbered from 1."""
    step_by_token = {step.token: step for step in steps}
    fitted = single.fitted
    texts = [mark_unfitted(step.wrote, is_fitted=bool(fitted[step.token])) for step in steps]

    def describe(site_index: int, token: int) -> list[str]:
        """Return the first lines of a cell's hover."""
        return _describe_place(single, site_index, step_by_token[token], settled.get(token))

    return Columns(
        list(step_by_token),
        texts,
        list(range(1, len(steps) + 1)),
        "written token (a cell shows what that layer would have written there)",
        describe,
    )


def _describe_place(
    single: LensArrays, site_index: int, step: Step, settled_site: int | None
) -> list[str]:
    """Return the lines of a hover about a site and a written token.

    `settled_site` is the site from which the model's answer is top-1; None if it never settles.
    """
    token = step.token
    place = escape_plotly(site_label(single.sites[site_index]))
    rank = single.next_ranks[site_index, token]
    logprob = single.next_logprobs[site_index, token]
    lines = [
        f"<b>{place}</b>, position {single.tokens.position[token]}",
        f"input {hover_token(single.tokens.text[token])}",
        *_describe_written(step),
        f"the written token here: rank {rank:,}, p {probability(logprob)}",
    ]
    if settled_site is not None:
        label = escape_plotly(site_label(single.sites[settled_site]))
        lines.append(f"{hover_token(step.answer)} is top-1 from {label} to the end")
    return lines


def _describe_written(step: Step) -> list[str]:
    """Return the lines of a hover about a written token."""
    return [f"written {hover_token(step.wrote)}", *describe_choice(step)]


# -- marks -------------------------------------------------------------


def _settled_cells(
    site_map: SiteMap, steps: list[Step], settled: dict[int, int], component: str | None
) -> list[CellRun]:
    """Return the cell of each column from which the answer is settled, if a cell shows it."""
    cells = []
    for column, step in enumerate(steps):
        if step.token not in settled:
            continue
        for row, site_index in enumerate(site_map.rows):
            is_component = site_map.single.sites[site_index].component == component
            if is_component and site_index >= settled[step.token]:
                cells.append(CellRun(column, row, row))
                break
    return cells


def _other_choice_marks(steps: list[Step], columns: list[int], height: float) -> go.Scatter:
    """Return triangles above the columns of tokens that are not the model's first choice.

    `height` is in rows.
    """
    return go.Scatter(
        x=columns,
        y=[height] * len(columns),
        mode="markers",
        marker={"symbol": "triangle-down", "size": 10, "color": MARK_COLOR},
        customdata=["<br>".join(_describe_written(steps[column])) for column in columns],
        hovertemplate=HOVER_TEMPLATE,
        name="the written token is not the model's first choice",
        showlegend=True,
    )
