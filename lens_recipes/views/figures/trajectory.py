"""Tokens followed through the layers, as plotly figures: lines, and one position's top tokens as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, NO_RANK, find_metric, vocab_size
from lens_recipes.arrays.sites import token_index
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.arrays.tracks import (
    Track,
    at_token,
    followed,
    has_number,
    named,
    named_prompts,
    tracks,
)
from lens_recipes.views.figures.base.axes import (
    after_token_label,
    layer_axis,
    layer_sites,
    value_axis,
    value_title,
)
from lens_recipes.views.figures.base.color import colorscale
from lens_recipes.views.figures.base.style import COLORS, DASHES, FONT, MARKERS, heading
from lens_recipes.views.words import format_value, probability, prompt_end

TOP_TOKENS = 10

DRAWN = (
    "prob",
    "logprob",
    "rank",
    "logit",
    "logit_diff",
)  # of one token; `layer_profile` shows the others


class _Line(NamedTuple):
    """One group of lines: an index into the tokens of one prompt's result, and what is drawn there."""

    one: LensArrays
    spot: int
    tracks: list[Track]


def trajectory(
    result: LensArrays,
    *,
    of: str | int | Iterable[str | int] | None = None,
    metric: str = "prob",
    prompts: int | Iterable[int] | None = None,
    position: int | Iterable[int] = -1,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """What becomes of some tokens from layer to layer: a colour for each token, a dash for each prompt and position.

    Args:
        result: Any lens result with layers.
        of: None for all targets, or "final" where there are none; or "next", "final", a target or a tracked token, as
            text or id, or a list of them, each drawn where the result has it. For "logit_diff" the pair (a, b), drawn
            as a − b, or None where each prompt has two targets.
        metric: "prob", "logprob" (nats), "rank" (log scale, 0 at the top), "logit" or "logit_diff" (nats).
        prompts: None for all, of which the first six are drawn, or which.
        position: Which of each prompt's selected tokens are read, one or several; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only component that was read.
        title: Replaces the figure's own.

    Raises:
        ValueError: a metric, token, prompt, position or component that the result does not have, or more of them than
            can be told apart.

    Example:
        >>> trajectory(result, metric="rank").show()
        >>> trajectory(result, of=" Paris", position=[2, 3, 4]).show()
    """
    find_metric(metric, DRAWN)
    along = layer_sites(result, component)
    positions = _positions(position)
    shown = _prompts(result, prompts, len(positions))
    lines = []
    for p in shown:
        one = result[p]
        for spot in dict.fromkeys(token_index(len(one.tokens), t, "position") for t in positions):
            lines.append(_Line(one, spot, tracks(one, of, metric, spot)))
    _check_found(lines, of, metric)
    lines = _told_apart(lines)
    colors = _colors(lines)
    figure = go.Figure()
    for i, line in enumerate(lines):
        for track in line.tracks:
            figure.add_trace(_scatter(line, track, metric, along, i, colors[track.key]))
        if len(lines) > 1:
            group = {"text": f"<b>{_group(line, len(shown), len(positions))}</b>"}
            figure.update_traces(legendgrouptitle=group, selector={"legendgroup": f"line {i}"})
    cut = prompts is None and len(shown) < len(result)
    more = f"the first {len(shown)} of {len(result)} prompts (prompts= for others)" if cut else ""
    text = title if title is not None else f"Through the layers: {METRICS[metric].title}"
    figure.update_layout(
        template="plotly_white",
        title=heading(result, text, _subtitle(lines, len(shown), positions), more),
        width=980,
        height=max(
            460, 180 + 21 * sum(len(line.tracks) + 2 for line in lines)
        ),  # room for the legend
        margin={"l": 80, "r": 20, "t": 90, "b": 60},
        font=FONT,
        legend={"groupclick": "toggleitem", "font": {"size": 13}, "tracegroupgap": 12},
        showlegend=True,
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(**layer_axis(result, along))
    figure.update_yaxes(title_text=value_title(metric), **value_axis(metric, vocab_size(result)))
    return figure


def _scatter(
    line: _Line, track: Track, metric: str, along: list[int], i: int, color: str
) -> go.Scatter:
    one, values = line.one, track.values[along]
    about = [
        after_token_label(one, line.spot),
        f"prompt: {escape_plotly(prompt_end(one.prompts[0]))}",
    ]
    return go.Scatter(
        x=[one.sites[s].layer for s in along],
        y=np.log10(values + 1) if metric == "rank" else values,
        mode="lines+markers",
        name=escape_plotly(track.name),
        line={"color": color, "dash": DASHES[i], "width": 2},
        marker={"symbol": MARKERS[i], "size": 6},
        legendgroup=f"line {i}",
        customdata=[_hover(one, s, track, metric, about) for s in along],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _positions(position: Any) -> list[Any]:
    found = list(dict.fromkeys(position)) if isinstance(position, Iterable) else [position]
    if not 1 <= len(found) <= len(DASHES):
        raise ValueError(
            f"position= names {len(found)} tokens; dashes tell 1 to {len(DASHES)} apart: pass that many."
        )
    return found


def _prompts(result: LensArrays, prompts: Any, n_positions: int) -> list[int]:
    most = len(DASHES) // n_positions
    if prompts is None:
        return list(range(min(len(result), most)))
    found = named_prompts(result, prompts)
    if not 1 <= len(found) <= most:
        each = f" of {n_positions} positions each" if n_positions > 1 else ""
        raise ValueError(
            f"prompts= names {len(found)} prompts{each}; dashes tell 1 to {len(DASHES)} apart: pass that many."
        )
    return found


def _group(line: _Line, n_prompts: int, n_positions: int) -> str:
    """What the lines of one dash have in common."""
    prompt = escape_plotly(prompt_end(line.one.prompts[0], 34)) if n_prompts > 1 else ""
    token = (
        f"{line.one.tokens.position[line.spot]} {plotly_safe(line.one.tokens.text[line.spot], 20)}"
    )
    return ", ".join(filter(None, [prompt, f"after token {token}" if n_positions > 1 else ""]))


def _subtitle(lines: list[_Line], n_prompts: int, positions: list[int]) -> str:
    if len(lines) == 1:
        return after_token_label(lines[0].one, lines[0].spot)
    if len(positions) > 1:
        return f"predicted after {len(positions)} tokens" + (
            " of each prompt" if n_prompts > 1 else ""
        )
    which = "the last token" if positions == [-1] else f"token {positions[0]} of those"
    return f"predicted after {which} read of each prompt"


def _colors(lines: list[_Line]) -> dict[Any, str]:
    keys = list(dict.fromkeys(track.key for line in lines for track in line.tracks))
    if len(keys) > len(COLORS):
        raise ValueError(
            f"{len(keys)} tokens are more than the {len(COLORS)} that colours tell apart: name some in of=."
        )
    return dict(zip(keys, COLORS, strict=False))


def _told_apart(lines: list[_Line]) -> list[_Line]:
    """Tokens that would have the same name with their ids."""
    keys: dict[str, set[Any]] = {}
    for line in lines:
        for track in line.tracks:
            keys.setdefault(track.name, set()).add(track.key)

    def renamed(track: Track) -> Track:
        ids = track.key if isinstance(track.key, tuple) else (track.key,)
        return (
            track._replace(name=f"{track.name} ({', '.join(map(str, ids))})")
            if len(keys[track.name]) > 1
            else track
        )

    return [line._replace(tracks=list(map(renamed, line.tracks))) for line in lines]


def _check_found(lines: list[_Line], of: Any, metric: str) -> None:
    """A token that has a number nowhere is an error; where it has none it is only not drawn."""
    if metric == "logit_diff":
        return
    spots = [(line.one, line.spot) for line in lines]
    if of is None and not any(line.tracks for line in lines):
        of = int(lines[0].one.target_ids[0, 0]) if lines[0].one.target_ids.size else "final"
    for what in [] if of is None else named(of):
        follow = [spot for spot in spots if what in followed(*spot, metric)]
        if follow and not any(has_number(one, what, spot) for one, spot in follow):
            at_token(follow[0][0], what, follow[0][1])  # says why
        if not follow:
            there = set[str | int]().union(*(followed(*spot, "prob") for spot in spots))
            if what in there:
                raise ValueError(NO_RANK.format(what))
            texts = {line.one.text(i) for line in lines for i in line.one.target_ids[0]}
            tracked = sorted(
                {name for name in there if isinstance(name, str)} - texts - {"next", "final"}
            )
            raise ValueError(
                f'of={what!r} is unknown: accepted are "next", "final", the targets '
                f"({', '.join(map(repr, sorted(texts))) or 'none'}) and the tracked tokens "
                f"({', '.join(map(repr, tracked[:10])) or 'none'}{', …' if len(tracked) > 10 else ''}). Pass targets= "
                "to the recipe."
            )


def _hover(one: LensArrays, s: int, track: Track, metric: str, about: list[str]) -> str:
    value = track.values[s]
    written = format_value(value, metric)
    if metric == "prob":
        with np.errstate(divide="ignore"):  # log 0
            written = probability(np.log(value))
    lines = [
        f"<b>{escape_plotly(track.name)}</b>",
        f"layer {one.sites[s].layer} ({one.sites[s].component})",
    ]
    return "<br>".join([*lines, f"{METRICS[metric].title} {written}", *about])


# -- the top tokens of one position ------------------------------------


def top_tokens(
    result: LensArrays,
    position: int = -1,
    *,
    prompt: int = 0,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """The top tokens of the last layer read × layers, coloured by their probability on a logarithmic scale.

    Only tracked tokens have a number at every layer: with `track="top1"`, those that were top-1 somewhere; with
    `track=10`, the ten that the last layer ranks highest, whose figure this is. The most likely one comes first.

    Args:
        result: A lens result with tracked tokens.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only component that was read.
        title: Replaces the figure's own.

    Raises:
        ValueError: nothing was tracked, or a token or component that was not read.

    Example:
        >>> top_tokens(logit_lens(model, "The capital of France is", track=10)).show()
    """
    along = layer_sites(result, component)
    one = result[prompt]
    spot = token_index(len(one.tokens), position, "position")
    tracked = np.flatnonzero(one.tracked_ids[spot] >= 0)
    if not len(tracked):
        raise ValueError("no token was tracked (track=None): run the recipe with track=10.")
    order = np.argsort(-one.tracked_logprobs[along[-1], spot, tracked], kind="stable")
    rows = tracked[order][:TOP_TOKENS]
    ids, logprobs = (
        one.tracked_ids[spot, rows],
        one.tracked_logprobs[along, spot][:, rows].T.astype(np.float64),
    )
    layers = [one.sites[s].layer for s in along]
    vocab = vocab_size(one)
    powers = list(range(int(math.log10(vocab)) + 1))
    words = [one.name(i, ids, show=plotly_safe) for i in ids]
    cells = [
        [
            f"<b>{word}</b><br>layer {layer}<br>probability {probability(p)}<br>{after_token_label(one, spot)}"
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
            colorscale=colorscale("logprob"),
            zmin=-math.log10(
                vocab
            ),  # what a token has when the layer knows nothing; less is as dark
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
    enough = whole or (
        isinstance(asked, int) and asked >= TOP_TOKENS
    )  # the model's last layer may not have been read
    hint = (
        ""
        if enough
        else f"<br>only tokens that were tracked: run with track={TOP_TOKENS} for the top ten"
    )
    last = f"layer {layers[-1]}"
    what = (
        f"The top tokens of {last}" if whole else f"The tracked tokens that {last} ranks highest,"
    )
    text = title if title is not None else f"{what} through the layers"
    step = math.ceil(len(along) / 30)
    ticks = list(range(len(along) - 1, -1, -step))[::-1]
    height = 230 + 26 * max(len(rows), 7)  # room for the colour bar's title
    figure.update_layout(
        template="plotly_white",
        title=heading(one, text, after_token_label(one, spot) + hint)
        | {"y": 1 - 38 / height, "yanchor": "bottom"},
        width=min(max(760, 260 + 26 * len(along)), 1600),
        height=height,
        margin={"l": 150, "r": 20, "t": 110, "b": 60},
        font=FONT,
    )
    figure.update_xaxes(
        title_text=layer_axis(one, along)["title_text"],
        tickvals=ticks,
        ticktext=[str(layers[t]) for t in ticks],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=words,
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    return figure
