"""When each token that a model wrote was decided: layers × written tokens, and the page with all figures of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from lens_recipes.arrays.generation import Step, settled_layers
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import UNORDERED, Important, main_component, site_label
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.grid import Columns, site_map
from lens_recipes.views.figures.base.style import BORDER, COLORS, LEGEND, outline
from lens_recipes.views.figures.generation.steps import how_written, written_steps
from lens_recipes.views.words import probability, prompt_end

LEGEND_LINE = 30  # pixels

MARK = COLORS[1]

INDEX = "index.html"


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
) -> go.Figure:
    """Layers × written tokens: what each layer would have written, and from where on the model's answer was decided.

    The outlined cell of a column is the first from which the model's answer is top-1 to the end (`settled_layers`); of
    layers that are not shown, the next one that is. A triangle marks a written token that is not the model's answer:
    sampling, or a penalty, chose it, and the outline is the answer's.

    Args:
        result: What `generate_lens` gives; one prompt of it is shown, without the tokens of the prompt itself.
        metric, of: As for `heatmap`; "next" is the written token.
        prompt: Which prompt.
        stride, sites: As for `heatmap`.
        component: Which rows; None for the `sites` that were named, else for "resid_post", or the only component.
        colors, title: As for `heatmap`.

    Raises:
        ValueError: no token was generated, or as for `heatmap`.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> generation_heatmap(result).show()
    """
    one, steps = written_steps(result, prompt)
    by_token = {step.token: step for step in steps}
    along = main_component(one.sites) if component is None else component
    settled = _settled(one, along)
    columns = Columns(
        list(by_token),
        [step.wrote for step in steps],
        list(range(1, len(steps) + 1)),
        "written token (a cell shows what that layer would have written there)",
        lambda s, t: _where(one, s, by_token[t], settled.get(t)),
    )
    figure, rows = site_map(
        one,
        columns,
        "The lens while the model writes",
        f"after “\u2068{escape_plotly(prompt_end(one.prompts[0], 50))}\u2069”",
        metric=metric,
        of=of,
        stride=stride,
        sites=sites,
        component=along if sites is None else component,
        colors=colors,
        title=title,
    )
    places = [(y, s) for y, s in enumerate(rows) if one.sites[s].component == along]
    starts = [(x, settled[step.token]) for x, step in enumerate(steps) if step.token in settled]
    above = [
        (x, [y for y, s in places if s >= start]) for x, start in starts
    ]  # the start itself may not be shown
    cells = [(x, ys[0], ys[0]) for x, ys in above if ys]
    if cells:
        figure.add_traces(outline(cells, "settled: from here up, the model's answer is top-1"))
    other = [(x, step) for x, step in enumerate(steps) if not step.first_choice]
    if other:
        figure.add_scatter(
            x=[x for x, _ in other],
            y=[len(rows) - 0.1] * len(other),
            mode="markers",
            marker={"symbol": "triangle-down", "size": 10, "color": MARK},
            customdata=["<br>".join(_written(step)) for _, step in other],
            hovertemplate="%{customdata}<extra></extra>",
            name="the written token is not the model's first choice",
            showlegend=True,
        )
    marks = LEGEND_LINE * (
        bool(cells) + bool(other)
    )  # one below the other: a narrow figure has no room beside
    figure.update_layout(
        legend=LEGEND | {"orientation": "v"},
        margin_t=100 + marks,
        height=figure.layout.height + marks,
    )
    figure.update_xaxes(
        range=[-0.5 - BORDER, len(steps) - 0.5 + BORDER]
    )  # a scatter would add a margin of its own
    figure.update_yaxes(range=[-0.5 - BORDER, len(rows) + (0.3 if other else 2 * BORDER - 0.5)])
    return figure


def _settled(one: LensArrays, along: str | None) -> dict[int, int]:
    """The site at which each written token settled, of those that did; none where the sites follow no order."""
    if (
        along is None
        or along in (*UNORDERED, "embed")
        or all(site.component != along for site in one.sites)
    ):
        return {}
    return {
        step.token: step.site for step in settled_layers(one, component=along) if step.site >= 0
    }


def _where(one: LensArrays, s: int, step: Step, settled: int | None) -> list[str]:
    """What the hover says of a cell before its numbers."""
    t = step.token
    lines = [
        f"<b>{site_label(one.sites[s])}</b>, position {one.tokens.position[t]}",
        f"input {plotly_safe(one.tokens.text[t], 40)}",
        *_written(step),
        f"the written token here: rank {one.next_ranks[s, t]:,}, p {probability(one.next_logprobs[s, t])}",
    ]
    if settled is not None:
        lines.append(
            f"{plotly_safe(step.answer, 40)} is top-1 from {site_label(one.sites[settled])} to the end"
        )
    return lines


def _written(step: Step) -> list[str]:
    return [f"written {plotly_safe(step.wrote, 40)}", *how_written(step)]
