"""Two results beside each other in the same colours, and their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import DIVERGING, METRICS, vocab_size
from lens_recipes.arrays.sites import components, site_label, thinned_sites
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.axes import token_ticks
from lens_recipes.views.figures.base.color import color_axis, colorscale, with_contrast_text
from lens_recipes.views.figures.base.grid import FULL_HOVER
from lens_recipes.views.figures.base.style import FONT, expect, provenance_line
from lens_recipes.views.figures.compare.pairs import Array, Side, difference, paired, spans
from lens_recipes.views.figures.compare.panels import BAR, HEAD, Panels
from lens_recipes.views.words import format_value, probability, prompt_end

TITLE = 105  # pixels


def compare(
    a: LensArrays,
    b: LensArrays,
    *,
    metric: str = "prob",
    of: Any = None,
    prompt: int = 0,
    prompt_b: int | None = None,
    align: str = "token",
    stride: int | None = None,
    component: str | None = None,
    colors: str | None = None,
    names: tuple[str, str] = ("A", "B"),
    title: str | None = None,
) -> go.Figure:
    """Layers × tokens of two results in the same colours, and A − B: two models, two prompts, or two ways to read.

    The rows are the sites that both have; those that only one has are named. Ranks are subtracted as log10(rank + 1),
    so that 0 and 9 are as far apart as 99 and 999.

    Args:
        a, b: Any lens results with layers; the same one twice to compare two of its prompts.
        metric, of: As for `heatmap`; None is each one's own top-1, whichever token that is.
        prompt: Which prompt, of both.
        prompt_b: Another one of `b`.
        align: "token": both must have read the same tokens at the same positions. "position": whatever tokens at the
            same positions.
        stride: Show every n-th layer, counted from the last. None: about 40 rows.
        component: None for all that both have, or only the rows of this one.
        colors: Another of plotly's colour scales for A and B, as for `heatmap`.
        names: What to call the two.
        title: Replaces the figure's own.

    Raises:
        ValueError: tokens or positions that differ, no site in common, no token at which both have a number, or as for
            `heatmap`.

    Example:
        >>> compare(base, tuned, metric="kl", names=("base", "tuned")).show()
        >>> compare(result, result, prompt_b=1, align="position", metric="rank", of="final").show()
    """
    expect(LensArrays, a, b)
    ones = a[prompt], b[prompt if prompt_b is None else prompt_b]
    first, second, what = paired(ones, names, metric, of, align, component)
    sites = [first.one.sites[s] for s in first.sites]
    rows = thinned_sites(sites, list(range(len(sites))), stride)
    texts = [one.tokens.text for one in ones]
    panels = Panels.of(len(texts[0]), len(rows), texts[0] != texts[1])
    axis = color_axis(metric, np.stack([first.numbers, second.numbers]), max(map(vocab_size, ones)))
    apart = difference(first, second, metric)
    most = float(np.abs(apart[np.isfinite(apart)]).max(initial=0)) or 1.0
    same = {"colorscale": colorscale(metric, colors), **axis.limits}
    own = {"colorscale": DIVERGING, "zmin": -most, "zmax": most}
    bar = {"title": {"text": escape_plotly(what), "side": "right"}, **axis.bar, **panels.bar(0, 1)}
    own_bar = {
        "title": {"text": _scale(first, second, metric), "side": "right"},
        **panels.bar(2, 2),
    }
    cells: dict[str, Any] = {
        "type": "heatmap",
        "customdata": _hover(first, second, rows, apart, metric, what),
    }
    cells |= {
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": True,
        "xgap": 1,
        "ygap": 1,
    }
    maps: list[dict[str, Any]] = [
        {"z": axis.z[0, rows], "showscale": False, **same, **cells},
        {"z": axis.z[1, rows], "colorbar": bar, **same, **cells},
        {"z": np.clip(apart, -most, most)[rows], "colorbar": own_bar, **own, **cells},
    ]
    maps = [{**trace, "xaxis": f"x{n}", "yaxis": f"y{n}"} for n, trace in enumerate(maps, 1)]
    if panels.words:
        sides = enumerate((first, second))
        worded = [with_contrast_text(maps[n] | {"text": _words(side, rows)}) for n, side in sides]
        maps = [white for white, _ in worded] + maps[2:] + [black for _, black in worded]
    figure = go.Figure(maps)
    labels = [str(sites[row]) for row in rows]
    left = max(60, 40 + 7 * max(map(len, labels)))
    lines = _sources(first, second, rows, component)
    top = 58 + 17 * len(lines) + HEAD
    height = top + panels.height + panels.foot
    text = (
        title if title is not None else f"{_name(first)} and {_name(second)}: {escape_plotly(what)}"
    )
    figure.update_layout(
        template="plotly_white",
        title={"text": text, "subtitle": {"text": "<br>".join(lines)}, "x": 0.02, "xanchor": "left"}
        | {"y": 1 - 38 / height, "yanchor": "bottom"},
        width=left + panels.width + BAR,
        height=height,
        margin={"l": left, "r": BAR, "t": top, "b": panels.foot},
        font=FONT,
        plot_bgcolor="#dddddd",  # what has no number is not what has no difference
        hoverlabel={"align": "left"},
    )
    heads = (_name(first), _name(second), f"{_name(first)} − {_name(second)}")
    both = [tuple(dict.fromkeys(pair)) for pair in zip(*texts, strict=True)]
    columns = [*([(text,) for text in side] for side in texts), both]
    kind = "layer" if components(sites) == ["resid_post"] else "site"
    positions = ones[0].tokens.position.tolist()
    for n, (head, column) in enumerate(zip(heads, columns, strict=True)):
        tokens = token_ticks(column, positions, "input token", panels.wide)
        figure.update_layout(panels.axes(n, tokens, labels, kind))
        figure.add_annotation(text=f"<b>{head}</b>", **panels.corner(n))
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _name(side: Side) -> str:
    return escape_plotly(prompt_end(side.name, 30))


def _words(side: Side, rows: list[int]) -> list[list[str]]:
    """The top-1 tokens for the cells."""
    ids = [side.one.top_ids[side.sites[row], :, 0] for row in rows]
    return [[plotly_safe(side.one.text(i), 10) for i in row] for row in ids]


def _scale(a: Side, b: Side, metric: str) -> str:
    """What the colours of the difference mean."""
    minus = f"{_name(a)} − {_name(b)}"
    if metric == "rank":
        return f"log10(rank + 1): {minus}<br>below 0: {_name(a)} has it nearer the top"
    return f"{METRICS[metric].label}: {minus}"


def _sources(a: Side, b: Side, rows: list[int], component: str | None) -> list[str]:
    """The lines below the title: where each of the two comes from, and the sites that are not drawn."""
    prompts = [side.one.prompts[0] for side in (a, b)]
    lines = []
    for side in (a, b):
        prompt = (
            ""
            if prompts[0] == prompts[1]
            else f"“\u2068{escape_plotly(prompt_end(side.one.prompts[0], 50))}\u2069”"
        )
        lines.append(
            f"{_name(side)}: {provenance_line(side.one, '' if side.one.certificate else 'no certificate', prompt)}"
        )
    both = {side.one.sites[s] for side in (a, b) for s in side.sites}
    for side in (a, b):
        only = [
            site
            for site in side.one.sites
            if site not in both and component in (None, site.component)
        ]
        if only:
            lines.append(f"only in {_name(side)}, not drawn: {spans(only)}")
    if len(rows) < len(a.sites):
        lines.append(f"{len(rows)} of {len(a.sites)} common sites")
    return lines


def _hover(
    a: Side, b: Side, rows: list[int], apart: Array, metric: str, what: str
) -> list[list[str]]:
    """What each cell says, the same in all three panels: both numbers, both top tokens, and the difference."""
    n_tokens = len(a.one.tokens)
    full = len(rows) * n_tokens <= FULL_HOVER
    log = " in log10(rank + 1)" if metric == "rank" else ""
    inputs = [
        " | ".join(dict.fromkeys(plotly_safe(side.one.tokens.text[t], 40) for side in (a, b)))
        for t in range(n_tokens)
    ]

    def cell(row: int, t: int) -> str:
        where = (
            f"<b>{site_label(a.one.sites[a.sites[row]])}</b>, position {a.one.tokens.position[t]}"
        )
        lines = [where, f"input {inputs[t]}", escape_plotly(what)]
        lines += [_said(side, row, t, metric, full) for side in (a, b)]
        minus = (
            "none" if np.isnan(apart[row, t]) else f"{apart[row, t]:+.4g}".replace("-", "−") + log
        )
        return "<br>".join([*lines, f"{_name(a)} − {_name(b)}: {minus}"])

    return [[cell(row, t) for t in range(n_tokens)] for row in rows]


def _said(side: Side, row: int, t: int, metric: str, full: bool) -> str:
    value, s = side.numbers[row, t], side.sites[row]
    written = "none" if np.isnan(value) else format_value(value, metric)
    word, p = (
        plotly_safe(side.one.text(side.one.top_ids[s, t, 0]), 40),
        probability(side.one.top_logprobs[s, t, 0]),
    )
    return f"{_name(side)}: {written}" + (f", top-1 {word}  {p}" if full else "")
