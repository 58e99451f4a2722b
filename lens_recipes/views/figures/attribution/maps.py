"""Maps of what the heads add to one logit: `head_grid()` and `source_map()`."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.metrics import DIVERGING
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.attribution.logit import (
    MARGIN_LEFT,
    MARGIN_RIGHT,
    ExplainedLogit,
    exact,
    find_logit,
    finite_values,
    set_layout,
)
from lens_recipes.views.figures.attribution.numbers import LogitFormat
from lens_recipes.views.figures.base.cells import hover_token
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import HOVER_TEMPLATE, check_result_kind
from lens_recipes.views.figures.base.token_axis import label_angle, token_labels
from lens_recipes.views.groups import source_groups

ABSENT = "#d9d9d9"  # behind the map, where there is no cell: not the white of a zero

MAX_NUMBERS = 10  # in the cells of a map
MAX_LABELS = 44  # along an axis of layers or heads
MAX_SOURCE_LABELS = 150  # along an axis of tokens

# All of these are in pixels.
COLUMN_WIDTH = 46
MIN_WIDTH = 460  # has room for the lines below the title
TITLE_LETTER_WIDTH = 9
MAX_WIDTH = 2400
COLOR_BAR_WIDTH = 95
ROW_HEIGHT = 18
LOW_ROW_HEIGHT = 14  # of a row, where not every one has its label
MIN_BODY_HEIGHT = 110  # has room for the five numbers of the colour bar

SMALLEST_LIMIT = 1e-6  # logits: a scale must have some extent even where all values are 0

Array = NDArray[np.floating[Any]]


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as NaN
def head_grid(
    result: AttributionArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    target: int = 0,
    title: str | None = None,
) -> go.Figure:
    """Draw layers × heads, coloured by what each head adds to one logit.

    A cell is grey where a layer has no such head. The arguments are those of `attribution_bars`.

    Raises:
        ValueError: the unit is neither "head" nor "token", or no such prompt, token or target.
    """
    check_result_kind(AttributionArrays, result)
    layers, values = result.grid(prompt, position, target)
    logit = find_logit(result, prompt, position, target)
    n_layers, n_heads = values.shape
    if title is None:
        title = f"{logit.target_name}: what each head adds, in logits"
    else:
        title = escape_plotly(title)
    numbers = LogitFormat.fit(values)
    figure = Figure(_map_trace(values, numbers, _head_hover(logit.single, layers, values)))
    set_layout(
        figure,
        logit,
        title,
        numbers,
        note=f"all heads: {numbers.write(np.nansum(values))}{_edits(logit, numbers)}",
        width=_width(n_heads, title),
        body_height=_body_height(n_layers),
    )
    _set_layer_axis(figure, layers)
    heads = range(0, n_heads, math.ceil(n_heads / MAX_LABELS))
    figure.update_xaxes(
        title_text="head", tickvals=list(heads), ticktext=[str(head) for head in heads], tickangle=0
    )
    return figure


def _edits(logit: ExplainedLogit, numbers: LogitFormat) -> str:
    """Return what edits add, which no cell shows, after what the cells add; empty for none."""
    is_edit = np.array([part.component == "edit" for part in logit.single.parts])
    if not is_edit.any():
        return ""
    return f"; edits: {numbers.write(logit.values[is_edit].sum())}"


def _head_hover(single: AttributionArrays, layers: list[int], values: Array) -> list[list[str]]:
    """Return what each cell says, `[layer, head]`: the value of a head and its place by size."""
    n_heads = values.shape[1]
    existing = {(part.layer, part.head) for part in single.parts if part.head is not None}
    hover = []
    cells = []
    for row, layer in enumerate(layers):
        hover.append([f"layer {layer} has no head {head}" for head in range(n_heads)])
        cells += [(row, head) for head in range(n_heads) if (layer, head) in existing]
    cell_values = np.array([values[cell] for cell in cells])
    for number, index in enumerate(by_size(cell_values), start=1):
        row, head = cells[index]
        lines = [
            f"<b>layer {layers[row]}, head {head}</b>",
            f"{exact(values[row, head])} logits",
            f"number {number} of {len(cells)} heads by size",
        ]
        hover[row][head] = "<br>".join(lines)
    return hover


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as NaN
def source_map(
    result: AttributionArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    target: int = 0,
    head: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw source tokens × layers, coloured by what heads read from a token and added to one logit.

    `head` takes that head of every layer; None sums over all of them. The other arguments are those
    of `attribution_bars`. The map leaves out what no head reads from a token (embedding, MLPs,
    biases); the subtitle says how much is in the map.

    Raises:
        ValueError: the unit is not "token", or no such head, prompt, token or target.
    """
    check_result_kind(AttributionArrays, result)
    if result.unit != "token":
        raise ValueError(
            f"unit={result.unit!r} does not tell source tokens apart: "
            'run the recipe with unit="token".'
        )
    logit = find_logit(result, prompt, position, target)
    _check_head(logit.single, head)
    layers, values = source_groups(logit.single, logit.values, head)
    n_sources = _count_sources(logit, values)
    values = values[:, :n_sources]
    texts = logit.single.sources[0][:n_sources]
    patches = _patch_names(logit.single)
    if title is None:
        readers = "all heads" if head is None else f"head {head} of each layer"
        title = f"{logit.target_name}: what {readers} read from each token, in logits"
    else:
        title = escape_plotly(title)
    numbers = LogitFormat.fit(values)
    figure = Figure(_map_trace(values, numbers, _source_hover(texts, patches, layers, values)))
    set_layout(
        figure,
        logit,
        title,
        numbers,
        note=f"in this map: {numbers.write(np.nansum(values))}{_edits(logit, numbers)}",
        width=_width(n_sources, title),
        body_height=_body_height(len(layers)),
    )
    _set_layer_axis(figure, layers)
    labels = token_labels([(text,) for text in texts], range(n_sources))
    labels = [patches.get(source, label) for source, label in enumerate(labels)]
    step = math.ceil(n_sources / MAX_SOURCE_LABELS)
    figure.update_xaxes(
        title_text="token that is read from",
        tickvals=list(range(0, n_sources, step)),
        ticktext=labels[::step],
        tickangle=label_angle(n_sources),
    )
    return figure


def _check_head(single: AttributionArrays, head: int | None) -> None:
    """Check that some layer of a result has a head; None stands for all heads.

    Raises:
        ValueError: no layer has it; the message lists the heads that read from tokens.
    """
    heads = set()
    for part in single.parts:
        if part.head is not None and part.source is not None:
            heads.add(part.head)
    if head is not None and head not in heads:
        accepted = ", ".join(map(str, sorted(heads))) or "none"
        raise ValueError(f"head={head} is not in this result: accepted are {accepted}.")


def _count_sources(logit: ExplainedLogit, values: Array) -> int:
    """Return how many tokens from the first on are columns: those up to the token that was read.

    A later token has a column only if something was read from it, which no decoder does.
    """
    has_heads = ~np.isnan(values).all(axis=1)
    was_read = (values[has_heads] != 0).any(axis=0)
    last = max([logit.single.tokens.position[logit.token], *np.flatnonzero(was_read)])
    return int(last) + 1


def _patch_names(single: AttributionArrays) -> dict[int, str]:
    """Return which tokens of a result of one prompt are patches of an image, as "patch 1, 2"."""
    names = {}
    for source, place in enumerate(single.places[0] if single.places else []):
        if place.row >= 0:
            names[source] = f"patch {place.row}, {place.column}"
    return names


def _source_hover(
    texts: list[str], patches: dict[int, str], layers: list[int], values: Array
) -> list[list[str]]:
    """Return what each cell says, `[layer, source]`."""
    hover = []
    for layer, layer_values in zip(layers, values, strict=True):
        row_texts = []
        for source, text in enumerate(texts):
            name = patches.get(source) or hover_token(text)
            place = f"<b>layer {layer}</b>, read from token {source}, {name}"
            row_texts.append(f"{place}<br>{exact(layer_values[source])} logits")
        hover.append(row_texts)
    return hover


# -- what both maps share ----------------------------------------------


def _map_trace(values: Array, numbers: LogitFormat, hover: list[list[str]]) -> go.Heatmap:
    """Return the cells `[row, column]` on a scale that is the same to both sides of a white zero.

    The largest cells have their numbers written in them, and both ends of the scale have theirs.
    """
    n_rows, n_columns = values.shape
    finite = finite_values(values)
    limit = max(float(np.nanmax(np.abs(finite), initial=0)), SMALLEST_LIMIT)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    return go.Heatmap(
        z=finite,
        x=list(range(n_columns)),
        y=list(range(n_rows)),
        text=_largest_numbers(values, numbers),
        texttemplate="%{text}",
        textfont={"size": 10},
        customdata=hover,
        hovertemplate=HOVER_TEMPLATE,
        hoverongaps=True,
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        colorbar={
            "tickvals": ticks,
            "ticktext": [numbers.write(tick) for tick in ticks],
            "thickness": 18,
            "ypad": 0,
        },
        xgap=1,
        ygap=1,
    )


def _largest_numbers(values: Array, numbers: LogitFormat) -> list[list[str]]:
    """Return the numbers of the largest cells as text, `[row, column]`; other cells are empty."""
    flat = values.reshape(-1)
    finite = finite_values(flat)
    texts = np.full(flat.size, "", dtype=object)
    for cell in by_size(np.nan_to_num(finite, nan=0))[:MAX_NUMBERS]:
        if finite[cell] != 0:
            texts[cell] = numbers.write(flat[cell])
    return texts.reshape(values.shape).tolist()


def _set_layer_axis(figure: go.Figure, layers: list[int]) -> None:
    """Name the rows: every n-th layer counted from the last, which always has its label."""
    rows = range(len(layers) - 1, -1, -math.ceil(len(layers) / MAX_LABELS))
    labels = [str(layers[row]) for row in rows]
    figure.update_yaxes(title_text="layer", tickvals=list(rows), ticktext=labels)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False, ticklabelstandoff=4)
    figure.update_layout(plot_bgcolor=ABSENT)


def _width(n_columns: int, title: str) -> int:
    """Return the width of a map of so many columns, in pixels: no wider than they and the title."""
    beside = MARGIN_LEFT + MARGIN_RIGHT + COLOR_BAR_WIDTH
    title_width = MARGIN_RIGHT + TITLE_LETTER_WIDTH * len(html.unescape(title))
    return min(max(MIN_WIDTH, title_width, beside + COLUMN_WIDTH * n_columns), MAX_WIDTH)


def _body_height(n_rows: int) -> int:
    """Return the height of the cells of so many rows, in pixels."""
    row_height = ROW_HEIGHT if n_rows <= MAX_LABELS else LOW_ROW_HEIGHT
    return max(row_height * n_rows, MIN_BODY_HEIGHT)
