"""pass@k: how much of what is looked for is among the first k tokens of some layer.

Source: Gurnee, Sofroniew, Lindsey et al. 2026, "Verbalizable Representations Form a Global
Workspace in Language Models", where it compares lenses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.resampling import Interval, Resampling
from lens_recipes.arrays.survey.arrays import CONTROLS, SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, draws_of
from lens_recipes.arrays.survey.metrics import best_over_sites, ranked

DEFAULT_KS = (1, 10, 100)


class PassAtK(NamedTuple):
    """pass@k of a survey, or of a group of it.

    Attributes:
        ks: Each k.
        interval: Over the ks: estimate, low, high. Its `n` counts clusters.
        n_items: How many items these are in all.
    """

    ks: tuple[int, ...]
    interval: Interval
    n_items: int


def pass_at_k(
    survey: SurveyArrays,
    ks: Sequence[int] = DEFAULT_KS,
    *,
    group: str | None = None,
    control: str | None = None,
    layers: Sequence[int] | None = None,
    draws: Draws | None = None,
) -> PassAtK:
    """Return how often an answer is among the first k tokens at one layer or another.

    The share of the items of a cluster is taken first, then the mean over clusters: each counts the
    same, however many items it has. With the items of `lens_evals` a cluster is an item of the
    paper, and what is looked for are its intermediates. Items without a cluster are one each.
    Clusters are drawn for the interval.

    The more layers are read, the more chances there are: compare lenses on the same layers, and
    hold the number against that of a control.

    Args:
        survey: The survey.
        ks: 1 for the top token alone.
        group: Of which items; None for all.
        control: What is looked for in the answer's place: None, "shuffle" or "random".
        layers: Which of the layers that were read count; None for all.
        draws: How the interval is made; None for as `survey` was told.

    Raises:
        ValueError: a k below 1, or no such group, control or layer.

    Example:
        >>> pass_at_k(survey(model, "two-hop", fields={"target": "bridge"}), ks=[1, 10])
    """
    numbers = tuple(ks) if isinstance(ks, Iterable) else ()
    if not numbers or any(type(k) is not int or k < 1 for k in numbers):
        raise ValueError(f"ks={ks!r:.80} must be whole numbers from 1, such as (1, 10, 100).")
    if control is not None and control not in list(CONTROLS):
        known = ", ".join(map(repr, CONTROLS))
        raise ValueError(f"control={control!r} is unknown: accepted are None, {known}.")
    indices = survey.items_of(group)
    ranks = ranked(survey, control)[indices][:, counted_sites(survey, layers)]
    has_rank = np.any(ranks >= 0, axis=1)
    is_found = best_over_sites(ranks)[:, None] < np.array(numbers)
    values = np.where(has_rank[:, None], is_found, np.nan)
    shares = cluster_shares(values, survey.clusters_of(indices))  # `[cluster, k]`
    made = draws_of(survey, draws)
    resampling = Resampling(
        len(shares),
        n_resamples=made.n_resamples,
        confidence=made.confidence,
        seed=made.seed,
    )
    return PassAtK(numbers, resampling.mean(shares), int(has_rank.sum()))


def counted_sites(survey: SurveyArrays, layers: Sequence[int] | None) -> list[int]:
    """Return the sites of the stream after each of some layers.

    Raises:
        ValueError: a layer that was not read.
    """
    sites = survey.layer_sites
    if layers is None:
        return sites
    site_of = {survey.sites[site].layer: site for site in sites}
    wanted = list(layers) if isinstance(layers, Iterable) else []
    if not wanted or any(layer not in site_of for layer in wanted):
        read = ", ".join(str(layer) for layer in site_of)
        raise ValueError(f"layers={layers!r:.80} must be some of those that were read: {read}.")
    return [site_of[layer] for layer in wanted]


def cluster_shares(values: NDArray[np.float64], clusters: list[str] | None) -> NDArray[np.float64]:
    """Return the mean over the items of each cluster, `[cluster, k]`; NaN for none.

    Args:
        values: `[item, k]`; NaN where an item does not count.
        clusters: Of each item; None for each by itself.
    """
    if clusters is None:
        return values
    grouping = Resampling(len(values), clusters)
    is_known = np.isfinite(values)
    sums = grouping.cluster_sums(np.where(is_known, values, 0.0))
    sizes = grouping.cluster_sums(is_known.astype(np.float64))
    with np.errstate(invalid="ignore"):
        return sums / sizes
