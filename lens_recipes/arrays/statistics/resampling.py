"""`Resampling`: bootstrap intervals of means, with the same resamples for all that is compared.

Items that share a cluster (a template, a source) are drawn together: a cluster is one draw,
whatever its size (Efron & Tibshirani 1993, "An Introduction to the Bootstrap"). Intervals are
expanded percentile intervals, which cover what they promise also for few items (Hesterberg 2015,
"What Teachers Should Know About the Bootstrap", section 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.quantiles import NORMAL, student_quantile

CHUNK_BYTES = 64 * 2**20  # of the counts that are held at once
MIN_CLUSTERS = 5  # for an interval: fewer say nothing about others

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its bootstrap interval; the ends are NaN where there is none.

    Attributes:
        estimate, low, high: Of each statistic, in the shape of its axes.
        n: How many items each rests on.
    """

    estimate: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


class Resampling:
    """Draws of items, or of whole clusters of them, with replacement.

    Attributes:
        n_items: How many items there are.
        cluster_of: The number of each item's cluster, `[item]`.
        n_clusters: How many there are.
        n_resamples: How many times they are drawn.
        confidence: Of the intervals, such as 0.95.
    """

    def __init__(
        self,
        n_items: int,
        clusters: Sequence[object] | None = None,
        *,
        n_resamples: int = 2000,
        confidence: float = 0.95,
        seed: int = 0,
        min_clusters: int = MIN_CLUSTERS,
    ) -> None:
        """Prepare the draws.

        Args:
            n_items: How many items there are.
            clusters: What each item belongs to, `[item]`; None for each by itself.
            n_resamples: How many times they are drawn.
            confidence: Of the intervals, between 0 and 1.
            seed: For the draws.
            min_clusters: How many it takes for an interval.

        Raises:
            ValueError: a number out of range, or clusters for other items.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence={confidence!r} must be between 0 and 1, such as 0.95.")
        if n_resamples < 100:
            raise ValueError(f"bootstrap={n_resamples!r} must be at least 100 resamples.")
        if clusters is not None and len(clusters) != n_items:
            raise ValueError(f"there are {len(clusters)} clusters for {n_items} items.")
        self.n_items = n_items
        self.n_resamples = n_resamples
        self.confidence = confidence
        self.seed = seed
        self.min_clusters = min_clusters
        if clusters is None:
            self.cluster_of = np.arange(n_items)
            self.n_clusters = n_items
        else:
            numbers: dict[object, int] = {}
            self.cluster_of = np.array(
                [numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64
            )
            self.n_clusters = len(numbers)

    @property
    def has_interval(self) -> bool:
        """Return whether there are enough clusters for an interval."""
        return self.n_clusters >= self.min_clusters

    def counts(self) -> Iterator[NDArray[np.float32]]:
        """Yield how often each cluster is drawn, `[resample, cluster]`, some rows at a time."""
        generator = np.random.default_rng(self.seed)
        at_once = max(1, CHUNK_BYTES // (16 * max(1, self.n_clusters)))
        for start in range(0, self.n_resamples, at_once):
            n_rows = min(at_once, self.n_resamples - start)
            drawn = generator.integers(0, self.n_clusters, (n_rows, self.n_clusters))
            drawn += np.arange(n_rows)[:, None] * self.n_clusters
            counts = np.bincount(drawn.ravel(), minlength=n_rows * self.n_clusters)
            yield counts.reshape(n_rows, self.n_clusters).astype(np.float32)

    def cluster_sums(self, values: Floats) -> Floats:
        """Return the sum over the items of each cluster, `[cluster, *statistic]`."""
        if self.n_clusters == self.n_items:
            return values
        order = np.argsort(self.cluster_of, kind="stable")
        starts = np.searchsorted(self.cluster_of[order], np.arange(self.n_clusters))
        return np.add.reduceat(values[order], starts, axis=0)

    def resampled_means(self, values: NDArray[np.floating]) -> Floats:
        """Return the mean of each resample, `[resample, *statistic]`; NaNs are left out.

        Args:
            values: `[item, *statistic]`.
        """
        is_known = np.isfinite(values)
        sums = self.cluster_sums(np.where(is_known, values, 0.0).astype(np.float64))
        sizes = self.cluster_sums(is_known.astype(np.float64))
        shape = values.shape[1:]
        flat_sums = sums.reshape(self.n_clusters, -1).astype(np.float32)
        flat_sizes = sizes.reshape(self.n_clusters, -1).astype(np.float32)
        is_same = bool((flat_sizes == flat_sizes[:, :1]).all())
        if is_same:
            flat_sizes = flat_sizes[:, :1]
        means = []
        for counts in self.counts():
            drawn_sizes = (counts @ flat_sizes).astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                means.append((counts @ flat_sums).astype(np.float64) / drawn_sizes)
        return np.concatenate(means).reshape(self.n_resamples, *shape)

    def mean(self, values: NDArray[np.floating]) -> Interval:
        """Return the mean of each statistic with its interval.

        Args:
            values: `[item, *statistic]`; NaNs are left out.
        """
        n_known = np.isfinite(values).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(np.isfinite(values), values, 0.0).sum(0, dtype=np.float64)
            estimate = total / n_known
        # Deviations from the mean keep their digits in float32.
        low, high = self.interval(self.resampled_means(values - estimate))
        return Interval(estimate, estimate + low, estimate + high, n_known)

    def interval(self, resampled: Floats) -> tuple[Floats, Floats]:
        """Return the ends of the expanded percentile interval over the first axis.

        They are NaN where there are too few clusters.
        """
        if not self.has_interval:
            nothing = np.full(resampled.shape[1:], np.nan)
            return nothing, nothing
        tail = expanded_tail(self.confidence, self.n_clusters)
        low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
        return low, high


def expanded_tail(confidence: float, n: int) -> float:
    """Return the share of resamples that is left out at each end.

    The bootstrap's distribution is too narrow by √((n − 1) / n), and a normal quantile stands where
    Student's belongs; both are mended by leaving out less.
    """
    quantile = student_quantile((1 + confidence) / 2, n - 1)
    return NORMAL.cdf(-math.sqrt(n / (n - 1)) * quantile)
