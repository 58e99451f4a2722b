"""Sign-flip permutation tests of paired differences, corrected over all statistics (max-T).

Source: Westfall & Young 1993, "Resampling-Based Multiple Testing"; Nichols & Holmes 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.resampling import CHUNK_BYTES, Floats, Resampling


class PermutationTest(NamedTuple):
    """What a permutation test says of each statistic.

    Attributes:
        p: Of each by itself, two-sided.
        corrected_p: The same, where one false alarm among all of them is as rare as p says.
    """

    p: Floats
    corrected_p: Floats


def sign_flip_test(
    differences: NDArray[np.floating],
    clusters: Sequence[object] | None = None,
    *,
    n_permutations: int = 2000,
    seed: int = 0,
) -> PermutationTest:
    """Test whether the mean of paired differences is zero.

    Under the null each difference, or all of a cluster together, may as well have the other sign.
    The statistic is t: the mean over its standard error, so that layers of different spread weigh
    the same.

    Args:
        differences: `[item, *statistic]`, without NaNs.
        clusters: What each item belongs to, `[item]`; None for each by itself.
        n_permutations: How many random signs are tried beside those that are.
        seed: For the signs.
    """
    grouping = Resampling(len(differences), clusters, seed=seed)
    shape = differences.shape[1:]
    sums = grouping.cluster_sums(np.asarray(differences, dtype=np.float64))
    sums = sums.reshape(grouping.n_clusters, -1)
    squares = (sums**2).sum(0)
    observed = _t(sums.sum(0)[None], squares, grouping.n_clusters)[0]
    generator = np.random.default_rng(seed)
    at_once = max(1, CHUNK_BYTES // (16 * max(1, grouping.n_clusters)))
    n_larger, n_larger_than_any = np.ones(len(squares)), np.ones(len(squares))
    for start in range(0, n_permutations, at_once):
        n_rows = min(at_once, n_permutations - start)
        signs = generator.integers(0, 2, (n_rows, grouping.n_clusters)) * 2.0 - 1.0
        flipped = _t(signs @ sums, squares, grouping.n_clusters)
        margin = observed * (1 - 1e-9)  # signs that give the same number again are as large
        n_larger += (flipped >= margin).sum(0)
        n_larger_than_any += (flipped.max(1, keepdims=True) >= margin).sum(0)
    total = n_permutations + 1
    return PermutationTest(
        (n_larger / total).reshape(shape), (n_larger_than_any / total).reshape(shape)
    )


def _t(sums: Floats, squares: Floats, n: int) -> Floats:
    """Return |t| of sums over clusters, `[row, statistic]`; squares have no sign."""
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0.0) / max(1, n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(mean) / np.sqrt(variance)
    return np.where(mean == 0, 0.0, t)
