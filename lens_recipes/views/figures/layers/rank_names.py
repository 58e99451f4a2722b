"""The names above the lines of `rank_flow`, turned if they have no room to stand level."""

from __future__ import annotations

import html
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe

LETTER_WIDTH = 8  # pixels
NAME_GAP = 12  # pixels between two level names

# Pixels from one name to the next if they are turned.
SLANTED_GAP = 22
UPRIGHT_GAP = 14

# Angles in degrees.
LEVEL = 0
SLANTED = -45
UPRIGHT = -90

NAME_HEIGHTS = {LEVEL: 25, SLANTED: 75, UPRIGHT: 95}  # pixels that names take, by their angle


def name_new_tops(
    single: LensArrays, top_ids: NDArray[np.int32], layers: list[int], pixels_per_layer: float
) -> list[dict[str, Any]]:
    """Return an annotation for each token that becomes top-1, where it does.

    A name is left out if the one before it leaves no room even for an upright name.

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
    annotations = []
    for layer, text, angle in zip(named_layers, texts, _name_angles(texts, gaps), strict=True):
        annotation = {
            "x": layer,
            "y": -0.5,
            "text": text,
            "textangle": angle,
            "showarrow": False,
            "yanchor": "bottom",
            "yshift": 4,
            "xanchor": "left" if angle == SLANTED else "center",
        }
        annotations.append(annotation)
    return annotations


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


def _name_angles(texts: list[str], gaps: list[float]) -> list[int]:
    """Return the angle of each name: level if all fit so, else turned but for one or two letters.

    Args:
        texts: The names, in plotly's markup.
        gaps: Pixels between the middle of each name and that of the next.
    """
    before = [np.inf, *gaps]
    after = [*gaps, np.inf]
    n_letters = [len(html.unescape(text)) for text in texts]
    fits = []
    for letters, gap_before, gap_after in zip(n_letters, before, after, strict=True):
        fits.append(LETTER_WIDTH * letters + NAME_GAP <= min(gap_before, gap_after))
    if all(fits):
        return [LEVEL] * len(texts)
    turned = SLANTED if min(gaps) >= SLANTED_GAP else UPRIGHT
    angles = []
    for letters, name_fits in zip(n_letters, fits, strict=True):
        angles.append(LEVEL if name_fits and letters <= 2 else turned)
    return angles
