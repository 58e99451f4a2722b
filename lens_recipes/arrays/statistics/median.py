"""Medians with intervals: exact where items are independent, resampled where they are clustered."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.resampling import (
    Floats,
    Interval,
    Resampling,
    expanded_tail,
)

# Values among which a resample's median is looked for: so many where it is likely, and of all.
NEAR_THRESHOLDS, FAR_THRESHOLDS = 96, 32
NEAR_SPREADS = 4  # standard deviations of the number of items below the median


def median(values: NDArray[np.floating], resampling: Resampling) -> Interval:
    """Return the median of each statistic with its bootstrap interval.

    A median is the smallest value that at least half of the items do not exceed: one of the values.

    Args:
        values: `[item, *statistic]`, without NaNs.
        resampling: Of the same items.
    """
    n_items, shape = len(values), values.shape[1:]
    flat = np.asarray(values, dtype=np.float64).reshape(n_items, -1)
    ordered = np.sort(flat, axis=0)
    estimate = ordered[_rank_of_median(n_items)]
    low = high = np.full(flat.shape[1], np.nan)
    if resampling.has_interval:
        if resampling.n_clusters == n_items:
            low, high = _exact_interval(ordered, resampling)
        else:
            low, high = _clustered_interval(flat, ordered, resampling)
    n = np.full(shape, n_items)
    return Interval(estimate.reshape(shape), low.reshape(shape), high.reshape(shape), n)


def _rank_of_median(n: int) -> int:
    """Return which of n ordered values is their median, counted from 0."""
    return math.ceil(n / 2) - 1


def _exact_interval(ordered: Floats, resampling: Resampling) -> tuple[Floats, Floats]:
    """Return the interval that infinitely many resamples would give (Efron 1979).

    A resample's median is at most the k-th value where at least half of its n draws are among the
    first k: a binomial probability.
    """
    n = len(ordered)
    needed = _rank_of_median(n) + 1
    tail = expanded_tail(resampling.confidence, n)
    candidates = np.array(_candidates(n))
    at_most = np.array([_binomial_tail(n, k / n, needed) for k in candidates.tolist()])
    last = len(candidates) - 1
    low = candidates[min(last, int(np.searchsorted(at_most, tail)))] - 1
    high = candidates[min(last, int(np.searchsorted(at_most, 1 - tail)))] - 1
    return ordered[low], ordered[high]


def _candidates(n: int) -> list[int]:
    """Return the numbers of lowest values, k, between which the median of a resample lies."""
    spread = max(3, math.ceil(4 * math.sqrt(n)))
    middle = math.ceil(n / 2)
    return list(range(max(1, middle - spread), min(n, middle + spread) + 1))


def _binomial_tail(n: int, probability: float, at_least: int) -> float:
    """Return the probability of at least so many successes in n trials."""
    if probability >= 1:
        return 1.0
    log_odds = math.log(probability) - math.log1p(-probability)
    log_term = (
        math.lgamma(n + 1)
        - math.lgamma(at_least + 1)
        - math.lgamma(n - at_least + 1)
        + at_least * math.log(probability)
        + (n - at_least) * math.log1p(-probability)
    )
    total = 0.0
    for successes in range(at_least, n + 1):
        term = math.exp(log_term)
        total += term
        if term < 1e-12 * total and successes > n * probability:
            break
        if successes < n:
            log_term += math.log(n - successes) - math.log(successes + 1) + log_odds
    return min(1.0, total)


def _clustered_interval(
    flat: Floats, ordered: Floats, resampling: Resampling
) -> tuple[Floats, Floats]:
    """Return the interval of medians of resampled clusters.

    The median of a resample is looked for among some values of the items, most of them near the
    median: beyond that, the interval is as coarse as they are.
    """
    sizes = resampling.cluster_sums(np.ones((len(flat), 1)))
    thresholds, n_at_most = [], []
    for column in range(flat.shape[1]):
        chosen = _thresholds(flat[:, column], ordered[:, column], sizes, resampling)
        thresholds.append(chosen)
        n_at_most.append(_counts_up_to(flat[:, column], chosen, resampling))
    medians: list[list[Floats]] = [[] for _ in thresholds]
    for counts in resampling.counts():
        halves = counts @ sizes.astype(np.float32) / 2
        for column, chosen in enumerate(thresholds):
            reached = counts @ n_at_most[column] >= halves
            medians[column].append(chosen[reached.argmax(1)])
    tail = expanded_tail(resampling.confidence, resampling.n_clusters)
    ends = []
    for drawn in medians:
        ends.append(np.quantile(np.concatenate(drawn), [tail, 1 - tail], method="inverted_cdf"))
    lows, highs = np.array(ends).T
    return lows, highs


def _thresholds(
    values: Floats, ordered: Floats, sizes: Floats, resampling: Resampling
) -> NDArray[np.float64]:
    """Return the values among which medians of resamples are looked for, in order.

    Args:
        values: Of one statistic, `[item]`.
        ordered: The same in order.
        sizes: How many items each cluster has, `[cluster, 1]`.
        resampling: Of the same items.
    """
    n = len(ordered)
    middle = ordered[_rank_of_median(n)]
    below = resampling.cluster_sums((values <= middle).astype(np.float64)[:, None])
    # A resample's number of items below the median varies by as much as its clusters do.
    spread = math.sqrt(float(((below - sizes / 2) ** 2).sum()))
    first = max(0, math.floor(n / 2 - NEAR_SPREADS * spread) - 1)
    last = min(n - 1, math.ceil(n / 2 + NEAR_SPREADS * spread) + 1)
    near = _spread_out(np.unique(ordered[first : last + 1]), NEAR_THRESHOLDS)
    far = _spread_out(np.unique(ordered), FAR_THRESHOLDS)
    return np.unique(np.concatenate([near, far]))


def _spread_out(distinct: Floats, n_wanted: int) -> Floats:
    """Return so many of some values, evenly spaced by their place; the first and last of them."""
    places = np.linspace(0, len(distinct) - 1, n_wanted).round().astype(int)
    return np.asarray(distinct[np.unique(places)])


def _counts_up_to(
    values: Floats, thresholds: Floats, resampling: Resampling
) -> NDArray[np.float32]:
    """Return how many values of each cluster do not exceed each threshold."""
    place = np.searchsorted(thresholds, values)
    cells = resampling.cluster_of * len(thresholds) + place
    counts = np.bincount(cells, minlength=resampling.n_clusters * len(thresholds))
    by_cluster = counts.reshape(resampling.n_clusters, len(thresholds))
    return by_cluster.cumsum(1).astype(np.float32)
