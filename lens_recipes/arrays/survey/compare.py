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
from lens_recipes.arrays.survey.joint import places_of, sites_of

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
        draws: How the intervals were made.
        n_without_number: How many both have, but not both with a number, such as of "logit_diff".
    """

    metric: str
    sites: list[Site]
    other_sites: list[Site]
    difference: Interval
    test: PermutationTest
    n_pairs: int
    n_unpaired: int
    draws: Draws = DEFAULT_DRAWS
    n_without_number: int = 0


def compare_surveys(
    first: SurveyArrays, other: SurveyArrays, metric: str, *, draws: Draws = DEFAULT_DRAWS
) -> SurveyComparison:
    """Return the paired differences of two surveys, other minus first.

    Items are paired by id, sites as `paired_sites` says. All differences are means, those of ranks
    too: it is the mean that the permutations test.

    Raises:
        ValueError: they share no items, or no site.
    """
    mine, theirs = paired_items(first, other)
    if len(mine) < MIN_PAIRS:
        raise ValueError(
            f"the two surveys share {len(mine)} items (by their ids): at least {MIN_PAIRS} are "
            "needed to compare them."
        )
    own_sites, their_sites = sites_of(first, metric), sites_of(other, metric)
    pairs = paired_sites(first, own_sites, other, their_sites)
    if not pairs:
        raise ValueError(
            "the two surveys share no site, so there is nothing to compare: read both at the same "
            "layers and components."
        )
    kept, place = [site for site, _ in pairs], [site for _, site in pairs]
    own = values_of(first, metric, None)[mine][:, places_of(first, metric, kept)]
    others = values_of(other, metric, None)[theirs][:, places_of(other, metric, place)]
    differences = others - own
    has_both = np.isfinite(differences).all(1)
    if has_both.sum() < MIN_PAIRS:
        raise ValueError(f"fewer than {MIN_PAIRS} items have a {metric} in both surveys.")
    n_unpaired = len(first) + len(other) - 2 * len(mine)
    differences, mine = differences[has_both], mine[has_both]
    clusters = first.clusters_of(mine)
    test = sign_flip_test(differences, clusters, n_permutations=draws.n_resamples, seed=draws.seed)
    return SurveyComparison(
        metric=metric,
        sites=[first.sites[index] for index in kept],
        other_sites=[other.sites[index] for index in place],
        difference=resampling_of(first, mine, draws).mean(differences),
        test=test,
        n_pairs=len(mine),
        n_unpaired=n_unpaired,
        draws=draws,
        n_without_number=int((~has_both).sum()),
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


def paired_sites(
    first: SurveyArrays, own: list[int], other: SurveyArrays, theirs: list[int]
) -> list[tuple[int, int]]:
    """Return which site of the first survey is held against which of the other, as indices.

    In models of as many layers each site is held against the same one, and those that only one
    survey read are left out. In other models it is the site of the same component and head at the
    nearest relative depth.

    Args:
        first, other: The surveys.
        own, theirs: The indices of the sites that may be paired.
    """
    n_layers, other_n_layers = number_of_layers(first), number_of_layers(other)
    as_deep = n_layers == other_n_layers
    pairs = []
    for index in own:
        site = first.sites[index]
        depth = relative_depth(site, n_layers)
        nearest, distance = -1, np.inf
        for other_index in theirs:
            candidate = other.sites[other_index]
            if (candidate.component, candidate.head) != (site.component, site.head):
                continue
            if as_deep and candidate.layer != site.layer:
                continue
            away = abs(relative_depth(candidate, other_n_layers) - depth)
            if away < distance:
                nearest, distance = other_index, away
        if nearest >= 0:
            pairs.append((index, nearest))
    return pairs


def number_of_layers(survey: SurveyArrays) -> int:
    """Return how many layers the model has; in a survey that does not say, those up to the last."""
    known = survey.provenance.get("n_layers")
    if isinstance(known, int) and known > 0:
        return known
    return 1 + max((site.layer or 0) for site in survey.sites)


def relative_depth(site: Site, n_layers: int) -> float:
    """Return where in a model a site is: 0 for the first layer, 1 for the last."""
    return (site.layer or 0) / max(1, n_layers - 1)
