"""Compare two surveys of the same items, pair by pair: two models, two lenses, before and after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.arrays.statistics.permutation import PermutationTest, sign_flip_test
from lens_recipes.arrays.statistics.resampling import Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws, resampling_of, values_of
from lens_recipes.arrays.survey.joint import OVER_SITES, sites_of
from lens_recipes.arrays.survey.metrics import Values, emerged, first_to_stay
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import counted

MIN_PAIRS = 2
ROUNDING = 1e-9  # of a relative depth


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
        n_without: How many both have, of which one or both have no such metric.
        n_changed: How many pairs have another prompt or another target in each, of one model.
        n_sites_alone: How many sites of the first have no partner, as the other did not read them.
        draws: How the intervals were made.
        runs: What the two surveys are of: model, lens, edits, and whether each is certified.
    """

    metric: str
    sites: list[Site]
    other_sites: list[Site]
    difference: Interval
    test: PermutationTest
    n_pairs: int
    n_unpaired: int
    n_without: int = 0
    n_changed: int = 0
    n_sites_alone: int = 0
    draws: Draws = DEFAULT_DRAWS
    runs: tuple[str, str] = ("", "")


def compare_surveys(
    first: SurveyArrays, other: SurveyArrays, metric: str, *, draws: Draws = DEFAULT_DRAWS
) -> SurveyComparison:
    """Return the paired differences of two surveys, other minus first.

    Items are paired by id. Sites are paired with themselves; where the models have another number
    of layers, by relative depth. Those that only one of them read are left out. All differences are
    means, those of ranks too: it is the mean that the permutations test.

    Raises:
        ValueError: they share no items, no component or no layer, or there is no such metric.
    """
    check_survey(other)
    find_name(metric)
    mine, theirs = paired_items(first, other)
    n_shared = len(mine)
    if n_shared < MIN_PAIRS:
        raise ValueError(
            f"the two surveys share {counted(n_shared, 'item')} (by their ids): at least "
            f"{MIN_PAIRS} are needed to compare them."
        )
    own_indices, other_indices = sites_of(first, metric), sites_of(other, metric)
    sites = [first.sites[index] for index in own_indices]
    other_sites = [other.sites[index] for index in other_indices]
    place = paired_sites(sites, other_sites, n_layers_of(first, other), n_layers_of(other, first))
    kept = np.flatnonzero(place >= 0)
    if not len(kept):
        raise ValueError(why_no_site(sites, other_sites))
    own = values_at(first, metric, [own_indices[index] for index in kept])[mine]
    others = values_at(other, metric, [other_indices[index] for index in place[kept]])[theirs]
    differences = others - own
    has_both = np.isfinite(differences).all(1)
    if has_both.sum() < MIN_PAIRS:
        raise ValueError(f"fewer than {MIN_PAIRS} items have a {metric} in both surveys.")
    differences, mine, theirs = differences[has_both], mine[has_both], theirs[has_both]
    clusters = first.clusters_of(mine)
    test = sign_flip_test(differences, clusters, n_permutations=draws.n_resamples, seed=draws.seed)
    return SurveyComparison(
        metric=metric,
        sites=[sites[index] for index in kept],
        other_sites=[other_sites[index] for index in place[kept]],
        difference=resampling_of(first, mine, draws).mean(differences),
        test=test,
        n_pairs=len(mine),
        n_unpaired=len(first) + len(other) - 2 * n_shared,
        n_without=n_shared - len(mine),
        n_changed=n_changed(first, other, mine, theirs),
        n_sites_alone=len(sites) - len(kept),
        draws=draws,
    )


def check_survey(other: Any) -> None:
    """Raise a ValueError unless this is a survey."""
    if not isinstance(other, SurveyArrays):
        raise ValueError(
            f"received {type(other).__name__} to compare with; accepted is a survey: what survey() "
            "or Survey.load() returns."
        )


# -- items -------------------------------------------------------------


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


def n_changed(
    first: SurveyArrays, other: SurveyArrays, mine: NDArray[np.intp], theirs: NDArray[np.intp]
) -> int:
    """Return how many pairs are of another prompt or target in each: perhaps of other items.

    Models of another vocabulary write both otherwise, so there it is not told.
    """
    if vocabulary_of(first) != vocabulary_of(other):
        return 0
    count = 0
    for index, other_index in zip(mine.tolist(), theirs.tolist(), strict=True):
        is_same_prompt = first.names[index].prompt == other.names[other_index].prompt
        targets = set(first.target_ids[index].tolist()) - {-1}
        other_targets = set(other.target_ids[other_index].tolist()) - {-1}
        if not is_same_prompt or targets != other_targets:
            count += 1
    return count


def vocabulary_of(survey: SurveyArrays) -> tuple[Any, Any]:
    """Return what tells whose ids and texts these are."""
    return survey.provenance.get("model"), survey.provenance.get("vocab_size")


# -- sites -------------------------------------------------------------


def values_at(survey: SurveyArrays, metric: str, site_indices: list[int]) -> Values:
    """Return a metric of each item at some sites, `[item, site]`; NaN where it has none.

    What follows the layers follows these alone: "to the end" is the last that both surveys read.
    """
    if metric not in OVER_SITES:
        return values_of(survey, metric, None)[:, site_indices]
    is_so = survey.ranks == 0
    if metric == "decided":
        is_so = survey.top_ids == survey.answer_ids[:, None]
    return emerged(first_to_stay(is_so[:, site_indices]), len(site_indices))


def n_layers_of(survey: SurveyArrays, other: SurveyArrays) -> int:
    """Return how many layers a survey's model has, as far as the survey tells.

    Files of an earlier version do not say. The output, where it was read, is the last layer; and
    a model of the same name is taken for the same.
    """
    known = known_n_layers(survey)
    if known is None and vocabulary_of(survey) == vocabulary_of(other):
        known = known_n_layers(other)
    if known is None:
        known = 1 + last_layer(survey)
    return max(known, 1 + last_layer(survey))


def known_n_layers(survey: SurveyArrays) -> int | None:
    """Return how many layers a survey's model has; None where it does not say."""
    n_layers = survey.provenance.get("n_layers")
    if type(n_layers) is int and n_layers > 0:
        return n_layers
    if survey.output_site >= 0:
        return 1 + (survey.sites[survey.output_site].layer or 0)
    return None


def last_layer(survey: SurveyArrays) -> int:
    """Return the last layer that was read."""
    return max(site.layer or 0 for site in survey.sites)


def paired_sites(
    sites: list[Site], others: list[Site], n_layers: int, n_other_layers: int
) -> NDArray[np.intp]:
    """Return for each site the index of the other survey's that it is held against; −1 for none.

    In models of as many layers that is the same site. Else it is that of the same component and
    head in the layer at the nearest relative depth, if that layer was read.

    Args:
        sites, others: Of the two surveys.
        n_layers, n_other_layers: Of their models.
    """
    index_of = {site: index for index, site in enumerate(others)}
    place = np.full(len(sites), -1, dtype=np.intp)
    for index, site in enumerate(sites):
        if n_layers == n_other_layers:
            place[index] = index_of.get(site, -1)
            continue
        depth = (site.layer or 0) / max(1, n_layers - 1)
        layer = nearest_layer(depth, n_other_layers)
        place[index] = index_of.get(site._replace(layer=layer), -1)
    return place


def nearest_layer(depth: float, n_layers: int) -> int:
    """Return the layer of a model at a relative depth: the first of two that are as near."""
    return int(np.ceil(depth * (n_layers - 1) - 0.5 - ROUNDING))


def why_no_site(sites: list[Site], others: list[Site]) -> str:
    """Return why no site of one survey has a partner in the other, in a sentence."""
    components = {(site.component, site.head) for site in sites}
    if components.isdisjoint((site.component, site.head) for site in others):
        return "the two surveys share no component, so there is nothing to compare."
    return (
        "the two surveys read no layer in common, so there is nothing to compare: one read "
        f"{layers_in_words(layers_of(sites))}, the other {layers_in_words(layers_of(others))}."
    )


def layers_of(sites: list[Site]) -> tuple[int, ...]:
    """Return the layers of some sites, each once."""
    return tuple(sorted({site.layer or 0 for site in sites}))
