"""The names above the lines of `rank_flow`, turned if they have no room to stand level."""

from __future__ import annotations

import html
import math
import unicodedata
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe

LETTER_WIDTH = 8  # pixels
WIDE_LETTER_WIDTH = 14  # pixels of a letter that is as wide as high, such as a Chinese one
LINE_HEIGHT = 17  # pixels
NAME_GAP = 12  # pixels between two level names, and between names and the title

# Pixels from one name to the next if they are turned.
SLANTED_GAP = 24
UPRIGHT_GAP = 16

# Angles in degrees.
LEVEL = 0
SLANTED = -45
UPRIGHT = -90

SLANTED_SHIFT = -8  # pixels from the middle of a layer to where a slanted name begins


class TopNames(NamedTuple):
    """The names above the lines.

    Attributes:
        annotations: One for each name, for a plotly layout.
        height: That they take, in pixels.
    """

    annotations: list[dict[str, Any]]
    height: int


def name_new_tops(
    single: LensArrays, top_ids: NDArray[np.int32], layers: list[int], pixels_per_layer: float
) -> TopNames:
    """Return the names of the tokens that become top-1, each above the layer where it does.

    A name is left out if the one before it leaves no room even for an upright name; the hover of
    its point has it.

    Args:
        single: The result of one prompt.
        top_ids: The top-1 token of each layer, `[layer]`.
        layers: The numbers of the layers.
        pixels_per_layer: The distance between two layers that follow each other.
    """
    rows = _rows_with_new_top(top_ids, layers, pixels_per_layer)
    named_layers = [layers[row] for row in rows]
    texts = [plotly_safe(single.text(top_ids[row])) for row in rows]
    gaps = [pixels_per_layer * (after - before) for before, after in pairwise(named_layers)]
    angle = _choose_angle(texts, gaps)
    annotations = []
    for layer, text in zip(named_layers, texts, strict=True):
        annotation = {
            "x": layer,
            "y": -0.5,
            "text": text,
            "textangle": angle,
            "showarrow": False,
            "yanchor": "bottom",
            "yshift": 4,
            "xanchor": "center",
        }
        if angle == SLANTED:
            annotation |= {"xanchor": "left", "xshift": SLANTED_SHIFT}
        annotations.append(annotation)
    return TopNames(annotations, _height(texts, angle) + NAME_GAP)


def _rows_with_new_top(
    top_ids: NDArray[np.int32], layers: list[int], pixels_per_layer: float
) -> list[int]:
    """Return the rows whose top-1 is another than in the row before, and has room for its name."""
    rows = [0]
    for row in range(1, len(top_ids)):
        gap = pixels_per_layer * (layers[row] - layers[rows[-1]])
        if top_ids[row] != top_ids[row - 1] and gap >= UPRIGHT_GAP:
            rows.append(row)
    return rows


def _choose_angle(texts: list[str], gaps: list[float]) -> int:
    """Return the angle of all names: level if all fit so, else slanted, else upright.

    Args:
        texts: The names, in plotly's markup.
        gaps: Pixels between the middle of each name and that of the next.
    """
    widths = [name_width(text) for text in texts]
    neighbours = pairwise(widths)
    fits = [
        (before + after) / 2 + NAME_GAP <= gap
        for (before, after), gap in zip(neighbours, gaps, strict=True)
    ]
    if all(fits):
        return LEVEL
    return SLANTED if min(gaps) >= SLANTED_GAP else UPRIGHT


def _height(texts: list[str], angle: int) -> int:
    """Return how many pixels names take above the lines at an angle."""
    longest = max(name_width(text) for text in texts)
    if angle == LEVEL:
        return LINE_HEIGHT
    if angle == UPRIGHT:
        return longest
    return math.ceil((longest + LINE_HEIGHT) * math.sin(math.radians(45)))


def name_width(text: str) -> int:
    """Return about how many pixels a text in plotly's markup is wide."""
    width = 0
    for letter in html.unescape(text):
        is_wide = unicodedata.east_asian_width(letter) in ("W", "F")
        width += WIDE_LETTER_WIDTH if is_wide else LETTER_WIDTH
    return width
