"""Tokens followed through the layers, as plotly figures: lines, and one position's top tokens as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ._table import probability, prompt_end
from .components import are_vectors, series, token_index
from .display import inert, plotly_safe
from .plot import FONT, heading
from .result import LensResult
from .tracks import Track, named, tracks

# Okabe & Ito, "Color Universal Design" (2008): told apart by the colour-blind; the yellow last, it is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
TOP_TOKENS = 10

METRICS = {
    "prob": "probability",
    "logprob": "log-probability (nats)",
    "rank": "rank (log scale, 0 is the top)",
    "logit": "logit (compare tokens of one layer, not layers)",
    "logit_diff": "logit difference (nats: log-odds)",
}


def trajectory(
    result: LensResult,
    *,
    of: str | int | Iterable[str | int] | None = None,
    metric: str = "prob",
    prompts: int | Iterable[int] | None = None,
    position: int = -1,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """What becomes of some tokens from layer to layer: a colour for each token, a dash for each prompt.

    Args:
        result: Any lens result with layers.
        of: None for all targets, or "final" where there are none; or "next", "final", one of the targets, as text or
            id, or a list of them, each drawn for the prompts that have it. For "logit_diff" the pair (a, b), drawn as
            a − b, or None where each prompt has two targets.
        metric: "prob", "logprob" (nats), "rank" (log scale, 0 at the top), "logit" or "logit_diff" (nats).
        prompts: None for all, of which the first six are drawn, or which.
        position: Which of each prompt's selected tokens is read; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only component that was read.
        title: Replaces the figure's own.

    Raises:
        ValueError: a metric, token, prompt or component that the result does not have, or more tokens or prompts than
            can be told apart.

    Example:
        >>> trajectory(result, metric="rank").show()
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is unknown; accepted are {', '.join(map(repr, METRICS))}.")
    along = _along(result, component)
    shown = _prompts(result, prompts)
    views = [result[p] for p in shown]
    spots = [token_index(len(one.tokens), position, "position") for one in views]
    lines = [tracks(one, of, metric, spot) for one, spot in zip(views, spots, strict=True)]
    _check_found(views, lines, of)
    colors = _colors(lines)
    figure = go.Figure()
    for i, one in enumerate(views):
        for track in lines[i]:
            figure.add_trace(_line(one, spots[i], track, metric, along, i, colors[track.key]))
        if len(views) > 1:
            group = {"text": f"<b>{inert(prompt_end(one.prompts[0], 34))}</b>"}
            figure.update_traces(legendgrouptitle=group, selector={"legendgroup": f"prompt {i}"})
    if len(views) == 1:
        where = _after(views[0], spots[0])
    else:
        which = "the last token" if position == -1 else f"token {position} of those"
        where = f"predicted after {which} read of each prompt"
    cut = prompts is None and len(shown) < len(result)
    more = f"the first {len(shown)} of {len(result)} prompts (prompts= for others)" if cut else ""
    text = title if title is not None else f"Through the layers: {METRICS[metric].split(' (')[0]}"
    figure.update_layout(
        template="plotly_white",
        title=heading(result, text, where, more),
        width=980,
        height=max(460, 180 + 21 * (sum(map(len, lines)) + 2 * len(lines))),  # room for the legend
        margin={"l": 80, "r": 20, "t": 90, "b": 60},
        font=FONT,
        legend={"groupclick": "toggleitem", "font": {"size": 13}, "tracegroupgap": 12},
        showlegend=True,
        hoverlabel={"align": "left"},
    )
    name = result.sites[along[0]].component
    figure.update_xaxes(title_text="layer" if name == "resid_post" else f"layer ({name})", zeroline=False)
    figure.update_yaxes(title_text=METRICS[metric], **_axis(metric, result))
    return figure


def _line(one: LensResult, spot: int, track: Track, metric: str, along: list[int], i: int, color: str) -> go.Scatter:
    about = [_after(one, spot), f"prompt: {inert(prompt_end(one.prompts[0]))}"]
    values = track.values[along]
    return go.Scatter(
        x=[one.sites[s].layer for s in along],
        y=np.log10(values + 1) if metric == "rank" else values,
        mode="lines+markers",
        name=inert(track.name),
        line={"color": color, "dash": DASHES[i], "width": 2},
        marker={"symbol": MARKERS[i], "size": 6},
        legendgroup=f"prompt {i}",
        customdata=[_hover(one, s, track, metric, about) for s in along],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _along(result: LensResult, component: str | None) -> list[int]:
    if are_vectors(result.sites):
        raise ValueError("vectors have no layers to follow a token through: table() and heatmap() show them.")
    along = series(result.sites, component)
    if component == "embed" or result.sites[along[0]].component == "embed":
        raise ValueError('"embed" is one site, not a series of layers: pass another component=.')
    return along


def _prompts(result: LensResult, prompts: Any) -> list[int]:
    n, most = len(result), len(DASHES)
    if prompts is None:
        return list(range(min(n, most)))
    items = named(prompts)
    for item in items:
        if not isinstance(item, int | np.integer) or not -n <= item < n:
            raise ValueError(f"prompts={prompts!r}: {item!r} is none of the prompts 0 to {n - 1} of this result.")
    found = list(dict.fromkeys(int(item) % n for item in items))
    if not 1 <= len(found) <= most:
        raise ValueError(f"prompts= names {len(found)} prompts; dashes tell 1 to {most} apart: pass that many.")
    return found


def _colors(lines: list[list[Track]]) -> dict[Any, str]:
    keys = list(dict.fromkeys(track.key for some in lines for track in some))
    if len(keys) > len(COLORS):
        raise ValueError(
            f"{len(keys)} tokens are more than the {len(COLORS)} that colours tell apart: name some in of=."
        )
    return dict(zip(keys, COLORS, strict=False))


def _check_found(views: list[LensResult], lines: list[list[Track]], of: Any) -> None:
    """A token that no prompt follows is an error; one that some do not is only not drawn there."""
    for what in [] if of is None else named(of):
        if what in ("next", "final"):
            continue
        texts = {one.text(i) for one in views for i in one.target_ids[0]}
        if what not in texts and not any(what in one.target_ids[0] for one in views):
            known = ", ".join(map(repr, sorted(texts))) or "none"
            raise ValueError(
                f'of={what!r} is unknown: accepted are "next", "final" and the targets ({known}). Pass targets= to '
                "the recipe."
            )


def _axis(metric: str, result: LensResult) -> dict[str, Any]:
    """The whole range that a metric can have, where there is one, so that figures can be compared."""
    if metric == "prob":
        return {"range": [-0.02, 1.02], "zeroline": False}
    if metric == "rank":
        top = math.log10(max(2, int(result.provenance.get("vocab_size") or 2)))
        ranks = [0, *(10**k for k in range(1, int(top) + 1))]
        ticks = {"tickvals": [math.log10(rank + 1) for rank in ranks], "ticktext": [f"{rank:,}" for rank in ranks]}
        return {"range": [top * 1.02, -0.02 * top], "zeroline": False, **ticks}
    return {"zeroline": metric == "logit_diff", "zerolinecolor": "#888", "zerolinewidth": 1}


def _after(one: LensResult, spot: int) -> str:
    return f"predicted after token {one.tokens.position[spot]}, {plotly_safe(one.tokens.text[spot], 40)}"


def _hover(one: LensResult, s: int, track: Track, metric: str, about: list[str]) -> str:
    value = track.values[s]
    number = f"{value:,.0f}" if metric == "rank" else f"{value:.4g}"
    if metric == "prob":
        with np.errstate(divide="ignore"):  # log 0
            number = probability(np.log(value))
    lines = [f"<b>{inert(track.name)}</b>", f"layer {one.sites[s].layer} ({one.sites[s].component})"]
    return "<br>".join([*lines, f"{METRICS[metric].split(' (')[0]} {number}", *about])


# -- the top tokens of one position --------------------------------------------------------------------------


def top_tokens(result: LensResult, position: int = -1, *, prompt: int = 0, title: str | None = None) -> go.Figure:
    """The last layer's top tokens × layers, coloured by their probability on a logarithmic scale.

    Only tracked tokens have a number at every layer: with `track="top1"`, those that were top-1 somewhere; with
    `track=10`, the ten that the last layer ranks highest, whose figure this is. The most likely one comes first.

    Args:
        result: A lens result with tracked tokens.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        title: Replaces the figure's own.

    Raises:
        ValueError: nothing was tracked, or a token that was not read.

    Example:
        >>> top_tokens(logit_lens(model, "The capital of France is", track=10)).show()
    """
    along = _along(result, None)
    one = result[prompt]
    spot = token_index(len(one.tokens), position, "position")
    tracked = np.flatnonzero(one.tracked_ids[spot] >= 0)
    if not len(tracked):
        raise ValueError("no token was tracked (track=None): run the recipe with track=10.")
    order = np.argsort(-one.tracked_logprobs[along[-1], spot, tracked], kind="stable")
    rows = tracked[order][:TOP_TOKENS]
    ids, logprobs = one.tracked_ids[spot, rows], one.tracked_logprobs[along, spot][:, rows].T.astype(np.float64)
    layers = [one.sites[s].layer for s in along]
    vocab = max(2, int(one.provenance.get("vocab_size") or 2))
    powers = list(range(int(math.log10(vocab)) + 1))
    words = [plotly_safe(one.text(i), 20) for i in ids]
    cells = [
        [
            f"<b>{word}</b><br>layer {layer}<br>probability {probability(p)}<br>{_after(one, spot)}"
            for layer, p in zip(layers, row, strict=True)
        ]
        for word, row in zip(words, logprobs, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=logprobs / math.log(10),
            x=list(range(len(along))),
            y=list(range(len(rows))),
            customdata=cells,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale="Viridis",
            zmin=-math.log10(vocab),  # what a token has when the layer knows nothing; less is as dark
            zmax=0,
            colorbar={
                "title": {"text": "probability (log scale)", "side": "right"},
                "tickvals": [-k for k in powers],
                "ticktext": [f"{10**-k:g}" for k in powers],
            },
            xgap=1,
            ygap=1,
        )
    )
    whole = len(rows) == TOP_TOKENS and set(one.top_ids[along[-1], spot, :TOP_TOKENS]) <= set(ids)
    asked = one.provenance.get("arguments", {}).get("track")
    enough = whole or (isinstance(asked, int) and asked >= TOP_TOKENS)  # the model's last layer may not have been read
    hint = "" if enough else f"only tokens that were tracked: run with track={TOP_TOKENS} for the last layer's top ten"
    what = "The last layer's top tokens" if whole else "The tracked tokens that the last layer ranks highest,"
    text = title if title is not None else f"{what} through the layers"
    step = math.ceil(len(along) / 30)
    ticks = list(range(len(along) - 1, -1, -step))[::-1]
    figure.update_layout(
        template="plotly_white",
        title=heading(one, text, _after(one, spot), hint),
        width=min(max(760, 260 + 26 * len(along)), 1600),
        height=210 + 26 * len(rows),
        margin={"l": 150, "r": 20, "t": 90, "b": 60},
        font=FONT,
    )
    figure.update_xaxes(
        title_text="layer", tickvals=ticks, ticktext=[str(layers[t]) for t in ticks], showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=words, autorange="reversed", showgrid=False, zeroline=False
    )
    return figure
