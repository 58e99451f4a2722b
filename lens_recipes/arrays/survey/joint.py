"""Several curves at once, over the same draws: to draw the items is what costs time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.statistics.median import median
from lens_recipes.arrays.statistics.resampling import Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import (
    DEFAULT_DRAWS,
    LESS_IS_BETTER,
    Draws,
    resampling_of,
    use_median,
    values_of,
)
from lens_recipes.arrays.survey.metrics import Values

OVER_SITES = ("emerged", "decided")  # they follow the layers of one component


class Wanted(NamedTuple):
    """One curve that is wanted.

    Attributes:
        metric: Which metric.
        control: What stands in the answer's place; None for the answer itself.
        minus: A control that is subtracted item by item; None for nothing.
    """

    metric: str
    control: str | None = None
    minus: str | None = None


def joint_intervals(
    survey: SurveyArrays,
    wanted: Sequence[Wanted],
    site_indices: Sequence[int],
    *,
    group: str | None = None,
    draws: Draws = DEFAULT_DRAWS,
) -> dict[Wanted, Interval]:
    """Return the numbers of several curves at some sites, as `curve` and `beyond_control` do.

    Args:
        survey: The survey.
        wanted: Which curves.
        site_indices: Which sites; for "emerged" and "decided" those of their component.
        group: Of which items; None for all.
        draws: How the intervals are made.

    Raises:
        ValueError: no such metric, group or control.
    """
    indices = survey.items_of(group)
    resampling = resampling_of(survey, indices, draws)
    found: dict[Wanted, Interval] = {}
    of_means: list[Wanted] = []
    columns: list[Values] = []
    for each in wanted:
        places = places_of(survey, each.metric, site_indices)
        values = values_of(survey, each.metric, each.control)[indices]
        if each.minus is not None:
            values = values - values_of(survey, each.metric, each.minus)[indices]
        if use_median(each.metric, values):
            found[each] = median(values[:, places], resampling)
            continue
        of_means.append(each)
        columns.append(values[:, places])
    if columns:
        together = resampling.mean(np.stack(columns, axis=1))
        for number, each in enumerate(of_means):
            found[each] = Interval(*(numbers[number] for numbers in together))
    return found


def places_of(survey: SurveyArrays, metric: str, site_indices: Sequence[int]) -> list[int]:
    """Return where in a curve some sites are."""
    if metric not in OVER_SITES:
        return list(site_indices)
    series = survey.layer_sites
    return [series.index(index) for index in site_indices]


def sites_of(survey: SurveyArrays, metric: str) -> list[int]:
    """Return the indices of the sites that a metric has a number at."""
    if metric in OVER_SITES:
        return survey.layer_sites
    return list(range(len(survey.sites)))


def is_beyond(metric: str, difference: Interval) -> np.ndarray:
    """Return where an interval of answer minus control lies on the better side of 0."""
    return np.asarray(difference.high < 0 if metric in LESS_IS_BETTER else difference.low > 0)
