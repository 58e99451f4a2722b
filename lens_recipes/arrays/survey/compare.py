"""Compare two surveys of the same items, pair by pair: two models, two lenses, before and after."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.statistics.permutation import PermutationTest, sign_flip_test
from lens_recipes.arrays.statistics.resampling import Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws, resampling_of, values_of

MIN_PAIRS = 2


class SurveyComparison(NamedTuple):
    """The difference of two surveys over the sites of the first.

    Attributes:
        metric: What was compared.
        sites: Of the first survey.
        other_sites: The site of the other that each is held against.
        difference: Other minus first, over the pairs of items.
        test: p-values of the difference, each by itself and corrected over the sites (max-T).
        n_pairs: How many items both have.
        n_unpaired: How many only one of them has.
    """

    metric: str
    sites: list[Site]
    other_sites: list[Site]
    difference: Interval
    test: PermutationTest
    n_pairs: int
    n_unpaired: int


def compare_surveys(
    first: SurveyArrays, other: SurveyArrays, metric: str, *, draws: Draws = DEFAULT_DRAWS
) -> SurveyComparison:
    """Return the paired differences of two surveys, other minus first.

    Items are paired by id. Where the models have another number of layers, sites are paired by
    relative depth.

    Raises:
        ValueError: they share no items, or no component.
    """
    mine, theirs = paired_items(first, other)
    if len(mine) < MIN_PAIRS:
        raise ValueError(
            f"the two surveys share {len(mine)} items (by their ids): at least {MIN_PAIRS} are "
            "needed to compare them."
        )
    place = paired_sites(first.sites, other.sites)
    kept = np.flatnonzero(place >= 0)
    if not len(kept):
        raise ValueError("the two surveys share no component, so there is nothing to compare.")
    own = values_of(first, metric, None)[mine][:, kept]
    others = values_of(other, metric, None)[theirs][:, place[kept]]
    differences = others - own
    has_both = np.isfinite(differences).all(1)
    if has_both.sum() < MIN_PAIRS:
        raise ValueError(f"fewer than {MIN_PAIRS} items have a {metric} in both surveys.")
    differences, mine = differences[has_both], mine[has_both]
    clusters = first.clusters_of(mine)
    test = sign_flip_test(differences, clusters, n_permutations=draws.n_resamples, seed=draws.seed)
    return SurveyComparison(
        metric=metric,
        sites=[first.sites[index] for index in kept],
        other_sites=[other.sites[index] for index in place[kept]],
        difference=resampling_of(first, mine, draws).mean(differences),
        test=test,
        n_pairs=len(mine),
        n_unpaired=len(first) + len(other) - 2 * len(mine),
    )


def paired_items(
    first: SurveyArrays, other: SurveyArrays
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the items that both surveys have, in the order of the first."""
    index_of = {name.id: index for index, name in enumerate(other.names)}
    pairs = []
    for index, name in enumerate(first.names):
        if name.id in index_of:
            pairs.append((index, index_of[name.id]))
    mine, theirs = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return mine, theirs


def paired_sites(sites: list[Site], others: list[Site]) -> NDArray[np.intp]:
    """Return for each site the index of the other survey's that it is held against; −1 for none.

    The same site where there is one in models of as many layers; else that of the same component
    and head at the nearest relative depth.
    """
    if sites == others:
        return np.arange(len(sites))
    depth, other_depth = depths(sites), depths(others)
    place = np.full(len(sites), -1, dtype=np.intp)
    for index, site in enumerate(sites):
        alike = [
            number
            for number, other in enumerate(others)
            if (other.component, other.head) == (site.component, site.head)
        ]
        if alike:
            distance = np.abs(other_depth[alike] - depth[index])
            place[index] = alike[int(distance.argmin())]
    return place


def depths(sites: list[Site]) -> NDArray[np.float64]:
    """Return the relative depth of each site: 1 for the last layer that was read."""
    layers = np.array([site.layer or 0 for site in sites], dtype=np.float64)
    return layers / max(1.0, float(layers.max()))
