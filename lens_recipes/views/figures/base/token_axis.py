"""An axis of tokens whose labels can be read, however many columns it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lens_recipes.arrays.text import plotly_safe

MAX_UPRIGHT = 24  # labels stand upright up to this number of columns, and are turned beyond it
LABEL_WIDTH = 15  # pixels that a turned label takes, and a column without words


def token_ticks(
    columns: Sequence[tuple[str, ...]], numbers: Sequence[int] | None, title: str, width: int
) -> dict[str, Any]:
    """Return a plotly axis with a label at every n-th column, as many as have room.

    Args:
        columns: The texts of each column; a column may stand for several tokens.
        numbers: A small number below each label, where labels stand upright; None for no numbers.
        title: Of the axis.
        width: Of all columns together, in pixels.
    """
    labels = token_labels(columns, numbers)
    step = max(1, math.ceil(LABEL_WIDTH * len(labels) / width))
    return {
        "title_text": title,
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": labels[::step],
        "tickangle": label_angle(len(labels)),
    }


def token_labels(columns: Sequence[tuple[str, ...]], numbers: Sequence[int] | None) -> list[str]:
    """Return the label of each column; its texts stand one below the other if it is upright."""
    upright = len(columns) <= MAX_UPRIGHT
    separator = "<br>" if upright else " | "
    labels = [separator.join(map(plotly_safe, texts)) for texts in columns]
    if not upright or numbers is None:
        return labels
    return [
        f"{label}<br><sub>{number}</sub>" for label, number in zip(labels, numbers, strict=True)
    ]


def label_angle(n_columns: int) -> int:
    """Return by how many degrees the labels of so many columns are turned."""
    return 0 if n_columns <= MAX_UPRIGHT else 90
