"""Frames round cells of a map, visible on every colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BORDER = 0.04  # columns of space round the cells, so that no frame is cut off


class CellRun(NamedTuple):
    """Cells above each other in one column, from `first_row` to `last_row`."""

    column: float
    first_row: float
    last_row: float


def find_runs(marked: NDArray[np.bool_]) -> list[CellRun]:
    """Return the marked cells of a map `[row, column]`, those above each other as one run."""
    runs = []
    for column, cells in enumerate(marked.T):
        # A run starts where the difference is 1, and ends before the place where it is -1.
        steps = np.diff(np.concatenate([[0], cells.astype(int), [0]]))
        edges = np.flatnonzero(steps).reshape(-1, 2).tolist()
        for first_row, row_after in edges:
            runs.append(CellRun(column, first_row, row_after - 1))
    return runs


def outline_traces(runs: Iterable[CellRun], name: str, width: float = 2) -> list[dict[str, Any]]:
    """Return a frame round each run, a black line on a wider white one, and its legend.

    Args:
        runs: The cells to frame.
        name: The entry of the legend.
        width: Of the black line, in pixels.
    """
    x_points: list[float | None] = []
    y_points: list[float | None] = []
    for run in runs:
        left, right = run.column - 0.5, run.column + 0.5
        bottom, top = run.first_row - 0.5, run.last_row + 0.5
        x_points += [left, right, right, left, left, None]
        y_points += [bottom, bottom, top, top, bottom, None]
    frame = {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "skip",
        "name": name,
        "legendgroup": name,
        "x": x_points,
        "y": y_points,
    }
    white_line = {"color": "white", "width": width + 3}
    black_line = {"color": "black", "width": width}
    legend_entry = {
        "type": "scatter",
        "mode": "markers",
        "marker": {"symbol": "square-open", "size": 12, "color": "black", "line": {"width": width}},
        "hoverinfo": "skip",
        "name": name,
        "legendgroup": name,
        "x": [None],
        "y": [None],
        "showlegend": True,
    }
    return [
        frame | {"line": white_line, "showlegend": False},
        frame | {"line": black_line, "showlegend": False},
        legend_entry,
    ]
