"""How the figures along the layers draw the metrics: which of them, and on which axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import METRICS, rank_ticks

MARGIN = 0.02  # beyond the ends of an axis, as a share of its range: no marker is cut there

# `trajectory` draws the metrics of one token.
TRAJECTORY_METRICS = tuple(name for name, metric in METRICS.items() if metric.follows_tokens)

# `layer_profile` draws those about the whole distribution together when no metric is named.
DEFAULT_PROFILE_METRICS = tuple(
    name for name, metric in METRICS.items() if not metric.follows_tokens
)

# It leaves out what cannot be compared from layer to layer.
PROFILE_METRICS = (
    *DEFAULT_PROFILE_METRICS,
    *(name for name in TRAJECTORY_METRICS if METRICS[name].across_layers),
)


def value_axis(metric: str, vocab: int) -> dict[str, Any]:
    """Return an axis for a metric's values, as `axis_values` gives them.

    It spans the whole range that the metric can have, where there is one, so that figures can be
    compared.
    """
    entry = METRICS[metric]
    if entry.axis != "whole":
        return {"zeroline": entry.two_sided, "zerolinecolor": "#888", "zerolinewidth": 1}
    if entry.logarithmic:
        last = math.log10(vocab)
        heights, labels = rank_ticks(vocab)
        return {
            "range": [last * (1 + MARGIN), -MARGIN * last],
            "zeroline": False,
            "tickvals": heights,
            "ticktext": labels,
        }
    limits = entry.limits(vocab)
    low, high = limits.low or 0.0, limits.high or 0.0
    margin = MARGIN * (high - low)
    return {"range": [low - margin, high + margin], "zeroline": False}


def axis_values(metric: str, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return a metric's values as they stand on its axis: ranks as log10(rank + 1)."""
    return np.log10(values + 1) if METRICS[metric].logarithmic else values
