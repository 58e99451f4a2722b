"""How the order of the top tokens changes from layer to layer, after one token."""

from __future__ import annotations

import html
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import token_index
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.views.figures.base.axes import (
    after_token_label,
    layer_axis,
    layer_numbers,
    layer_sites,
)
from lens_recipes.views.figures.base.style import COLORS, DASHES, FONT, heading
from lens_recipes.views.words import probability

MOST = len(COLORS)

GREY = "#b5b5b5"

LEFT, RIGHT = 70, 150  # pixels beside the layers: the axis, the names of the last layer's tokens

LETTER, BLANK = 8, 12  # pixels: of a name, and between two

SLANTED, UPRIGHT = 22, 14  # pixels from one name to the next if they are turned

ABOVE = {0: 25, -45: 75, -90: 95}  # pixels that names take, turned so


def rank_flow(
    result: LensArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    k: int | None = None,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Which tokens are in the top k of each layer, and in which order: a line joins a token's places.

    Coloured and named at the right are the top k of the last layer, grey all others. A line has a gap where its token
    is not in the top k. Above stands what is top-1, where that changes.

    Args:
        result: Any lens result with layers.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        k: How many places; None for all that the result holds, at most 8.
        component: Along which sites; None for "resid_post", or for the only component that was read.
        title: Replaces the figure's own.

    Raises:
        ValueError: a position or component that was not read, or more places than the result holds or colours tell
            apart.

    Example:
        >>> rank_flow(logit_lens(model, "The capital of France is", top_k=8)).show()
    """
    along = layer_sites(result, component)
    one = result[prompt]
    spot = token_index(len(one.tokens), position, "position")
    k = _places(one.top_ids.shape[-1], k)
    ids = one.top_ids[along, spot, :k]
    layers = layer_numbers(one, along)
    hover = [
        [_hover(one, layer, rank, s, spot) for rank in range(k)]
        for layer, s in zip(layers, along, strict=True)
    ]
    last = ids[-1].tolist()
    others = [
        _places_of(token, ids, layers, hover)
        for token in dict.fromkeys(ids.ravel().tolist())
        if token not in last
    ]
    figure = go.Figure(
        _line([point for line in others for point in [*line, (None, None, "")]], GREY, "solid", 1)
    )
    for n in reversed(range(k)):  # the most likely on top
        figure.add_trace(
            _line(_places_of(last[n], ids, layers, hover), COLORS[n], DASHES[n % len(DASHES)], 2.5)
        )
    width = min(max(980, LEFT + RIGHT + 30 * len(layers)), 1600)
    ends = [
        f"{one.name(i, last, 12, plotly_safe)}  {probability(p)}"
        for i, p in zip(last, one.top_logprobs[along[-1], spot], strict=False)
    ]
    for rank, text in enumerate(ends):
        look = {"xanchor": "left", "xshift": 10, "font": {"size": 13}}
        figure.add_annotation(x=layers[-1], y=rank, text=text, showarrow=False, **look)
    pixels = (width - LEFT - RIGHT) / (layers[-1] - layers[0] + 1)
    firsts = _firsts(one, ids[:, 0], layers, pixels)
    above = 90 + ABOVE[min(name["textangle"] for name in firsts)]
    height = above + 60 + 46 * max(k, 3)
    head = heading(
        one,
        title if title is not None else f"The top {k} through the layers",
        f"{after_token_label(one, spot)}<br>coloured: the top {k} of layer {layers[-1]}",
        "above: each new top-1",
    )
    figure.update_layout(
        annotations=[*figure.layout.annotations, *firsts],
        template="plotly_white",
        title=head
        | {
            "y": 1 - 38 / height,
            "yanchor": "bottom",
        },  # else in the middle of what is above the lines
        width=width,
        height=height,
        margin={"l": LEFT, "r": RIGHT, "t": above, "b": 60},
        font=FONT,
        showlegend=False,
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(
        range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False, **layer_axis(one, along)
    )
    figure.update_yaxes(
        title_text="rank (0 is the top)",
        range=[k - 0.5, -0.5],
        tickvals=list(range(k)),
        zeroline=False,
    )
    return figure


def _places(held: int, k: Any) -> int:
    if k is None:
        return min(held, MOST)
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= min(held, MOST):
        more = (
            f" (colours tell {MOST} apart)"
            if held >= MOST
            else f": run the recipe with top_k={MOST} for more"
        )
        raise ValueError(f"k={k!r} must be a whole number from 1 to {min(held, MOST)}{more}.")
    return int(k)


def _places_of(
    token: int, ids: NDArray[np.int32], layers: list[int], hover: list[list[str]]
) -> list[tuple]:
    """Layer, rank and hover of one token, layer after layer from its first place to its last; gaps between."""
    there = (ids == token).any(1)
    first, end = int(there.argmax()), len(there) - int(there[::-1].argmax())
    ranks = (ids == token).argmax(1).tolist()
    return [
        (layers[n], ranks[n], hover[n][ranks[n]]) if there[n] else (layers[n], None, "")
        for n in range(first, end)
    ]


def _line(points: list[tuple], color: str, dash: str, width: float) -> go.Scatter:
    x, y, hover = zip(*points, strict=True) if points else ((), (), ())
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": color, "dash": dash, "width": width},
        marker={"size": 3 + 2 * width},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _firsts(
    one: LensArrays, top: NDArray[np.int32], layers: list[int], pixels: float
) -> list[dict[str, Any]]:
    """The names of the top-1 tokens above the layers from which on they are: level where there is room for all, else
    slanted or upright, but for single characters; where there is none for that either, a name is left out."""
    starts: list[int] = []
    for n in range(len(top)):
        changed = n == 0 or top[n] != top[n - 1]
        if changed and (not starts or pixels * (layers[n] - layers[starts[-1]]) >= UPRIGHT):
            starts.append(n)
    gaps = [np.inf, *(pixels * (layers[b] - layers[a]) for a, b in pairwise(starts)), np.inf]
    texts = [plotly_safe(one.text(top[n])) for n in starts]
    letters = [len(html.unescape(text)) for text in texts]
    fits = [LETTER * count + BLANK <= min(gaps[i : i + 2]) for i, count in enumerate(letters)]
    turned = -45 if min(gaps) >= SLANTED else -90
    names = []
    for i, n in enumerate(starts):
        angle = 0 if all(fits) or (fits[i] and letters[i] <= 2) else turned
        look = {
            "showarrow": False,
            "yanchor": "bottom",
            "yshift": 4,
            "xanchor": "left" if angle == -45 else "center",
        }
        names.append({"x": layers[n], "y": -0.5, "text": texts[i], "textangle": angle, **look})
    return names


def _hover(one: LensArrays, layer: int, rank: int, s: int, spot: int) -> str:
    word, p = (
        plotly_safe(one.text(one.top_ids[s, spot, rank]), 40),
        probability(one.top_logprobs[s, spot, rank]),
    )
    return f"<b>{word}</b><br>layer {layer}, rank {rank}<br>probability {p}<br>{after_token_label(one, spot)}"
