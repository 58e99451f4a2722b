"""A result as a heatmap: numpy and strings in, `go.Figure` out; no model, nothing shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ._table import probability
from .components import Important, are_vectors, chosen, components, place, thinned
from .display import inert, plotly_safe
from .inks import in_two_inks
from .looks import FONT, LEGEND, RIM, expect, heading, outline
from .metrics import color_axis, colorscale, number, output_site, values, vocab_size
from .result import LensResult

MAX_WORDS = 60  # more columns than this, and the words in the cells are dropped
UPRIGHT = 24  # up to so many columns, their labels stand upright
WORD, LABEL, MAX_WIDTH = 74, 15, 7500  # pixels: a column with words, one that only has a label, the figure
ROW = 24  # pixels
FULL_HOVER = 4000  # more cells than this, and the hover names the top token only: a page with 40,000 is slow
OUTPUT = "output"


def heatmap(
    result: LensResult,
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
        metric, of: What is coloured, and whose it is, as for `lens_recipes.metrics.values`: "prob", "logprob", "rank",
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
    expect(LensResult, result)
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
    figure.update_xaxes(range=[-0.5 - RIM, len(one.tokens) - 0.5 + RIM])  # lines would add a margin of their own
    figure.update_yaxes(range=[-0.5 - 2 * RIM, len(rows) + 0.5])
    return figure


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
        return token_axis([(text,) for text in self.texts], self.numbers, self.title, width)


def token_axis(texts: list[tuple[str, ...]], numbers: list[int] | None, title: str, width: int) -> dict[str, Any]:
    """An axis whose labels can be read where the columns have so many pixels: every n-th, if they must. A column may
    have several texts."""
    upright = len(texts) <= UPRIGHT
    labels = [("<br>" if upright else " | ").join(map(plotly_safe, column)) for column in texts]
    if upright and numbers is not None:
        labels = [f"{label}<br><sub>{n}</sub>" for label, n in zip(labels, numbers, strict=True)]
    step = max(1, math.ceil(LABEL * len(labels) / width))
    return {
        "title_text": title,
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": labels[::step],
        "tickangle": 0 if upright else 90,
    }


def site_map(
    one: LensResult,
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
    z, what = values(one, metric, of)
    shown = chosen(one.sites, sites, component)
    rows = thinned(one.sites, shown, stride, named=sites is not None)
    tokens = list(columns.tokens)
    full = len(rows) * len(tokens) <= FULL_HOVER
    hover = [
        ["<br>".join([*columns.place(s, t), *_hover(one, s, t, what, float(z[s, t]), metric, full)]) for t in tokens]
        for s in rows
    ]
    axis = color_axis(metric, z[np.ix_(shown, tokens)], vocab_size(one))
    cells = axis.z[[shown.index(s) for s in rows]]
    names = [str(one.sites[s]) for s in rows]
    if output:
        top = _output(one, metric, of, z)[tokens]
        cells = np.vstack([cells, color_axis(metric, top, vocab_size(one)).z])
        hover.append(["<br>".join(_answer(one, t, what, float(p), metric)) for t, p in zip(tokens, top, strict=True)])
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
        "colorbar": {"title": {"text": inert(what), "side": "right"}, **axis.bar},
        "xgap": 1,
        "ygap": 1,
        **axis.limits,
    }
    traces: Iterable[dict[str, Any]] = [colored]
    if len(tokens) <= MAX_WORDS:
        said = [one.top_ids[s, tokens, 0] for s in rows] + [one.final_ids[tokens]] * output
        traces = in_two_inks(colored | {"text": [[plotly_safe(one.text(i), 10) for i in ids] for ids in said]})
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
            title if title is not None else f"{name}: {inert(what)}",
            *notes,
            f"{len(rows)} of {len(one.sites)} sites" if left_out else "",
        ),
        width=width,
        height=170 + ROW * (max(len(names), 6) if left_out or vectors else len(names)),  # room for the colour bar
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


def _output(one: LensResult, metric: str, of: Any, z: np.ndarray) -> np.ndarray:
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


def _hover(one: LensResult, s: int, t: int, what: str, value: float, metric: str, full: bool) -> list[str]:
    """What is known about one cell beside its place, as inert HTML lines; its first one or two if not in full."""
    lines = [f"{inert(what)}: {number(value, metric)}", ""]
    for k in range(one.top_ids.shape[-1] if full else 1):
        word, p = plotly_safe(one.text(one.top_ids[s, t, k]), 40), probability(one.top_logprobs[s, t, k])
        lines.append(f"{k + 1}. {word}  {p}")
    if not full:
        return [lines[0], lines[2]]
    kl = "" if are_vectors(one.sites) else f", KL to final {one.kl_to_final[s, t]:.3f} nats"
    return [*lines, "", f"entropy {one.entropy[s, t]:.3f} nats{kl}"]


def _answer(one: LensResult, t: int, what: str, value: float, metric: str) -> list[str]:
    lines = [
        f"<b>the model's output</b>, position {one.tokens.position[t]}",
        f"answer {plotly_safe(one.text(one.final_ids[t]), 40)}  {probability(one.model_logprobs[t])}",
    ]
    known = "not known: the last layer was not read" if math.isnan(value) else number(value, metric)
    return [*lines, f"{inert(what)}: {known}"]


def _where(one: LensResult, s: int, t: int) -> list[str]:
    if are_vectors(one.sites):
        return [f"<b>vector {plotly_safe(one.tokens.text[t], 40)}</b>"]
    following = int(one.tokens.next_id[t])
    return [
        f"<b>{place(one.sites[s])}</b>, position {one.tokens.position[t]}",
        f"input {plotly_safe(one.tokens.text[t], 40)}",
        f"next token {plotly_safe(one.text(following), 40) if following >= 0 else '(the prompt ends here)'}",
    ]
