"""A result as a plotly figure: numpy and strings in, `go.Figure` out; no model, nothing shown."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ._table import probability
from .components import Important, are_vectors, chosen, components, place
from .display import inert, plotly_safe
from .files import written
from .result import LensResult, Site

MAX_ROWS = 40  # more layers than this are shown with a stride, unless asked otherwise
MAX_TEXT_COLUMNS = 60  # more tokens than this, and the words in the cells are dropped
UPRIGHT = 24  # up to so many tokens, the labels of the columns stand upright
FONT = {"family": "Inter, Helvetica, Arial, sans-serif", "size": 12}


class Scale(NamedTuple):
    """How one metric is coloured, the same everywhere. All scales are colour-blind safe (viridis, cividis)."""

    title: str
    colors: str
    needs_of: bool


SCALES = {
    "prob": Scale("probability", "Viridis", False),
    "rank": Scale("rank", "Viridis", True),
    "entropy": Scale("entropy (nats)", "Cividis", False),
    "kl": Scale("KL to final (nats)", "Cividis_r", False),
    "logit": Scale("logit", "Viridis", True),
}


def heatmap(
    result: LensResult,
    *,
    metric: str = "prob",
    of: str | int | None = None,
    prompt: int = 0,
    stride: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layers × tokens, coloured by one metric, with each layer's top-1 token written in its cell.

    Args:
        result: Any lens result; one prompt of it is shown.
        metric: "prob", "rank", "entropy", "kl" or "logit".
        of: Whose probability, rank or logit. None: the cell's own top-1 ("prob" only). "next": the token that follows
            in the prompt. "final": the model's own answer there. Or one of the result's targets, as text or id.
        prompt: Which prompt.
        stride: Show every n-th layer, counted from the last, which is always there. None: about 40 rows, or all of
            the `sites` that were named.
        sites: Which rows. None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the rows of this one, "attn_out" for one.
        title: Replaces the figure's own.

    Raises:
        ValueError: an unknown metric, a metric that does not go with `of`, or a target, site or component that the
            result does not hold.

    Example:
        >>> heatmap(result, metric="rank", of=" Paris").show()
        >>> heatmap(result, sites=result.important("kl_drop", 1.0)).show()
    """
    one = result[prompt]
    vectors = are_vectors(one.sites)  # have a name, but no position
    labels = [plotly_safe(text) for text in one.tokens.text]
    if len(labels) <= UPRIGHT and not vectors:
        labels = numbered(labels, one.tokens.position)
    columns = Columns(
        range(len(labels)),
        labels,
        "vector" if vectors else "input token (a cell shows what is predicted to come after it)",
        partial(_where, one),
    )
    figure, _ = site_map(
        one, columns, "Logit lens", metric=metric, of=of, stride=stride, sites=sites, component=component, title=title
    )
    return figure


class Columns(NamedTuple):
    """Which tokens a map shows, how they are labelled, the axis's title, and what a cell (site, token) says first."""

    tokens: Sequence[int]
    labels: list[str]
    title: str
    place: Callable[[int, int], list[str]]


def numbered(labels: list[str], numbers: Iterable[int]) -> list[str]:
    """Labels of upright columns, with a small number below each."""
    return [f"{label}<br><sub>{number}</sub>" for label, number in zip(labels, numbers, strict=True)]


def site_map(
    one: LensResult,
    columns: Columns,
    name: str,
    *notes: str,
    metric: str,
    of: str | int | None,
    stride: int | None,
    sites: Iterable[int | Important] | None,
    component: str | None,
    title: str | None,
    max_width: int = 2400,
) -> tuple[go.Figure, list[int]]:
    """Sites × tokens of one prompt, coloured by one metric, and which sites the rows are.

    Args:
        one: A result of one prompt.
        columns: Of the map.
        name: What the title begins with.
        notes: For the title's second line.
        max_width: Of the figure, in pixels.
        metric, of, stride, sites, component, title: As for `heatmap`, and so are the errors.
    """
    z, what = values(one, metric, of)
    scale = SCALES[metric]
    chosen_sites = chosen(one.sites, sites, component)
    rows = _rows(one.sites, chosen_sites, 1 if stride is None and sites is not None else stride)
    tokens = list(columns.tokens)
    n_tokens = len(tokens)
    words = [[plotly_safe(one.text(i), 10) for i in one.top_ids[s, tokens, 0]] for s in rows]
    color, limits, bar = _color_axis(metric, z[np.ix_(chosen_sites, tokens)], one)
    figure = go.Figure(
        go.Heatmap(
            z=color[[chosen_sites.index(s) for s in rows]],
            x=list(range(n_tokens)),
            y=list(range(len(rows))),
            text=words if n_tokens <= MAX_TEXT_COLUMNS else None,
            texttemplate="%{text}" if n_tokens <= MAX_TEXT_COLUMNS else None,
            customdata=[
                ["<br>".join([*columns.place(s, t), *_hover(one, s, t, what, z)]) for t in tokens] for s in rows
            ],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=scale.colors,
            colorbar={"title": {"text": inert(what), "side": "right"}, **bar},
            xgap=1,
            ygap=1,
            **limits,
        )
    )
    vectors = are_vectors(one.sites)
    several = components(one.sites) != ["resid_post"]
    left_out = len(rows) < len(one.sites) and (several or sites is not None)
    names = [str(one.sites[s]) for s in rows]
    left = max(60, 40 + 7 * max(map(len, names)))
    figure.update_layout(
        template="plotly_white",
        title=heading(
            one,
            title if title is not None else f"{name}: {inert(what)}",
            *notes,
            f"{len(rows)} of {len(one.sites)} sites" if left_out else "",
        ),
        width=min(max(640, 190 + 74 * n_tokens) + left - 60, max_width),
        height=170 + 24 * (max(len(rows), 6) if left_out or vectors else len(rows)),  # room for the colour bar
        margin={"l": left, "r": 20, "t": 90, "b": 70},
        font=FONT,
    )
    figure.update_xaxes(
        title_text=columns.title,
        tickvals=list(range(n_tokens)),
        ticktext=columns.labels,
        tickangle=0 if n_tokens <= UPRIGHT else 90,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        title_text="site" if several else "layer",
        tickvals=list(range(len(rows))),
        ticktext=names,
        showgrid=False,
        zeroline=False,
    )
    return figure, rows


def heading(result: LensResult, text: str, *notes: str) -> dict[str, Any]:
    """A figure's title: the text, and below it the model, whether it is certified, notes, and what must be said."""
    model = inert(str(result.provenance.get("model", "model")))
    proven = ", certified" if result.certificate is not None and result.certificate.passed and result.normed else ""
    said = "".join(f", {note}" for note in notes if note)
    mark = f" <b>{inert(result.mark)}</b>" if result.mark else ""
    return {"text": text, "subtitle": {"text": model + proven + said + mark}, "x": 0.02, "xanchor": "left"}


def write_html(figure: go.Figure, path: str | os.PathLike[str], *, offline: bool = False) -> None:
    """Write a figure as one HTML file, complete or not at all.

    Args:
        figure: Any plotly figure.
        path: Where to.
        offline: True puts plotly.js (4.5 MB) into the file; otherwise it comes from a CDN when the page is opened.

    Raises:
        LensError: the path cannot be written.
    """
    page = figure.to_html(include_plotlyjs=True if offline else "cdn", full_html=True, auto_play=False)
    with written(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def values(one: LensResult, metric: str, of: str | int | None) -> tuple[np.ndarray, str]:
    """The numbers `[site, token]` that the pair (`metric`, `of`) names, and what they are called.

    Raises:
        ValueError: as for `heatmap`.
    """
    if metric not in SCALES:
        raise ValueError(f"metric={metric!r} is unknown; accepted are {', '.join(map(repr, SCALES))}.")
    title = SCALES[metric].title
    if metric in ("entropy", "kl"):
        if of is not None:
            raise ValueError(f"metric={metric!r} is about the whole distribution: leave `of` out (received {of!r}).")
        return (one.entropy if metric == "entropy" else one.kl_to_final), title
    if of is None:
        if SCALES[metric].needs_of:
            raise ValueError(f'metric={metric!r} needs `of`: "next", "final", or one of the targets, as text or id.')
        return np.exp(one.top_logprobs[..., 0]), "probability of the top token"
    logprobs, ranks, whose = one.of(of)
    if metric == "rank":
        return np.where(ranks < 0, np.nan, ranks), f"rank of {whose}"
    return (np.exp(logprobs) if metric == "prob" else logprobs + one.logsumexp), f"{title} of {whose}"


def _rows(sites: list[Site], named: list[int], stride: int | None) -> list[int]:
    """Those of the named sites that every n-th layer has, counted from the last, which is always among them."""
    if stride is None:
        stride = math.ceil(len(named) / MAX_ROWS)
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride={stride!r} must be a whole number from 1.")
    layers = list(dict.fromkeys(sites[s].layer for s in named))
    kept = set(layers[::-1][::stride])
    return [s for s in named if sites[s].layer in kept]


def _color_axis(metric: str, z: np.ndarray, one: LensResult) -> tuple[np.ndarray, dict[str, float], dict[str, Any]]:
    """What is coloured, its fixed range, and the ticks of its colour bar."""
    vocab = max(2, int(one.provenance.get("vocab_size") or 2))
    if metric == "rank":  # logarithmic, the top at the top
        ticks = [0, *(10**k for k in range(int(math.log10(vocab)) + 1))]
        bar = {"tickvals": [-math.log10(rank + 1) for rank in ticks], "ticktext": [f"{rank:,}" for rank in ticks]}
        return -np.log10(z + 1), {"zmin": -math.log10(vocab), "zmax": 0}, bar
    tops = {"prob": 1.0, "entropy": math.log(vocab), "kl": max(float(z[np.isfinite(z)].max(initial=0)), 1e-6)}
    limits = {"zmin": 0.0, "zmax": tops[metric]} if metric in tops else {}
    return z, limits, {}


def _number(value: float, what: str) -> str:
    return f"{value:,.0f}" if what.startswith("rank") else f"{value:.4g}"


def _hover(one: LensResult, s: int, t: int, what: str, z: np.ndarray) -> list[str]:
    """What is known about one cell beside its place, as inert HTML lines."""
    lines = [f"{inert(what)}: {_number(z[s, t], what)}", ""]
    for k in range(one.top_ids.shape[-1]):
        word, p = plotly_safe(one.text(one.top_ids[s, t, k]), 40), probability(one.top_logprobs[s, t, k])
        lines.append(f"{k + 1}. {word}  {p}")
    kl = "" if are_vectors(one.sites) else f", KL to final {one.kl_to_final[s, t]:.3f} nats"
    return [*lines, "", f"entropy {one.entropy[s, t]:.3f} nats{kl}"]


def _where(one: LensResult, s: int, t: int) -> list[str]:
    if are_vectors(one.sites):
        return [f"<b>vector {plotly_safe(one.tokens.text[t], 40)}</b>"]
    following = int(one.tokens.next_id[t])
    return [
        f"<b>{place(one.sites[s])}</b>, position {one.tokens.position[t]}",
        f"input {plotly_safe(one.tokens.text[t], 40)}",
        f"next token {plotly_safe(one.text(following), 40) if following >= 0 else '(the prompt ends here)'}",
    ]
