"""`heatmap(kind="prompts")`: prompts × layers, after one token of each prompt."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import vocab_size
from lens_recipes.arrays.sites import are_vectors, main_component
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.color import color_axis
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.outline import BORDER, find_runs, outline_traces
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    LEGEND,
    at_the_top,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.unreadable import GREY
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.figures.prompts.rows import PromptRows
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import lens_title, quantity

COLUMN_WIDTH, ROW_HEIGHT = 22, 24  # pixels; many rows are lower
MIN_MAP_WIDTH, MIN_MAP_HEIGHT, MAX_MAP_HEIGHT = 420, 160, 1500  # pixels

LETTER_WIDTH, LABEL_HEIGHT = 7, 15  # pixels
COLOR_BAR_WIDTH, COLOR_BAR_HEIGHT = 110, 380  # pixels
LEGEND_SPACE, MARGIN_BOTTOM = 34, 60  # pixels

QUIET = {"showgrid": False, "zeroline": False}  # an axis without lines


def prompt_map(result: LensArrays, view: View, position: int) -> go.Figure:
    """Draw prompts × layers. See `heatmap`.

    Raises:
        ValueError: vectors, which have no layers; or as for `heatmap`.
    """
    if are_vectors(result.sites):
        raise ValueError(
            'kind="prompts" draws layers, and vectors have none: leave `kind` out, or use table().'
        )
    rows = PromptRows(result, view, position)
    n_rows, n_columns = rows.readable.shape
    prompts, answers = list(rows.prompt_labels()), list(rows.answer_labels())
    map_width = max(MIN_MAP_WIDTH, COLUMN_WIDTH * n_columns)
    map_height = max(MIN_MAP_HEIGHT, min(ROW_HEIGHT * n_rows, MAX_MAP_HEIGHT))
    row_height = map_height / n_rows
    margin_left = _label_width(prompts) + 20
    answer_width = _label_width([*answers, "answer"]) + 20
    color_bar = {
        "x": 1 + answer_width / map_width,
        "xanchor": "left",
        "lenmode": "pixels",
        "len": min(map_height, COLOR_BAR_HEIGHT),
        "y": 1,
        "yanchor": "top",
    }
    figure = Figure(_traces(rows, color_bar, framed=row_height >= LABEL_HEIGHT))
    title = _title(rows, position)
    margin_top = title_height(title) + LEGEND_SPACE
    height = margin_top + map_height + MARGIN_BOTTOM
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(title, height),
        width=margin_left + map_width + answer_width + COLOR_BAR_WIDTH,
        height=height,
        margin={
            "l": margin_left,
            "r": answer_width + COLOR_BAR_WIDTH,
            "t": margin_top,
            "b": MARGIN_BOTTOM,
        },
        font=FONT,
        plot_bgcolor=GREY,
        legend=LEGEND,
        xaxis=_column_axis(rows, map_width / n_columns),
    )
    _name_rows(figure, prompts, answers, row_height)
    return figure


def default_component(result: LensArrays, sites: Any, component: str | None) -> str | None:
    """Return the component whose sites are columns: the main one, where nothing is named."""
    if sites is None and component is None:
        return main_component(result.sites)
    return component


def _title(rows: PromptRows, position: int) -> dict[str, Any]:
    """Return the title, which tokens the map is about, and which layers cannot be read."""
    text = rows.view.title_or(f"{lens_title(rows.result)}: {escape_plotly(rows.value_label)}")
    which = "the last token" if position == -1 else f"token {position} of those"
    each = "each of " if len(rows.rows) > 1 else ""
    place = f"after {which} read of {each}{quantity(len(rows.rows), 'prompt')}"
    warning = ""
    tokens = [row.token for row in rows.rows]
    if not rows.readable.all():
        warning = f"grey: {unreadable_sentence(rows.result, tokens)}"
    return figure_title(rows.result, text, place, warning=warning, tokens=tokens)


# -- cells -------------------------------------------------------------


def _traces(rows: PromptRows, color_bar: dict[str, Any], *, framed: bool) -> list[dict[str, Any]]:
    """Return the cells, and frames round those whose top-1 is the token that is followed.

    Args:
        rows: What is shown.
        color_bar: Where the colour bar stands.
        framed: Whether the rows are high enough for frames.
    """
    axis = color_axis(rows.view.metric, rows.values, vocab_size(rows.result))
    title = {"text": escape_plotly(rows.value_label), "side": "right"}
    n_rows, n_columns = rows.readable.shape
    cells = {
        "type": "heatmap",
        "z": np.where(rows.readable, axis.values, np.nan),
        "x": list(range(n_columns)),
        "y": list(range(n_rows)),
        "customdata": rows.hover(),
        "hovertemplate": HOVER_TEMPLATE,
        "hoverongaps": True,
        "colorscale": rows.view.colorscale(),
        "colorbar": {"title": title, **color_bar, **axis.bar},
        "xgap": 1,
        "ygap": 1 if framed else 0,
        **axis.limits,
    }
    # The axis on the right needs a trace: plotly would leave it out.
    answers = {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "yaxis": "y2",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    if not framed:
        return [cells, answers]
    return [cells, *_frames(rows), answers]


def _frames(rows: PromptRows) -> list[dict[str, Any]]:
    """Return frames round the cells whose top-1 is followed, those beside each other as one."""
    frames = outline_traces(find_runs(rows.is_top.T), f"top-1 is {rows.followed}", width=1)
    return [frame | {"x": frame["y"], "y": frame["x"]} for frame in frames]


# -- axes --------------------------------------------------------------


def _column_axis(rows: PromptRows, column_width: float) -> dict[str, Any]:
    """Return the axis below the map; where not all names have room, the last one has."""
    labels = rows.column_labels
    n_columns = len(labels)
    widest = _label_width(labels) + LETTER_WIDTH
    shown = list(range(n_columns - 1, -1, -max(1, math.ceil(widest / column_width))))
    return {
        "title_text": rows.column_title,
        "tickvals": shown,
        "ticktext": [labels[column] for column in shown],
        "tickangle": 0,
        "range": [-0.5 - BORDER, n_columns - 0.5 + BORDER],
        **QUIET,
    }


def _name_rows(
    figure: go.Figure, prompts: list[str], answers: list[str], row_height: float
) -> None:
    """Write the prompts on the left, and the model's answers on the right."""
    n_rows = len(prompts)
    shown = list(range(0, n_rows, max(1, math.ceil(LABEL_HEIGHT / row_height))))
    shared = {
        "tickvals": shown,
        "ticklabelstandoff": 4,
        "range": [n_rows - 0.5 + BORDER, -0.5 - BORDER],
        **QUIET,
    }
    right = {"overlaying": "y", "side": "right"}
    figure.update_layout(
        yaxis={"ticktext": [prompts[row] for row in shown], **shared},
        yaxis2={"ticktext": [answers[row] for row in shown], **shared, **right},
    )
    figure.add_annotation(
        text="answer",
        x=1,
        xref="paper",
        xanchor="left",
        xshift=6,
        y=1,
        yref="paper",
        yanchor="bottom",
        showarrow=False,
    )


def _label_width(labels: Sequence[str]) -> int:
    """Return how many pixels the longest of some labels takes."""
    plain = [html.unescape(label).replace("<b>", "").replace("</b>", "") for label in labels]
    return LETTER_WIDTH * max(len(label) for label in plain)
