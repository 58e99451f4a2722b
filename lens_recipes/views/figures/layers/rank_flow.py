"""`rank_flow()`: how the order of the top tokens changes from layer to layer, after one token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import token_index
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.cells import hover_token
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    COLORS,
    DASHES,
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.unreadable import add_bands
from lens_recipes.views.figures.layers.axes import LayerSeries, after_token_label, find_series
from lens_recipes.views.figures.layers.rank_names import name_new_tops, name_width
from lens_recipes.views.summaries.trust import cannot, unreadable_sentence
from lens_recipes.views.words import probability, prompt_end

MAX_RANKS = len(COLORS)

GREY = "#b5b5b5"

MARGIN_LEFT = 70  # pixels for the axis
MARGIN_RIGHT = 150  # pixels for the names of the last layer's tokens, or more
END_GAP = 10  # pixels between the last point and its name
MARGIN_BELOW = 60  # pixels


class _Ranking(NamedTuple):
    """The top tokens of each layer.

    Attributes:
        single: The result of one prompt.
        token: The token after which they are predicted, an index.
        series: The layers.
        top_ids: `[layer, rank]`.
    """

    single: LensArrays
    token: int
    series: LayerSeries
    top_ids: NDArray[np.int32]

    @property
    def n_ranks(self) -> int:
        """How many ranks are drawn."""
        return self.top_ids.shape[1]

    @property
    def last_ids(self) -> list[int]:
        """The top tokens of the last layer, `[rank]`."""
        return self.top_ids[-1].tolist()


class _Point(NamedTuple):
    """A place on a line; a rank of None is a gap."""

    layer: int | None
    rank: int | None
    hover: str


LINE_BREAK = _Point(None, None, "")


def rank_flow(
    result: LensArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    k: int | None = None,
    component: str | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw the order of the top k tokens of each layer: a line joins the ranks of one token.

    The top k of the last layer are coloured, and named at the right; all others are grey. A line
    has a gap where its token is not in the top k. Each new top-1 is named above the layer at which
    it comes first, where there is room; hovers name all. Hatched layers cannot be read with this
    lens (`result.readable`).

    Args:
        result: Any lens result with layers.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        k: How many ranks; None for all that the result holds, at most 8.
        component: Along which sites; None for "resid_post", or for the only component that was
            read.
        title: Replaces the figure's own.
        show_all: Leave the hatching out.

    Raises:
        ValueError: a position or component that was not read, or more ranks than the result holds
            or colours tell apart.

    Example:
        >>> rank_flow(logit_lens(model, "The capital of France is", top_k=8)).show()
    """
    series = find_series(result, component)
    single = result[prompt]
    token = token_index(len(single.tokens), position, "position")
    n_ranks = _check_ranks(k, single.top_ids.shape[-1])
    ranking = _Ranking(single, token, series, single.top_ids[series.site_indices, token, :n_ranks])

    layers = series.layers
    end_names = _name_last_tokens(ranking)
    longest_end = max(name_width(name["text"]) for name in end_names)
    margin_right = max(MARGIN_RIGHT, longest_end + 2 * END_GAP)
    margins = MARGIN_LEFT + margin_right
    width = min(max(980, margins + 30 * len(layers)), 1600)
    pixels_per_layer = (width - margins) / (layers[-1] - layers[0] + 1)
    top_names = name_new_tops(single, ranking.top_ids[:, 0], layers, pixels_per_layer)

    title = f"The top {n_ranks} through the layers" if title is None else escape_plotly(title)
    token_label = after_token_label(single, token)
    subtitle = f"{token_label}<br>coloured: the top {n_ranks} of layer {layers[-1]}, grey: others"
    readable = single.readable[series.site_indices, token] | show_all
    warning = "" if readable.all() else f"hatched: {unreadable_sentence(single, [token])}"
    title_texts = figure_title(
        single,
        title,
        subtitle,
        "above: each new top-1",
        prompt=prompt_end(single.prompts[0], 110),
        warning=warning,
        tokens=[token],
    )
    margin_above = title_height(title_texts) + top_names.height
    height = margin_above + MARGIN_BELOW + 46 * max(n_ranks, 3)
    figure = Figure(_lines(ranking))
    figure.update_layout(
        annotations=[*end_names, *top_names.annotations],
        template="plotly_white",
        title=at_the_top(title_texts, height),
        width=width,
        height=height,
        margin={"l": MARGIN_LEFT, "r": margin_right, "t": margin_above, "b": MARGIN_BELOW},
        font=FONT,
        showlegend=False,
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(
        title_text=series.title,
        range=[layers[0] - 0.5, layers[-1] + 0.5],
        showgrid=False,
        **series.axis(),
    )
    figure.update_yaxes(
        title_text="rank (0 is the top)",
        range=[n_ranks - 0.5, -0.5],
        tickvals=list(range(n_ranks)),
        zeroline=False,
    )
    add_bands(figure, layers, readable, cannot=cannot(single))
    return figure


def _check_ranks(n_ranks: Any, n_held: int) -> int:
    """Return how many ranks are drawn: all that are held, if the caller does not say.

    Raises:
        ValueError: not a whole number, or more than are held or than colours tell apart.
    """
    max_ranks = min(n_held, MAX_RANKS)
    if n_ranks is None:
        return max_ranks
    whole = isinstance(n_ranks, int | np.integer) and not isinstance(n_ranks, bool)
    if whole and 1 <= n_ranks <= max_ranks:
        return int(n_ranks)
    if n_held >= MAX_RANKS:
        hint = f" (colours tell {MAX_RANKS} apart)"
    else:
        hint = f": run the recipe with top_k={MAX_RANKS} for more"
    raise ValueError(f"k={n_ranks!r} must be a whole number from 1 to {max_ranks}{hint}.")


# -- lines -------------------------------------------------------------


def _lines(ranking: _Ranking) -> list[go.Scatter]:
    """Return the grey lines as one trace, and the coloured ones, the most likely token on top."""
    hover = _hover(ranking)
    last_ids = ranking.last_ids
    grey_points: list[_Point] = []
    for token_id in dict.fromkeys(ranking.top_ids.ravel().tolist()):
        if token_id not in last_ids:
            grey_points += [*_points_of(token_id, ranking, hover), LINE_BREAK]
    lines = [_line(grey_points, GREY, "solid", 1)]
    for rank in reversed(range(ranking.n_ranks)):
        points = _points_of(last_ids[rank], ranking, hover)
        lines.append(_line(points, COLORS[rank], DASHES[rank % len(DASHES)], 2.5))
    return lines


def _points_of(token_id: int, ranking: _Ranking, hover: list[list[str]]) -> list[_Point]:
    """Return the points of one token from the first layer that has it to the last."""
    is_token = ranking.top_ids == token_id
    ranked = is_token.any(axis=1)
    ranks = is_token.argmax(axis=1).tolist()
    rows = np.flatnonzero(ranked).tolist()
    points = []
    for row in range(rows[0], rows[-1] + 1):
        layer = ranking.series.layers[row]
        if ranked[row]:
            points.append(_Point(layer, ranks[row], hover[row][ranks[row]]))
        else:
            points.append(_Point(layer, None, ""))
    return points


def _line(points: list[_Point], color: str, dash: str, width: float) -> go.Scatter:
    """Return a line through some points, which may be none."""
    return go.Scatter(
        x=[point.layer for point in points],
        y=[point.rank for point in points],
        mode="lines+markers",
        line={"color": color, "dash": dash, "width": width},
        marker={"size": 3 + 2 * width},
        customdata=[point.hover for point in points],
        hovertemplate=HOVER_TEMPLATE,
    )


def _hover(ranking: _Ranking) -> list[list[str]]:
    """Return what each place says, `[layer, rank]`."""
    single = ranking.single
    token_label = after_token_label(single, ranking.token)
    hover = []
    for site_index, layer in zip(ranking.series.site_indices, ranking.series.layers, strict=True):
        row_texts = []
        for rank in range(ranking.n_ranks):
            token_id = single.top_ids[site_index, ranking.token, rank]
            logprob = single.top_logprobs[site_index, ranking.token, rank]
            lines = [
                f"<b>{hover_token(single.text(token_id))}</b>",
                f"layer {layer}, rank {rank}",
                f"probability {probability(logprob)}",
                token_label,
            ]
            row_texts.append("<br>".join(lines))
        hover.append(row_texts)
    return hover


# -- names -------------------------------------------------------------


def _name_last_tokens(ranking: _Ranking) -> list[dict[str, Any]]:
    """Return annotations at the right: the last layer's tokens and their probabilities."""
    single = ranking.single
    logprobs = single.top_logprobs[ranking.series.site_indices[-1], ranking.token]
    annotations = []
    for rank, token_id in enumerate(ranking.last_ids):
        name = single.name(token_id, ranking.last_ids, 12, plotly_safe)
        annotation = {
            "x": ranking.series.layers[-1],
            "y": rank,
            "text": f"{name}  {probability(logprobs[rank])}",
            "showarrow": False,
            "xanchor": "left",
            "xshift": END_GAP,
            "font": {"size": 13},
        }
        annotations.append(annotation)
    return annotations
