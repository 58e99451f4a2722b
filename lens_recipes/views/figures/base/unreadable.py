"""Grey for what cannot be read: cells of a map, and bands behind lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.views.figures.base.contrast import words_trace

GREY = "#d9d9d9"
GREY_INK = "#5e5e5e"  # of words on it; the contrast is 4.6 to 1


def unreadable_cells(
    readable: NDArray[np.bool_], words: list[list[str]] | None = None, **properties: Any
) -> dict[str, Any]:
    """Return a trace that fills the cells `[row, column]` that cannot be read with grey.

    It stands below the coloured cells, which have no number there and say in their hover what the
    lens says all the same.

    Args:
        readable: Which cells have a colour, `[row, column]`.
        words: Of all cells; those of the grey ones are written here, and dimmed.
        properties: Of the trace, in place of its own, such as where the cells stand.
    """
    cells: dict[str, Any] = {
        "type": "heatmap",
        "name": "unreadable",
        "z": np.where(readable, np.nan, 1.0),
        "x": list(range(readable.shape[1])),
        "y": list(range(readable.shape[0])),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, GREY], [1, GREY]],
        "showscale": False,
        "hoverinfo": "skip",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    if words is not None:
        cells |= words_trace(words, ~readable, GREY_INK)
    return cells | properties
