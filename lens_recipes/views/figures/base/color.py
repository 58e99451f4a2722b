"""Words on coloured cells, in black or white, whichever can be read there."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import METRICS, find_metric, fixed_range, rank_ticks


def colorscale(metric: str, colors: str | None = None) -> Any:
    """The plotly colour scale of a metric: its own, or another one of the same sort.

    Raises:
        ValueError: not a name that plotly knows, a diverging scale for a metric that has no middle, a sequential one
            for a metric that has, or a cyclical one, whose two ends look the same.
    """
    kind = find_metric(metric)
    if colors is None:
        return kind.colors
    from plotly import colors as plotly_colors

    try:
        points = plotly_colors.get_colorscale(colors)
    except Exception as error:  # plotly's own kind, or what it stumbles over
        raise ValueError(
            f"colors={colors!r} is not the name of a plotly colour scale, such as 'Magma'."
        ) from error
    stem = colors.lower().removesuffix("_r")
    cyclical, sides = (
        {name.lower() for name in dir(sort) if not name.startswith("_")}
        for sort in (plotly_colors.cyclical, plotly_colors.diverging)
    )
    two_sided = stem in sides | {"bluered"}  # plotly counts it among the sequential ones
    if stem in cyclical or two_sided != kind.two_sided:
        sort = "cyclical" if stem in cyclical else "diverging" if two_sided else "sequential"
        why = "a middle, zero" if kind.two_sided else "two ends and no middle"
        raise ValueError(
            f"colors={colors!r} is a {sort} scale, and metric={metric!r} has {why}: pass another scale."
        )
    return points


class ColorAxis(NamedTuple):
    """What is coloured of some numbers, the range of the scale, and how its colour bar is labelled."""

    z: NDArray[np.floating[Any]]
    limits: dict[str, float]
    bar: dict[str, Any]


def color_axis(metric: str, z: NDArray[np.floating[Any]], vocab: int) -> ColorAxis:
    """Numbers as a scale shows them: over the whole range that the metric can have, so that figures can be compared.

    Where there is none, over their own, and the same to both sides of zero where that is a middle. Infinities take the
    end of the scale; ranks are logarithmic, the top at the top.
    """
    bar: dict[str, Any] = {}
    if metric == "rank":
        z, bar = -np.log10(z + 1), rank_bar(vocab)
    finite = z[np.isfinite(z)]
    if METRICS[metric].two_sided:
        high = max(float(np.abs(finite).max(initial=0)), 1e-6)
        low = -high
    else:
        first, last = fixed_range(metric, vocab)
        low = float(finite.min(initial=np.inf)) if first is None else first
        high = max(float(finite.max(initial=-np.inf)), low + 1e-6) if last is None else last
    if not math.isfinite(low + high):
        return ColorAxis(z, {}, bar)
    return ColorAxis(
        np.where(np.isinf(z), np.clip(z, low, high), z), {"zmin": low, "zmax": high}, bar
    )


def rank_bar(vocab: int) -> dict[str, Any]:
    """The same ticks on a colour bar, which has the top at the top."""
    at, words = rank_ticks(vocab)
    return {"tickvals": [-x for x in at], "ticktext": words}


WORDS = 11  # pixels: ten letters fit a column; left to itself, plotly shrinks all to what the longest markup needs

SHADES = 256  # of a scale: more than a screen has

CLEAR = [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]]

LOOKS = ("x", "y", "xaxis", "yaxis", "xgap", "ygap")


def contrast_color(ground: str) -> str:
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


def contrast_colors_along(colorscale: str | list[list[Any]]) -> tuple[str, ...]:
    """The ink for each of `SHADES` steps of a scale."""
    return _inks(colorscale if isinstance(colorscale, str) else tuple(map(tuple, colorscale)))


@cache  # a generation has a heatmap for each of its steps
def _inks(colorscale: str | tuple[tuple[Any, ...], ...]) -> tuple[str, ...]:
    from plotly.colors import sample_colorscale

    scale = colorscale if isinstance(colorscale, str) else list(map(list, colorscale))
    shades = sample_colorscale(scale, np.linspace(0, 1, SHADES).tolist(), colortype="tuple")
    return tuple(contrast_color(hexadecimal(shade)) for shade in shades)


def with_contrast_text(cells: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A heatmap with words as two traces: the cells with their white words, and nothing but the black ones.

    Plotly gives a heatmap one colour for all words, or picks white or a grey that is too faint on the middle of a
    scale. A cell without a number is light.
    """
    light = np.array(contrast_colors_along(cells["colorscale"])) == "#000000"
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
