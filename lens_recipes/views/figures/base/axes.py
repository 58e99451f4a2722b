"""What the figures along the layers share: which sites they follow, how their axes look, and what a token is called."""

from __future__ import annotations

import math
from typing import Any

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, rank_ticks
from lens_recipes.arrays.sites import are_vectors, layer_series
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.views.figures.base.style import expect

UPRIGHT = 24  # up to so many columns, their labels stand upright
LABEL = 15  # pixels: a column that only has a label
NOTES = {  # for the axis, beside or in place of the unit
    "rank": "log scale, 0 is the top",
    "logit": "compare tokens of one layer, not layers",
    "logit_diff": "nats: log-odds",
}


def layer_sites(result: LensArrays, component: str | None) -> list[int]:
    """Indices of the sites of one component, layer after layer, as `series`.

    Raises:
        ValueError: vectors, heads or the embedding, which have no layers to follow, or a component to choose.
    """
    expect(LensArrays, result)
    if are_vectors(result.sites):
        raise ValueError("vectors have no layers to follow: table() and heatmap() show them.")
    along = layer_series(result.sites, component)
    if result.sites[along[0]].component == "embed":
        raise ValueError('"embed" is one site, not a series of layers: pass another component=.')
    return along


def layer_numbers(result: LensArrays, along: list[int]) -> list[int]:
    """The layers of these sites."""
    return [layer for s in along if (layer := result.sites[s].layer) is not None]


def layer_axis(result: LensArrays, along: list[int]) -> dict[str, Any]:
    """The axis of the layers: what it is called, and ticks at whole numbers."""
    component = result.sites[along[0]].component
    numbers = layer_numbers(result, along)
    step = next(
        step for step in (1, 5, 10, 20, 50, 10**9) if (numbers[-1] - numbers[0]) / step <= 12
    )
    title = "layer" if component == "resid_post" else f"layer ({component})"
    return {"title_text": title, "zeroline": False, "tick0": 0, "dtick": step}


def value_title(metric: str) -> str:
    """What the axis of a metric's values is called, with its unit or how to read it."""
    unit = NOTES.get(metric, METRICS[metric].unit)
    return METRICS[metric].title + (f" ({unit})" if unit else "")


def value_axis(metric: str, vocab: int) -> dict[str, Any]:
    """The whole range that a metric can have, where there is one, so that figures can be compared. Ranks are drawn at
    log10(rank + 1)."""
    if metric == "prob":
        return {"range": [-0.02, 1.02], "zeroline": False}
    if metric == "rank":
        top = math.log10(vocab)
        at, words = rank_ticks(vocab)
        return {
            "range": [top * 1.02, -0.02 * top],
            "zeroline": False,
            "tickvals": at,
            "ticktext": words,
        }
    return {"zeroline": metric == "logit_diff", "zerolinecolor": "#888", "zerolinewidth": 1}


def after_token_label(one: LensArrays, spot: int) -> str:
    """Which token of one prompt a prediction follows, in words."""
    return f"predicted after token {one.tokens.position[spot]}, {plotly_safe(one.tokens.text[spot], 40)}"


def token_ticks(
    texts: list[tuple[str, ...]], numbers: list[int] | None, title: str, width: int
) -> dict[str, Any]:
    """An axis whose labels can be read where the columns have so many pixels: every n-th, if they must. A column may
    have several texts."""
    upright = len(texts) <= UPRIGHT
    labels = [("<br>" if upright else " | ").join(map(plotly_safe, column)) for column in texts]
    if upright and numbers is not None:
        labels = [f"{label}<br><sub>{n}</sub>" for label, n in zip(labels, numbers, strict=True)]
    step = max(1, math.ceil(LABEL * len(labels) / width))
    return {
        "title_text": title,
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": labels[::step],
        "tickangle": 0 if upright else 90,
    }
