"""Curves over the sites: a metric's mean or median over items, its interval, and its control."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.median import median
from lens_recipes.arrays.statistics.resampling import Interval, Resampling
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.metrics import (
    WITHOUT_ANSWER,
    Values,
    emerged,
    emergence,
    item_values,
    prediction_depth,
)
from lens_recipes.arrays.survey.names import find_name

LESS_IS_BETTER = ("rank", "entropy", "kl")
MEDIAN = ("rank",)  # a mean rank is that of the few worst items


class Draws(NamedTuple):
    """How intervals are made.

    Attributes:
        n_resamples: How many times the items are drawn.
        confidence: Of the intervals.
        seed: For the draws: the same draws for all that is compared.
    """

    n_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


DEFAULT_DRAWS = Draws()


def draws_of(survey: SurveyArrays, draws: Draws | None = None) -> Draws:
    """Return how intervals are made: as asked, or for None as `survey` was told."""
    if draws is not None:
        return draws
    told = survey.provenance.get("draws")
    return Draws(**told) if isinstance(told, dict) else DEFAULT_DRAWS


class Curve(NamedTuple):
    """A metric over the sites.

    Attributes:
        metric: Its name.
        group: Of which items; None for all.
        control: What stands in the answer's place; None for the answer itself.
        interval: Over the sites: estimate, low, high, n.
        n_clusters: How many clusters the items are in; None where they are not clustered.
    """

    metric: str
    group: str | None
    control: str | None
    interval: Interval
    n_clusters: int | None


def curve(
    survey: SurveyArrays,
    metric: str,
    *,
    group: str | None = None,
    control: str | None = None,
    draws: Draws = DEFAULT_DRAWS,
) -> Curve:
    """Return a metric over all sites, with its interval over the items.

    Ranks have a median; all others a mean.

    Args:
        survey: The survey.
        metric: As of `item_values`, or "emerged" and "decided": the share of items whose answer is
            the top token, or the model's answer the lens's, from a site on.
        group: Of which items; None for all.
        control: None, "shuffle" or "random".
        draws: How the interval is made.

    Raises:
        ValueError: no such metric, group or control.
    """
    indices = survey.items_of(group)
    values = values_of(survey, metric, control)[indices]
    resampling = resampling_of(survey, indices, draws)
    interval = middle(metric, values, resampling)
    clustered = survey.clusters_of(indices) is not None
    return Curve(metric, group, control, interval, resampling.n_clusters if clustered else None)


def use_median(metric: str, values: Values) -> bool:
    """Tell whether a metric's median is taken; items without a value leave only the mean."""
    return metric in MEDIAN and bool(np.isfinite(values).all())


def middle(metric: str, values: Values, resampling: Resampling) -> Interval:
    """Return the median of a metric that has one, else the mean."""
    return median(values, resampling) if use_median(metric, values) else resampling.mean(values)


def values_of(survey: SurveyArrays, metric: str, control: str | None) -> Values:
    """Return a metric of each item at each site, those over the sites among them.

    Raises:
        ValueError: no such metric, or no such control of it.
    """
    if not find_name(metric).has_control and control is not None:
        raise ValueError(f"{metric} looks at no answer, so it has no control.")
    if metric == "emerged":
        return emerged(emergence(survey, control), len(survey.layer_sites))
    if metric == "decided":
        return emerged(prediction_depth(survey), len(survey.layer_sites))
    return item_values(survey, metric, control)


def resampling_of(survey: SurveyArrays, indices: NDArray[np.intp], draws: Draws) -> Resampling:
    """Return the draws of some items."""
    return Resampling(
        len(indices),
        survey.clusters_of(indices),
        n_resamples=draws.n_resamples,
        confidence=draws.confidence,
        seed=draws.seed,
    )


class BeyondControl(NamedTuple):
    """Whether a curve leaves its control's.

    Attributes:
        difference: Answer minus control, item by item, over the sites: a mean, of ranks a median.
        is_beyond: Whether the interval of the difference lies on the better side of 0, `[site]`.
    """

    difference: Interval
    is_beyond: NDArray[np.bool_]


def beyond_control(
    survey: SurveyArrays,
    metric: str,
    *,
    group: str | None = None,
    control: str = "shuffle",
    draws: Draws = DEFAULT_DRAWS,
) -> BeyondControl:
    """Compare a curve with its control, item by item, on the same draws.

    Raises:
        ValueError: a metric without an answer, or no such group or control.
    """
    if metric in (*WITHOUT_ANSWER, "decided"):
        raise ValueError(f"{metric} looks at no answer, so it has no control.")
    indices = survey.items_of(group)
    own = values_of(survey, metric, None)[indices]
    other = values_of(survey, metric, control)[indices]
    resampling = resampling_of(survey, indices, draws)
    difference = middle(metric, own - other, resampling)
    is_beyond = difference.high < 0 if metric in LESS_IS_BETTER else difference.low > 0
    return BeyondControl(difference, is_beyond)
