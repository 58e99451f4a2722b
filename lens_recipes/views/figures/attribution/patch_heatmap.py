"""The map of what each copied cell brings along: `patch_heatmap()`."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.arrays.metrics import DIVERGING
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.attribution.maps import (
    COLOR_BAR_WIDTH,
    COLUMN_WIDTH,
    LOW_ROW_HEIGHT,
    MAX_LABELS,
    MAX_WIDTH,
    MIN_BODY_HEIGHT,
    MIN_WIDTH,
    ROW_HEIGHT,
    TITLE_LETTER_WIDTH,
)
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    quoted,
    title_height,
    title_layout,
)
from lens_recipes.views.figures.base.token_axis import label_angle
from lens_recipes.views.words import minus, prompt_end

CANNOT = "#d9d9d9"  # of a cell that can do nothing
CANNOT_COLORS = [[0, CANNOT], [1, CANNOT]]

# Numbers stand in cells that recover so much, or where these are too many in the largest.
WRITTEN_FROM, MAX_WRITTEN, LARGEST_WRITTEN = 0.05, 120, 10
LABEL_LETTERS = 10  # of a token below a column
SMALLEST_LIMIT = 0.01  # of the scale, in recovery
LINE_LETTER_WIDTH = 6.2  # pixels of a letter below the title

# All of these are in pixels.
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_BELOW, TITLE_GAP = 70, 30, 90, 14
TOKEN_COLUMN_WIDTH = 66


def patch_heatmap(result: PatchMapArrays, *, title: str | None = None) -> go.Figure:
    """Draw layers × positions, heads or components, coloured by the mean recovery of each cell.

    White is no effect; full colour is the largest of the map, which the scale names. A grey cell
    can do nothing: nothing reads it, or it is the same in both runs. A hover has the interval over
    pairs, both baselines, and the share of pairs that the cell flips.

    Args:
        result: What `patch_map` returns.
        title: In place of the figure's own.

    Raises:
        TypeError: something else than a patch map.

    Example:
        >>> patch_heatmap(patch_map(model, clean, corrupt, " Paris", " Madrid")).show()
    """
    if not isinstance(result, PatchMapArrays):
        raise TypeError(
            f"received {type(result).__name__}, expected PatchMap: what patch_map() returns."
        )
    text = default_title(result) if title is None else escape_plotly(title)
    figure = Figure([recovery_trace(result), cannot_trace(result)])
    set_axes(figure, result)
    set_layout(figure, result, text)
    return figure


def default_title(result: PatchMapArrays) -> str:
    """Return what the figure shows, in a line."""
    unit = escape_plotly(result.unit)
    if result.direction == "denoise":
        words = f"{unit}: what each cell of the clean run brings back"
    else:
        words = f"{unit}: what is lost with each cell of the corrupt run"
    return words


# -- cells -------------------------------------------------------------


def recovery_trace(result: PatchMapArrays) -> go.Heatmap:
    """Return the cells that can do something, on a scale that is the same to both sides of zero."""
    shown = np.where(result.is_causal & np.isfinite(result.mean), result.mean, np.nan)
    limit = max(float(np.nanmax(np.abs(shown), initial=0)), SMALLEST_LIMIT)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    n_rows, n_columns = shown.shape
    return go.Heatmap(
        z=shown,
        x=list(range(n_columns)),
        y=list(range(n_rows)),
        text=largest_numbers(result),
        texttemplate="%{text}",
        textfont={"size": 10},
        customdata=hovers(result),
        hovertemplate=HOVER_TEMPLATE,
        hoverongaps=False,
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        colorbar={
            "title": {"text": "recovery", "side": "right"},
            "tickvals": ticks,
            "ticktext": [minus(f"{tick:.2f}") for tick in ticks],
            "thickness": 18,
            "ypad": 0,
        },
        xgap=1,
        ygap=1,
    )


def cannot_trace(result: PatchMapArrays) -> go.Heatmap:
    """Return the cells that can do nothing, in grey."""
    is_cell = np.isfinite(result.mean)
    cannot = np.where(is_cell & ~result.is_causal, 1.0, np.nan)
    n_rows, n_columns = cannot.shape
    return go.Heatmap(
        z=cannot,
        x=list(range(n_columns)),
        y=list(range(n_rows)),
        customdata=hovers(result),
        hovertemplate=HOVER_TEMPLATE,
        hoverongaps=False,
        colorscale=CANNOT_COLORS,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=1,
    )


def largest_numbers(result: PatchMapArrays) -> list[list[str]]:
    """Return the numbers of the largest cells as text, `[row, column]`; other cells are empty."""
    texts = np.full(result.mean.shape, "", dtype=object)
    n_large = int((result.is_causal & (np.abs(result.mean) >= WRITTEN_FROM)).sum())
    n_written = n_large if LARGEST_WRITTEN < n_large <= MAX_WRITTEN else LARGEST_WRITTEN
    for row, column in result.largest(n_written):
        texts[row, column] = minus(f"{result.mean[row, column]:.2f}")
    return texts.tolist()


def hovers(result: PatchMapArrays) -> list[list[str]]:
    """Return what each cell says, `[row, column]`."""
    baselines = baseline_line(result)
    rows = []
    for row in range(len(result.layers)):
        texts = []
        for column in range(len(result.columns)):
            texts.append("<br>".join([*cell_lines(result, row, column), baselines]))
        rows.append(texts)
    return rows


def cell_lines(result: PatchMapArrays, row: int, column: int) -> list[str]:
    """Return the lines about one cell."""
    recovery = result.mean[row, column]
    lines = [f"<b>{escape_plotly(result.cell_name(row, column))}</b>"]
    if math.isnan(recovery):
        return lines
    if not result.is_causal[row, column]:
        lines.append("can do nothing: nothing reads it, or it is the same in both runs")
    approximately = "about " if result.is_approximate else ""
    lines.append(f"recovery {approximately}{minus(f'{recovery:+.3f}')}")
    low, high = result.interval.low[row, column], result.interval.high[row, column]
    if not math.isnan(low):
        interval = minus(f"{low:+.3f} to {high:+.3f}")
        error = f"{result.standard_error[row, column]:.3f}"
        lines.append(f"95 % interval {interval}, standard error {error}, {len(result)} pairs")
    else:
        patched = minus(f"{result.values[:, row, column].mean():+.3f}")
        lines.append(f"{result.metric} {patched}")
    flipped = result.flipped[row, column]
    if not math.isnan(flipped):
        lines.append(f"flips the answer in {flipped:.0%} of the pairs")
    return lines


def baseline_line(result: PatchMapArrays) -> str:
    """Return what the metric is in both runs as they are."""
    numbers = minus(f"{result.clean.mean():+.2f} clean, {result.corrupt.mean():+.2f} corrupt")
    of_pairs = "" if len(result) == 1 else f", mean of {len(result)} pairs"
    return f"{escape_plotly(result.metric)}: {numbers}{of_pairs}"


# -- around the cells --------------------------------------------------


def set_axes(figure: go.Figure, result: PatchMapArrays) -> None:
    """Name rows and columns: every n-th layer counted from the last, which always has its label."""
    n_rows, n_columns = result.mean.shape
    rows = list(range(n_rows - 1, -1, -math.ceil(n_rows / MAX_LABELS)))
    figure.update_yaxes(
        title_text="layer",
        tickvals=rows,
        ticktext=[str(result.layers[row]) for row in rows],
        showgrid=False,
        zeroline=False,
        ticklabelstandoff=4,
    )
    step = math.ceil(n_columns / MAX_LABELS)
    columns = list(range(0, n_columns, step))
    figure.update_xaxes(
        title_text=column_title(result),
        tickvals=columns,
        ticktext=[column_label(result, column) for column in columns],
        tickangle=label_angle(n_columns),
        range=[-0.5, n_columns - 0.5],
        showgrid=False,
        zeroline=False,
    )


def column_title(result: PatchMapArrays) -> str:
    """Return what the columns are."""
    if result.unit == "head_out":
        return "head"
    if result.unit == "layer_component":
        return "component"
    is_corrupt = result.direction == "denoise"
    return f"token of the {'corrupt' if is_corrupt else 'clean'} prompt that is patched"


def column_label(result: PatchMapArrays, column: int) -> str:
    """Return the name of a column, with its tokens: the corrupt one below the clean one."""
    name = escape_plotly(result.columns[column])
    if not result.column_tokens or not any(result.column_tokens[column]):
        return name
    clean, corrupt = result.column_tokens[column]
    shown = plotly_safe(clean, LABEL_LETTERS)
    if len(result.columns) > 24:  # turned labels are one line
        return shown
    if corrupt != clean:
        shown += f"<br>→{plotly_safe(corrupt, LABEL_LETTERS)}"
    return f"{shown}<br><sub>{name}</sub>"


def set_layout(figure: go.Figure, result: PatchMapArrays, text: str) -> None:
    """Set size and title, with prompts, baselines and the model below it."""
    n_rows, n_columns = result.mean.shape
    has_tokens = any(any(pair) for pair in result.column_tokens)
    column_width = TOKEN_COLUMN_WIDTH if has_tokens and n_columns <= 24 else COLUMN_WIDTH
    if n_columns > 24:
        column_width = 24
    beside = MARGIN_LEFT + MARGIN_RIGHT + COLOR_BAR_WIDTH
    lines = subtitle_lines(result)
    longest = max(len(html.unescape(line)) for line in lines)
    needed = max(
        MARGIN_RIGHT + TITLE_LETTER_WIDTH * len(html.unescape(text)),
        round(MARGIN_RIGHT + LINE_LETTER_WIDTH * longest),
        beside + column_width * n_columns,
    )
    width = min(max(MIN_WIDTH, needed), MAX_WIDTH)
    row_height = ROW_HEIGHT if n_rows <= MAX_LABELS else LOW_ROW_HEIGHT
    texts: dict[str, Any] = title_layout(text, "<br>".join(lines))
    above = title_height(texts) + TITLE_GAP
    height = above + max(row_height * n_rows, MIN_BODY_HEIGHT) + MARGIN_BELOW
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(texts, height),
        margin={"l": MARGIN_LEFT, "r": MARGIN_RIGHT, "t": above, "b": MARGIN_BELOW},
        font=FONT,
        width=width,
        height=height,
        hoverlabel={"align": "left"},
    )


def subtitle_lines(result: PatchMapArrays) -> list[str]:
    """Return the lines below the title: what was patched into what, the baselines, the model."""
    lines = []
    if len(result) == 1:
        clean = quoted(prompt_end(result.clean_prompts[0], 50))
        corrupt = quoted(prompt_end(result.corrupt_prompts[0], 50))
        if result.direction == "denoise":
            lines.append(f"{clean} into {corrupt}")
        else:
            lines.append(f"{corrupt} into {clean}")
        answers = f"{plotly_safe(result.targets[0])} against {plotly_safe(result.againsts[0])}"
        lines.append(f"{answers}, {baseline_line(result)}")
    else:
        left = len(result.left_out)
        words = f", {left} left out" if left else ""
        lines.append(f"{baseline_line(result)}{words}")
    model = escape_plotly(str(result.provenance.get("model", "model")))
    parts = [model]
    if (np.isfinite(result.mean) & ~result.is_causal).any():
        parts.append("grey: can do nothing")
    line = ", ".join(parts)
    if result.mark:
        line += f" <b>{escape_plotly(result.mark)}</b>"
    lines.append(line)
    return lines
