"""A result as a heatmap: numpy and strings in, `go.Figure` out; no model, nothing shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import metric_values, output_site, vocab_size
from lens_recipes.arrays.sites import (
    Important,
    are_vectors,
    components,
    selected_sites,
    site_label,
    thinned_sites,
)
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.axes import LABEL, token_ticks
from lens_recipes.views.figures.base.color import color_axis, colorscale, with_contrast_text
from lens_recipes.views.figures.base.style import FONT, heading
from lens_recipes.views.words import format_value, probability

MAX_WORDS = 60  # more columns than this, and the words in the cells are dropped

WORD = 74  # pixels: a column with words
MAX_WIDTH = 7500  # pixels: the figure

ROW = 24  # pixels

FULL_HOVER = (
    4000  # more cells than this, and the hover names the top token only: a page with 40,000 is slow
)

OUTPUT = "output"


class Columns(NamedTuple):
    """Which tokens a map shows, their texts, a small number below each (None for none), the axis's title, and what a
    cell (site, token) says first."""

    tokens: Sequence[int]
    texts: list[str]
    numbers: list[int] | None
    title: str
    place: Callable[[int, int], list[str]]

    def width(self) -> int:
        """Of all columns, in pixels."""
        return len(self.tokens) * (WORD if len(self.tokens) <= MAX_WORDS else LABEL)

    def axis(self, width: int) -> dict[str, Any]:
        """The axis below so many pixels."""
        return token_ticks([(text,) for text in self.texts], self.numbers, self.title, width)


def site_map(
    one: LensArrays,
    columns: Columns,
    name: str,
    *notes: str,
    metric: str,
    of: Any,
    stride: int | None,
    sites: Iterable[int | Important] | None,
    component: str | None,
    colors: str | None,
    title: str | None,
    output: bool = False,
) -> tuple[go.Figure, list[int]]:
    """Sites × tokens of one prompt, coloured by one metric, and which sites the rows are.

    Args:
        one: A result of one prompt.
        columns: Of the map.
        name: What the title begins with.
        notes: For the title's second line.
        metric, of, stride, sites, component, colors, title: As for `heatmap`, and so are the errors.
        output: Whether the model's own output is a row above the sites.
    """
    z, what = metric_values(one, metric, of)
    shown = selected_sites(one.sites, sites, component)
    rows = thinned_sites(one.sites, shown, stride, named=sites is not None)
    tokens = list(columns.tokens)
    full = len(rows) * len(tokens) <= FULL_HOVER
    hover = [
        [
            "<br>".join(
                [*columns.place(s, t), *_hover(one, s, t, what, float(z[s, t]), metric, full)]
            )
            for t in tokens
        ]
        for s in rows
    ]
    axis = color_axis(metric, z[np.ix_(shown, tokens)], vocab_size(one))
    cells = axis.z[[shown.index(s) for s in rows]]
    names = [str(one.sites[s]) for s in rows]
    if output:
        top = _output(one, metric, of, z)[tokens]
        cells = np.vstack([cells, color_axis(metric, top, vocab_size(one)).z])
        hover.append(
            [
                "<br>".join(_answer(one, t, what, float(p), metric))
                for t, p in zip(tokens, top, strict=True)
            ]
        )
        names.append(OUTPUT)
    colored = {
        "type": "heatmap",
        "z": cells,
        "x": list(range(len(tokens))),
        "y": list(range(len(names))),
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": True,
        "colorscale": colorscale(metric, colors),
        "colorbar": {"title": {"text": escape_plotly(what), "side": "right"}, **axis.bar},
        "xgap": 1,
        "ygap": 1,
        **axis.limits,
    }
    traces: Iterable[dict[str, Any]] = [colored]
    if len(tokens) <= MAX_WORDS:
        said = [one.top_ids[s, tokens, 0] for s in rows] + [one.final_ids[tokens]] * output
        traces = with_contrast_text(
            colored | {"text": [[plotly_safe(one.text(i), 10) for i in ids] for ids in said]}
        )
    figure = go.Figure(list(traces))
    vectors = are_vectors(one.sites)
    several = components(one.sites) != ["resid_post"]
    left_out = len(rows) < len(one.sites) and (several or sites is not None)
    left = max(60, 40 + 7 * max(map(len, names)))
    width = min(max(640 - 60, 130 + columns.width()) + left, MAX_WIDTH)
    figure.update_layout(
        template="plotly_white",
        title=heading(
            one,
            title if title is not None else f"{name}: {escape_plotly(what)}",
            *notes,
            f"{len(rows)} of {len(one.sites)} sites" if left_out else "",
        ),
        width=width,
        height=170
        + ROW
        * (max(len(names), 6) if left_out or vectors else len(names)),  # room for the colour bar
        margin={"l": left, "r": 20, "t": 90, "b": 70},
        font=FONT,
    )
    figure.update_xaxes(**columns.axis(width - left - 130), showgrid=False, zeroline=False)
    figure.update_yaxes(
        title_text="site" if several else "layer",
        tickvals=list(range(len(names))),
        ticktext=names,
        showgrid=False,
        zeroline=False,
    )
    return figure, rows


def _output(one: LensArrays, metric: str, of: Any, z: np.ndarray) -> np.ndarray:
    """What the model's own output has, `[token]`; NaN where that is not known.

    Its answer's probability was measured. Anything else is what the last layer has, where that is the output.
    """
    if metric in ("prob", "logprob") and of in (None, "final"):
        return np.exp(one.model_logprobs) if metric == "prob" else one.model_logprobs
    site = output_site(one)
    return np.full(len(one.tokens), np.nan) if site < 0 else z[site]


def _runs(hits: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(column, first row, last row) of the cells of `hits` `[row, column]`, those above each other as one."""
    for column, cells in enumerate(hits.T):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        yield from ((column, int(first), int(after) - 1) for first, after in edges.reshape(-1, 2))


# -- what a cell says --------------------------------------------------


def _hover(
    one: LensArrays, s: int, t: int, what: str, value: float, metric: str, full: bool
) -> list[str]:
    """What is known about one cell beside its place, as inert HTML lines; its first one or two if not in full."""
    lines = [f"{escape_plotly(what)}: {format_value(value, metric)}", ""]
    for k in range(one.top_ids.shape[-1] if full else 1):
        word, p = (
            plotly_safe(one.text(one.top_ids[s, t, k]), 40),
            probability(one.top_logprobs[s, t, k]),
        )
        lines.append(f"{k + 1}. {word}  {p}")
    if not full:
        return [lines[0], lines[2]]
    kl = "" if are_vectors(one.sites) else f", KL to final {one.kl_to_final[s, t]:.3f} nats"
    return [*lines, "", f"entropy {one.entropy[s, t]:.3f} nats{kl}"]


def _answer(one: LensArrays, t: int, what: str, value: float, metric: str) -> list[str]:
    lines = [
        f"<b>the model's output</b>, position {one.tokens.position[t]}",
        f"answer {plotly_safe(one.text(one.final_ids[t]), 40)}  {probability(one.model_logprobs[t])}",
    ]
    known = (
        "not known: the last layer was not read"
        if math.isnan(value)
        else format_value(value, metric)
    )
    return [*lines, f"{escape_plotly(what)}: {known}"]


def _where(one: LensArrays, s: int, t: int) -> list[str]:
    if are_vectors(one.sites):
        return [f"<b>vector {plotly_safe(one.tokens.text[t], 40)}</b>"]
    following = int(one.tokens.next_id[t])
    return [
        f"<b>{site_label(one.sites[s])}</b>, position {one.tokens.position[t]}",
        f"input {plotly_safe(one.tokens.text[t], 40)}",
        f"next token {plotly_safe(one.text(following), 40) if following >= 0 else '(the prompt ends here)'}",
    ]
