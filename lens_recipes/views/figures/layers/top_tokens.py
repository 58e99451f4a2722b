"""`top_tokens()`: the top tokens of the last layer, through all layers before it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import vocab_size
from lens_recipes.arrays.sites import token_index
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.color import colorscale
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.unreadable import unreadable_cells
from lens_recipes.views.figures.layers.axes import LayerSeries, after_token_label, find_series
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import probability, prompt_end

MAX_TOKENS = 10

MIN_ROWS = 7  # so many rows high is the shortest map that has room for its colour bar's title
ROW_HEIGHT = 30  # pixels
MARGIN_LEFT = 150  # pixels for the names
MARGIN_BELOW = 60  # pixels
TITLE_GAP = 14  # pixels below the title
LABEL_GAP = 6  # pixels between a name and its cells
BAR_LEFT = 1.02  # of the width of the cells
BAR_TITLE_HEIGHT = 50  # pixels
MAX_LABELS = 30  # along the axis of layers


# It stands above the colour bar, and not at its side, where plotly writes it over the numbers.
_BAR_TITLE = {
    "text": "probability<br>(log scale)",
    "align": "left",
    "x": BAR_LEFT,
    "xref": "paper",
    "xanchor": "left",
    "y": 1,
    "yref": "paper",
    "yanchor": "top",
    "showarrow": False,
}


class _TrackedTokens(NamedTuple):
    """The tracked tokens that are drawn, the most likely at the last layer first.

    Attributes:
        single: The result of one prompt.
        token: The token after which they are predicted, an index.
        series: The layers.
        token_ids: Of the tracked tokens, `[row]`.
        logprobs: In nats, `[row, layer]`.
    """

    single: LensArrays
    token: int
    series: LayerSeries
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float64]

    @property
    def names(self) -> list[str]:
        """The text of each token, with the id where another one looks the same."""
        return [
            self.single.name(token_id, self.token_ids, show=plotly_safe)
            for token_id in self.token_ids
        ]

    @property
    def are_the_top(self) -> bool:
        """Whether these are the tokens that the last layer ranks highest."""
        top_ids = self.single.top_ids[self.series.site_indices[-1], self.token, :MAX_TOKENS]
        return len(self.token_ids) == MAX_TOKENS and set(top_ids) <= set(self.token_ids)


def top_tokens(
    result: LensArrays,
    position: int = -1,
    *,
    prompt: int = 0,
    component: str | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw the top tokens of the last layer read × layers, coloured by their probability.

    The colours are logarithmic. Only tracked tokens have a number at every layer: with
    `track="top1"`, those that were top-1 somewhere; with `track=10`, the ten that the last layer
    ranks highest, which this figure is made for. The most likely token comes first. Grey layers
    cannot be read with this lens (`result.readable`).

    Args:
        result: A lens result with tracked tokens.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only component that was
            read.
        title: Replaces the figure's own.
        show_all: Give what cannot be read its colour, too.

    Raises:
        ValueError: nothing was tracked, or a token or component that was not read.

    Example:
        >>> top_tokens(logit_lens(model, "The capital of France is", track=10)).show()
    """
    series = find_series(result, component)
    single = result[prompt]
    token = token_index(len(single.tokens), position, "position")
    tracked = _choose_tokens(single, token, series)
    title = _title(tracked) if title is None else escape_plotly(title)
    n_layers = len(series.layers)
    readable = single.readable[series.site_indices, token] | show_all
    warning = "" if readable.all() else f"grey: {unreadable_sentence(single, [token])}"
    title_texts = figure_title(
        single,
        title,
        _subtitle(tracked),
        prompt=prompt_end(single.prompts[0], 90),
        warning=warning,
        tokens=[token],
    )
    margin_above = title_height(title_texts) + TITLE_GAP
    height = margin_above + _cells_height(len(tracked.token_ids)) + MARGIN_BELOW
    figure = Figure(_cells(tracked, readable))
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(title_texts, height),
        width=min(max(760, 260 + 26 * n_layers), 1600),
        height=height,
        margin={"l": MARGIN_LEFT, "r": 20, "t": margin_above, "b": MARGIN_BELOW},
        font=FONT,
        annotations=[_BAR_TITLE],
    )
    figure.update_xaxes(
        title_text=series.title, **_layer_ticks(series.layers), showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(tracked.token_ids))),
        ticktext=tracked.names,
        ticklabelstandoff=LABEL_GAP,
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    return figure


def _cells_height(n_rows: int) -> int:
    """Return how many pixels so many rows are high."""
    return ROW_HEIGHT * max(n_rows, MIN_ROWS)


def _choose_tokens(single: LensArrays, token: int, series: LayerSeries) -> _TrackedTokens:
    """Return the tracked tokens that the last layer ranks highest after one token.

    Raises:
        ValueError: no token was tracked there.
    """
    columns = np.flatnonzero(single.tracked_ids[token] >= 0)
    if not len(columns):
        raise ValueError("no token was tracked (track=None): run the recipe with track=10.")
    last_logprobs = single.tracked_logprobs[series.site_indices[-1], token, columns]
    order = np.argsort(-last_logprobs, kind="stable")
    columns = columns[order][:MAX_TOKENS]
    logprobs = single.tracked_logprobs[series.site_indices, token][:, columns]
    return _TrackedTokens(
        single=single,
        token=token,
        series=series,
        token_ids=single.tracked_ids[token, columns],
        logprobs=logprobs.T.astype(np.float64),
    )


# -- cells -------------------------------------------------------------


def _cells(tracked: _TrackedTokens, readable: NDArray[np.bool_]) -> list[Any]:
    """Return the cells `[token, layer]`, those of the layers that can be read coloured."""
    n_rows, n_layers = tracked.logprobs.shape
    vocab = vocab_size(tracked.single)
    powers = list(range(int(math.log10(vocab)) + 1))
    colored = go.Heatmap(
        z=np.where(readable, tracked.logprobs / math.log(10), np.nan),
        x=list(range(n_layers)),
        y=list(range(n_rows)),
        customdata=_hover(tracked),
        hovertemplate=HOVER_TEMPLATE,
        colorscale=colorscale("logprob"),
        # A layer that knows nothing gives each token 1 / vocab; less than that is as dark.
        zmin=-math.log10(vocab),
        zmax=0,
        colorbar={
            "x": BAR_LEFT,
            "y": 0,
            "yanchor": "bottom",
            "ypad": 0,
            "lenmode": "pixels",
            "len": _cells_height(n_rows) - BAR_TITLE_HEIGHT,
            "thickness": 18,
            "tickvals": [*(-power for power in powers[:-1]), -math.log10(vocab)],
            "ticktext": [*(f"{10**-power:g}" for power in powers[:-1]), f"≤ {1 / vocab:.0e}"],
        },
        xgap=1,
        ygap=1,
    )
    if readable.all():
        return [colored]
    return [colored, unreadable_cells(np.broadcast_to(readable, (n_rows, n_layers)))]


def _hover(tracked: _TrackedTokens) -> list[list[str]]:
    """Return what each cell says, `[token, layer]`."""
    token_label = after_token_label(tracked.single, tracked.token)
    hover = []
    for name, logprobs in zip(tracked.names, tracked.logprobs, strict=True):
        row_texts = []
        for layer, logprob in zip(tracked.series.layers, logprobs, strict=True):
            lines = [
                f"<b>{name}</b>",
                f"layer {layer}",
                f"probability {probability(logprob)}",
                token_label,
            ]
            row_texts.append("<br>".join(lines))
        hover.append(row_texts)
    return hover


def _layer_ticks(layers: list[int]) -> dict[str, Any]:
    """Return the ticks of the columns: every n-th layer counted from the last."""
    last_column = len(layers) - 1
    step = math.ceil(len(layers) / MAX_LABELS)
    columns = list(range(last_column, -1, -step))[::-1]
    return {"tickvals": columns, "ticktext": [str(layers[column]) for column in columns]}


# -- title -------------------------------------------------------------


def _title(tracked: _TrackedTokens) -> str:
    """Return a title that claims no more than the tracked tokens allow."""
    last_layer = f"layer {tracked.series.layers[-1]}"
    if tracked.are_the_top:
        return f"The top tokens of {last_layer} through the layers"
    return f"The tracked tokens that {last_layer} ranks highest, through the layers"


def _subtitle(tracked: _TrackedTokens) -> str:
    """Return the token that was read and, where tokens may be missing, how to get them."""
    token_label = after_token_label(tracked.single, tracked.token)
    # `track=10` is enough even where these are not the top tokens: the model's last layer, whose
    # top tokens are tracked, may not be among the layers that were read.
    track = tracked.single.provenance.get("arguments", {}).get("track")
    tracked_enough = isinstance(track, int) and track >= MAX_TOKENS
    if tracked.are_the_top or tracked_enough:
        return token_label
    hint = f"only tokens that were tracked: run with track={MAX_TOKENS} for the top ten"
    return f"{token_label}<br>{hint}"
