"""What a survey comes to: when answers emerge, and where they leave their control, by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.statistics.labels import label_test
from lens_recipes.arrays.statistics.median import median
from lens_recipes.arrays.statistics.resampling import MIN_CLUSTERS, Interval, expanded_tail
from lens_recipes.arrays.survey.arrays import CONTROLS, SurveyArrays
from lens_recipes.arrays.survey.curves import (
    DEFAULT_DRAWS,
    Draws,
    resampling_of,
    values_of,
)
from lens_recipes.arrays.survey.joint import Wanted, is_beyond, joint_intervals
from lens_recipes.arrays.survey.metrics import emergence, prediction_depth, ranked

MAX_COMPARED = 50  # groups
DRAWS_IN_A_TAIL = 20  # of the resamples, so that the end of an interval is no accident


def usable_control(survey: SurveyArrays) -> str | None:
    """Return the control that `survey` was told to show, or another one if no item has that.

    None where no item has any, or none is to be shown.
    """
    chosen = survey.shown.control
    if chosen is None:
        return None
    for control in sorted(CONTROLS, key=lambda name: name != chosen):
        if (ranked(survey, control) >= 0).any():
            return control
    return None


def left_out_by_reason(survey: SurveyArrays) -> list[tuple[str, int]]:
    """Return why items were left out and how many for it, the most frequent reason first."""
    return Counter(reason for _, _, reason, _ in survey.left_out).most_common()


def groups_by_clusters(survey: SurveyArrays) -> dict[str, int]:
    """Return how many clusters each group is in: its items, where they are not clustered."""
    counts = {}
    for group in survey.groups:
        indices = survey.items_of(group)
        clusters = survey.clusters_of(indices)
        counts[group] = len(indices) if clusters is None else len(set(clusters))
    return counts


# -- when the answer emerges -------------------------------------------


class EmergenceMedian(NamedTuple):
    """From which site on half of the answers are on top, and how many never are.

    Attributes:
        site, low, high: The median over all items, with its interval. None stands for "never",
            which is later than all sites.
        has_interval: Whether there are enough clusters for one.
        never: The share of items whose answer never stays on top, with its interval.
        n: How many items.
    """

    site: Site | None
    low: Site | None
    high: Site | None
    has_interval: bool
    never: Interval
    n: int


def depths_of(survey: SurveyArrays, what: str, control: str | None = None) -> NDArray[np.int64]:
    """Return the site at which something comes about, `[item]`; −1 for never.

    Args:
        survey: The survey.
        what: "emergence" of the answer, or "decision": from where on the lens says what the model
            says.
        control: Of the emergence: what stands in the answer's place.

    Raises:
        ValueError: neither of the two.
    """
    if what == "emergence":
        return emergence(survey, control)
    if what == "decision":
        return prediction_depth(survey)
    raise ValueError(f'of={what!r} is unknown: accepted are "emergence" and "decision".')


def emergence_median(
    survey: SurveyArrays, group: str | None = None, draws: Draws = DEFAULT_DRAWS
) -> EmergenceMedian:
    """Return the median site at which answers emerge; those that never do count as last."""
    indices = survey.items_of(group)
    first = emergence(survey)[indices]
    series = survey.layer_sites
    n_sites = len(series)
    resampling = resampling_of(survey, indices, draws)
    places = np.where(first < 0, n_sites, first).astype(np.float64)
    middle = median(places, resampling)

    def site_at(place: float) -> Site | None:
        """Return the site at a place of the series; None for never."""
        if np.isnan(place) or int(place) >= n_sites:
            return None
        return survey.sites[series[int(place)]]

    return EmergenceMedian(
        site=site_at(float(middle.estimate)),
        low=site_at(float(middle.low)),
        high=site_at(float(middle.high)),
        has_interval=resampling.has_interval,
        never=resampling.mean((first < 0).astype(np.float64)),
        n=len(indices),
    )


# -- where it leaves its control ---------------------------------------


def first_beyond_control(
    survey: SurveyArrays, metrics: Sequence[str], control: str, draws: Draws = DEFAULT_DRAWS
) -> dict[str, Site | None]:
    """Return the first layer from which on each curve stays beyond its control's; None for none."""
    series = survey.layer_sites
    wanted = [Wanted(metric, minus=control) for metric in metrics]
    found = joint_intervals(survey, wanted, series, draws=draws)
    first: dict[str, Site | None] = {}
    for each in wanted:
        beyond = is_beyond(each.metric, found[each])
        stays = np.logical_and.accumulate(beyond[::-1])[::-1]
        first[each.metric] = survey.sites[series[int(stays.argmax())]] if stays.any() else None
    return first


# -- which groups differ -----------------------------------------------


class GroupDifference(NamedTuple):
    """How far a group is from all the others at one site.

    Attributes:
        group: Its name.
        own: The group's mean, with an interval of its own.
        difference: Of the group's mean and that of all others; the interval holds for all groups
            at once.
        differs: Whether that interval leaves out 0, and labels that are dealt out anew rarely make
            such a difference of any group.
    """

    group: str
    own: Interval
    difference: Interval
    differs: bool


def group_differences(
    survey: SurveyArrays, metric: str, site: int, draws: Draws = DEFAULT_DRAWS
) -> list[GroupDifference]:
    """Compare the mean of each group with that of all the others, at one site.

    Clusters are drawn over all items, so that a cluster with items of several groups stands in the
    same resample for each of them. The intervals of the differences are as wide as it takes that
    all hold at once (Bonferroni). Where a group has fewer than five clusters, or all the others
    have, there is none.

    The draws of a small group whose items are all alike never differ, and its interval is as if its
    mean were known. So a difference must also be larger than what a permutation of the labels gives
    (`label_test`).

    Returns:
        One entry for each group; nothing where there is one group, or more than `MAX_COMPARED`.
    """
    groups = survey.groups
    if not 2 <= len(groups) <= MAX_COMPARED:
        return []
    members = np.zeros((len(survey), len(groups)), dtype=bool)
    for column, group in enumerate(groups):
        members[survey.items_of(group), column] = True
    values = values_of(survey, metric, None)[:, site, None]
    inside, outside = np.where(members, values, np.nan), np.where(members, np.nan, values)
    confidence = 1 - (1 - draws.confidence) / len(groups)
    n_resamples = max(draws.n_resamples, int(2 * DRAWS_IN_A_TAIL / (1 - confidence)))
    corrected = draws._replace(confidence=confidence, n_resamples=n_resamples)
    resampling = resampling_of(survey, survey.items_of(None), corrected)
    # Deviations from the mean keep their digits in float32.
    middle = np.nanmean(values) if np.isfinite(values).any() else 0.0
    both = np.concatenate([inside, outside], axis=1) - middle
    means = resampling.resampled_means(both)
    resampled = means[:, : len(groups)] - means[:, len(groups) :]
    p_values = _p_of_groups(survey, values[:, 0], members, draws)
    found = []
    for column, group in enumerate(groups):
        indices = survey.items_of(group)
        own = resampling_of(survey, indices, draws).mean(values[indices, 0])
        estimate = _mean(inside[:, column]) - _mean(outside[:, column])
        n_clusters = min(
            _n_drawn_together(survey, inside[:, column]),
            _n_drawn_together(survey, outside[:, column]),
        )
        low = high = np.array(np.nan)
        if n_clusters >= MIN_CLUSTERS:
            tail = expanded_tail(confidence, n_clusters)
            low, high = np.nanquantile(resampled[:, column], [tail, 1 - tail])
        difference = Interval(np.array(estimate), np.array(low), np.array(high), own.n)
        is_rare = p_values[column] <= 1 - draws.confidence
        differs = bool(is_rare and (low > 0 or high < 0))
        found.append(GroupDifference(group, own, difference, differs))
    return found


def _p_of_groups(
    survey: SurveyArrays, values: NDArray[np.float64], members: NDArray[np.bool_], draws: Draws
) -> NDArray[np.float64]:
    """Return how rarely labels that are dealt out anew make such a difference, for each group."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.ones(members.shape[1])
    p_values = label_test(
        values[known],
        members[known].argmax(1),
        survey.clusters_of(known),
        n_permutations=draws.n_resamples,
        seed=draws.seed,
    )
    return np.pad(p_values, (0, members.shape[1] - len(p_values)), constant_values=1.0)


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the numbers that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _n_drawn_together(survey: SurveyArrays, values: NDArray[np.float64]) -> int:
    """Return how many clusters the items are in that have a value."""
    indices = np.flatnonzero(np.isfinite(values))
    clusters = survey.clusters_of(indices)
    return len(indices) if clusters is None else len(set(clusters))
