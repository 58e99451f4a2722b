"""Words on coloured cells, in black or white, whichever can be read there."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

WORDS = 11  # pixels: ten letters fit a column; left to itself, plotly shrinks all to what the longest markup needs
SHADES = 256  # of a scale: more than a screen has
CLEAR = [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]]
LOOKS = ("x", "y", "xaxis", "yaxis", "xgap", "ygap")


def ink(ground: str) -> str:
    """Black or white, whichever stands out more on a colour "#rrggbb": never less than 4.5 to 1 (WCAG 2, 1.4.3)."""
    light = luminance(ground)
    return "#000000" if (light + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def luminance(color: str) -> float:
    """Relative luminance of "#rrggbb", from 0 for black to 1 for white (WCAG 2)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def hexadecimal(rgb: tuple[float, ...]) -> str:
    """A colour of three numbers from 0 to 1 as "#rrggbb"."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def inks_along(colorscale: str | list[list[Any]]) -> tuple[str, ...]:
    """The ink for each of `SHADES` steps of a scale."""
    return _inks(colorscale if isinstance(colorscale, str) else tuple(map(tuple, colorscale)))


@cache  # a generation has a heatmap for each of its steps
def _inks(colorscale: str | tuple[tuple[Any, ...], ...]) -> tuple[str, ...]:
    from plotly.colors import sample_colorscale

    scale = colorscale if isinstance(colorscale, str) else list(map(list, colorscale))
    shades = sample_colorscale(scale, np.linspace(0, 1, SHADES).tolist(), colortype="tuple")
    return tuple(ink(hexadecimal(shade)) for shade in shades)


def in_two_inks(cells: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A heatmap with words as two traces: the cells with their white words, and nothing but the black ones.

    Plotly gives a heatmap one colour for all words, or picks white or a grey that is too faint on the middle of a
    scale. A cell without a number is light.
    """
    light = np.array(inks_along(cells["colorscale"])) == "#000000"
    low, high = cells.get("zmin", 0), cells.get("zmax", 1)  # with no range there is no number
    part = np.clip((np.asarray(cells["z"], dtype=np.float64) - low) / (high - low), 0, 1)
    black = np.isnan(part) | light[np.rint(np.nan_to_num(part) * (SHADES - 1)).astype(int)]
    white_words, black_words = (
        {
            "text": np.where(mine, np.array(cells["text"], dtype=object), "").tolist(),
            "texttemplate": "%{text}",
            "textfont": {"size": WORDS, "color": color},
        }
        for mine, color in ((~black, "#ffffff"), (black, "#000000"))
    )
    above = {key: cells[key] for key in LOOKS if key in cells} | {
        "type": "heatmap", "z": np.zeros(part.shape, dtype=np.int8), "zmin": 0, "zmax": 1, "colorscale": CLEAR,
        "showscale": False, "hoverinfo": "skip", **black_words,
    }  # fmt: skip
    return cells | white_words, above
