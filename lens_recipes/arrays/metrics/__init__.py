"""The metrics: one table, and what the pair (`metric`, `of`) means in every view.

`table.py` holds the table, `entry.py` says what an entry holds, `values.py` computes the numbers,
and `followed.py` finds the numbers of a token.
"""

from lens_recipes.arrays.metrics.followed import logit_diff
from lens_recipes.arrays.metrics.table import (
    DIVERGING,
    METRICS,
    find_metric,
    fixed_range,
    measured_metrics,
    rank_ticks,
)
from lens_recipes.arrays.metrics.values import (
    common_label,
    metric_values,
    no_rank,
    vocab_size,
)

__all__ = [
    "DIVERGING",
    "METRICS",
    "common_label",
    "find_metric",
    "fixed_range",
    "logit_diff",
    "measured_metrics",
    "metric_values",
    "no_rank",
    "rank_ticks",
    "vocab_size",
]
