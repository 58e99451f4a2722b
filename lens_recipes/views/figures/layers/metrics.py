"""Facts about the metrics that only the figures along the layers need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import METRICS, rank_ticks

# `trajectory` draws the metrics of one token.
TRAJECTORY_METRICS = ("prob", "logprob", "rank", "logit", "logit_diff")

# `layer_profile` draws these three together when no metric is named. Zero is the least that they
# can be, and an axis without it would make a small change look large.
DEFAULT_PROFILE_METRICS = ("entropy", "kl", "loss")

# `layer_profile` leaves out the logit: logits of different layers cannot be compared.
PROFILE_METRICS = (*DEFAULT_PROFILE_METRICS, "prob", "logprob", "rank", "logit_diff")

# What stands in the title of an axis in place of the unit.
AXIS_NOTES = {
    "rank": "log scale, 0 is the top",
    "logit": "compare tokens of one layer, not layers",
    "logit_diff": "nats: log-odds",
}


def value_title(metric: str) -> str:
    """Return the title of an axis of a metric's values, with the unit or how to read them."""
    title = METRICS[metric].title
    note = AXIS_NOTES.get(metric, METRICS[metric].unit)
    return f"{title} ({note})" if note else title


def value_axis(metric: str, vocab: int) -> dict[str, Any]:
    """Return an axis for a metric's values, as `axis_values` gives them.

    It spans the whole range that the metric can have, where there is one, so that figures can be
    compared.
    """
    if metric == "prob":
        return {"range": [-0.02, 1.02], "zeroline": False}
    if metric == "rank":
        last = math.log10(vocab)
        heights, labels = rank_ticks(vocab)
        return {
            "range": [last * 1.02, -0.02 * last],
            "zeroline": False,
            "tickvals": heights,
            "ticktext": labels,
        }
    return {"zeroline": metric == "logit_diff", "zerolinecolor": "#888", "zerolinewidth": 1}


def axis_values(metric: str, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return a metric's values as they stand on its axis: ranks as log10(rank + 1)."""
    return np.log10(values + 1) if metric == "rank" else values
