"""Means over prompts, with intervals by a bootstrap over the prompts."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens_alignment import Spread
from lens_recipes.arrays.statistics.resampling import Resampling

MIN_PROMPTS = 4  # of fewer a bootstrap says nothing


def spread_over_prompts(values: NDArray[np.float64], seed: int) -> Spread:
    """Return the mean over prompts and its 95 % interval, for each layer.

    Prompts are drawn with replacement, the same ones for each layer and every measure. NaN stands
    for what is not defined, and is left out of each mean.

    Args:
        values: `[layer, prompt]`.
        seed: Of the draws.
    """
    numbers = Resampling(values.shape[1], seed=seed, min_clusters=MIN_PROMPTS).mean(values.T)
    return Spread(numbers.estimate.tolist(), numbers.low.tolist(), numbers.high.tolist())


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis of what is no NaN; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
        return np.nanmean(values, axis=-1)


def mean_by_prompt(
    values: NDArray[np.float64], prompts: list[int], n_prompts: int
) -> NDArray[np.float64]:
    """Return the mean over the tokens of each prompt, `[…, prompt]`.

    Args:
        values: `[…, token]`.
        prompts: The prompt of each token.
        n_prompts: How many prompts there are.
    """
    means = [
        mean_of_defined(values[..., np.array(prompts) == prompt]) for prompt in range(n_prompts)
    ]
    return np.stack(means, axis=-1)
