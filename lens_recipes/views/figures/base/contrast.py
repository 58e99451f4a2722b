"""Words on coloured cells, in black or white, whichever can be read there.

Plotly gives a heatmap one colour for all its words. Left to itself, it picks white, or a grey that
is too faint on the middle of a scale. A heatmap with words is therefore drawn as two traces.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Ten letters of this size fit into a column. Without a size, plotly shrinks all words to that at
# which the longest markup fits.
FONT_SIZE = 11  # pixels

SHADES = 256  # steps into which a scale is divided: more than a screen shows

BLACK = "#000000"
WHITE = "#ffffff"

TRANSPARENT = [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]]

# What the trace of the black words takes over from the trace of the cells.
PLACEMENT = ("x", "y", "xaxis", "yaxis", "xgap", "ygap")


class WordedCells(NamedTuple):
    """A heatmap with words as two traces: the cells with the white words, and the black words."""

    cells: dict[str, Any]
    black_words: dict[str, Any]


def contrast_color(background: str) -> str:
    """Return black or white, whichever stands out more on a colour "#rrggbb".

    The contrast is never less than 4.5 to 1 (WCAG 2, 1.4.3).
    """
    # (light + 0.05) / 0.05 is the contrast with black, 1.05 / (light + 0.05) that with white.
    light = luminance(background)
    return BLACK if (light + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def luminance(color: str) -> float:
    """Return the relative luminance of "#rrggbb", from 0 for black to 1 for white (WCAG 2)."""
    red, green, blue = (_linear_channel(color[start : start + 2]) for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear_channel(digits: str) -> float:
    """Return the intensity of one channel "rr" of an sRGB colour, from 0 to 1."""
    channel = int(digits, 16) / 255
    if channel <= 0.04045:
        return channel / 12.92
    return ((channel + 0.055) / 1.055) ** 2.4


def hexadecimal(rgb: tuple[float, ...]) -> str:
    """Return a colour of three numbers from 0 to 1 as "#rrggbb"."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def contrast_colors_along(colorscale: str | list[list[Any]]) -> tuple[str, ...]:
    """Return the colour of words on each of the `SHADES` steps of a scale.

    The scale is a name that plotly knows, or a list of points [fraction, colour].
    """
    from plotly.colors import get_colorscale

    points = get_colorscale(colorscale) if isinstance(colorscale, str) else colorscale
    return _contrast_colors(tuple((fraction, color) for fraction, color in points))


@cache  # a generation has a heatmap for each of its steps
def _contrast_colors(points: tuple[tuple[float, str], ...]) -> tuple[str, ...]:
    """Return the same for points that can be the key of a cache."""
    from plotly.colors import sample_colorscale

    fractions = np.linspace(0, 1, SHADES).tolist()
    scale = [list(point) for point in points]
    shades = sample_colorscale(scale, fractions, colortype="tuple")
    return tuple(contrast_color(hexadecimal(shade)) for shade in shades)


def split_words_by_contrast(heatmap: dict[str, Any]) -> WordedCells:
    """Return a heatmap trace whose `text` holds words as two traces that can be read."""
    needs_black = needs_black_words(heatmap)
    cells = heatmap | words_trace(heatmap["text"], ~needs_black, WHITE)
    placement = {key: heatmap[key] for key in PLACEMENT if key in heatmap}
    overlay = {
        "type": "heatmap",
        "z": np.zeros(needs_black.shape, dtype=np.int8),
        "zmin": 0,
        "zmax": 1,
        "colorscale": TRANSPARENT,
        "showscale": False,
        "hoverinfo": "skip",
    }
    black_words = placement | overlay | words_trace(heatmap["text"], needs_black, BLACK)
    return WordedCells(cells, black_words)


def needs_black_words(heatmap: dict[str, Any]) -> NDArray[np.bool_]:
    """Return for each cell whether black stands out more; a cell without a number is light."""
    colors = np.array(contrast_colors_along(heatmap["colorscale"]))
    low = heatmap.get("zmin", 0)  # a heatmap without a range has no number either
    high = heatmap.get("zmax", 1)
    fraction = (np.asarray(heatmap["z"], dtype=np.float64) - low) / (high - low)
    fraction = np.clip(fraction, 0, 1)
    shade = np.rint(np.nan_to_num(fraction) * (SHADES - 1)).astype(int)
    return np.isnan(fraction) | (colors[shade] == BLACK)


def words_trace(words: list[list[str]], shown: NDArray[np.bool_], color: str) -> dict[str, Any]:
    """Return the properties of a trace that writes the words of some cells in one colour."""
    return {
        "text": np.where(shown, np.array(words, dtype=object), "").tolist(),
        "texttemplate": "%{text}",
        "textfont": {"size": FONT_SIZE, "color": color},
    }
