"""Permutation tests of groups against all the others: labels are dealt out anew.

Source: Westfall & Young 1993, "Resampling-Based Multiple Testing", for the correction (max-T).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.resampling import Floats


def label_test(
    values: NDArray[np.floating],
    groups: NDArray[np.integer],
    clusters: Sequence[object] | None = None,
    *,
    n_permutations: int = 2000,
    seed: int = 0,
) -> Floats:
    """Test whether the mean of each group is that of all the others.

    Under the null a label says nothing. Within a cluster that has items of several groups, the
    labels of its items may as well stand in another order; of the clusters that have one group
    each, any may as well have another's label.

    Args:
        values: `[item]`, without NaNs.
        groups: The number of each item's group, `[item]`, from 0 on.
        clusters: What each item belongs to, `[item]`; None for each by itself.
        n_permutations: How many orders are tried beside the one that is.
        seed: For the orders.

    Returns:
        A p-value for each group, two-sided. One false alarm among all groups is as rare as it says.
    """
    n_groups = int(groups.max()) + 1
    cluster_of = _numbers(range(len(values)) if clusters is None else clusters)
    held = np.zeros((cluster_of.max() + 1, n_groups), dtype=bool)
    held[cluster_of, groups] = True
    is_mixed = held.sum(1)[cluster_of] > 1
    mixed = np.flatnonzero(is_mixed)
    mixed = mixed[np.argsort(cluster_of[mixed], kind="stable")]
    single, place_of = np.unique(cluster_of[~is_mixed], return_inverse=True)
    labels_of_single = held[single].argmax(1)
    places = cluster_of[mixed].astype(np.float64)  # the digits after the point shuffle
    observed = _distances(values, groups, n_groups)
    generator = np.random.default_rng(seed)
    n_larger = np.ones(n_groups)
    for _ in range(n_permutations):
        drawn = groups.copy()
        order = np.argsort(places + generator.random(len(mixed)))
        drawn[mixed] = groups[mixed[order]]
        drawn[~is_mixed] = generator.permutation(labels_of_single)[place_of]
        n_larger += _distances(values, drawn, n_groups).max() >= observed * (1 - 1e-9)
    return n_larger / (n_permutations + 1)


def _numbers(clusters: Sequence[object]) -> NDArray[np.int64]:
    """Return clusters as numbers from 0 on."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in clusters], dtype=np.int64)


def _distances(values: NDArray[np.floating], groups: NDArray[np.integer], n_groups: int) -> Floats:
    """Return how far each group's mean is from the others', over what chance would make of it."""
    sizes = np.bincount(groups, minlength=n_groups)
    sums = np.bincount(groups, weights=values, minlength=n_groups)
    others = len(values) - sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = sums / sizes - (values.sum() - sums) / others
        distance = np.abs(difference) / np.sqrt(1 / sizes + 1 / others)
    return np.nan_to_num(distance)
