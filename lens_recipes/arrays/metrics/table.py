"""The one table of the metrics. Every view iterates over it: tables and frames over those that are
measured, figures, the report and the shell over all.

A new metric that can be computed from the arrays of a result is one more entry here; one that is
about single tokens is also a line in `views/pages/web/report.js`. A metric that must be measured is
also computed in `trace/readout/readout.py`, listed in `run/schema.py`, filled in by
`run/assemble.py`, and held by `arrays/lens.py`; files that were saved before lack its array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from lens_recipes.arrays.metrics.entry import Limits, Metric, Values
from lens_recipes.arrays.metrics.followed import TokenNumbers, logit_diff
from lens_recipes.caller import argument

# Orange-red for less than nothing, blue for more: told apart by all eyes, and the white between
# them is zero.
DIVERGING = [[0, "#c8501e"], [0.25, "#f0a985"], [0.5, "#fafafa"], [0.75, "#8fbbdc"], [1, "#2166ac"]]


def _ranks_or_nan(numbers: TokenNumbers) -> Values:
    """Return the ranks of a token, NaN where it has none."""
    return np.where(numbers.ranks < 0, np.nan, numbers.ranks)


# In the limits, log(vocab) nats is what a layer that knows nothing has: it gives every token the
# same probability. What is less certain than that is as dark.
_ENTRIES = (
    Metric(
        name="prob",
        title="probability",
        about="top",
        source=lambda numbers: np.exp(numbers.logprobs),
        better="high",
        scale="Viridis",
        limits=lambda vocab: Limits(0.0, 1.0),
        axis="whole",
        in_shell=True,
    ),
    Metric(
        name="logprob",
        title="log-probability",
        unit="nats",
        about="top",
        source=lambda numbers: numbers.logprobs,
        better="high",
        scale="Viridis",
        limits=lambda vocab: Limits(-math.log(vocab), 0.0),
    ),
    Metric(
        name="rank",
        title="rank",
        about="token",
        source=_ranks_or_nan,
        needs_rank=True,
        better="low",
        scale="Viridis",
        logarithmic=True,
        limits=lambda vocab: Limits(-math.log10(vocab), 0.0),
        axis="whole",
        axis_note="log scale, 0 is the top",
        number_format=",.0f",
        in_shell=True,
    ),
    Metric(
        name="entropy",
        title="entropy",
        unit="nats",
        heading="entropy",
        about="all",
        source="entropy",
        better="low",
        scale="Cividis",
        limits=lambda vocab: Limits(0.0, math.log(vocab)),
        axis="from zero",
        in_shell=True,
    ),
    Metric(
        name="kl",
        title="KL to final",
        unit="nats",
        heading="KL",
        about="all",
        source="kl_to_final",
        needs_run=True,
        better="low",
        scale="Cividis",
        limits=lambda vocab: Limits(low=0.0),
        axis="from zero",
        in_shell=True,
    ),
    Metric(
        name="loss",
        title="next-token loss",
        unit="nats",
        about="next",
        source=lambda numbers: -numbers.logprobs,
        needs_run=True,
        better="low",
        scale="Viridis",
        limits=lambda vocab: Limits(low=0.0),
        axis="from zero",
    ),
    Metric(
        name="logit",
        title="logit",
        about="token",
        source=lambda numbers: numbers.logprobs + numbers.logsumexp,
        better="high",
        scale="Viridis",
        axis_note="compare tokens of one layer, not layers",
        across_layers=False,
        in_shell=True,
    ),
    Metric(
        name="logit_diff",
        title="logit difference",
        unit="nats",
        about="pair",
        source=logit_diff,
        better="neither",
        scale=DIVERGING,
        axis_note="nats: log-odds",
    ),
)

METRICS = {metric.name: metric for metric in _ENTRIES}


def find_metric(metric: str, accepted: Iterable[str] = METRICS) -> Metric:
    """Return the entry of a metric.

    Raises:
        ValueError: it is not among the accepted ones.
    """
    names = list(accepted)
    if metric not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"{argument('metric', metric)} is unknown here; accepted are {known}.")
    return METRICS[metric]


def measured_metrics() -> list[Metric]:
    """Return the metrics that a recipe measures: a result has an array for each."""
    return [metric for metric in METRICS.values() if metric.array]


def fixed_range(metric: str, vocab: int) -> Limits:
    """Return the range that a metric can have; of ranks, the range of −log10(rank + 1)."""
    return METRICS[metric].limits(vocab)


def rank_ticks(vocab: int) -> tuple[list[float], list[str]]:
    """Return where ranks 0, 1, 10, 100 … stand on an axis of log10(rank + 1), and their labels."""
    n_powers = int(math.log10(vocab)) + 1
    ranks = [0, *(10**power for power in range(n_powers))]
    positions = [math.log10(rank + 1) for rank in ranks]
    labels = [f"{rank:,}" for rank in ranks]
    return positions, labels
