"""The numbers of `layer_profile`: quartiles of a metric at each layer, over tokens or prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import common_label, find_metric, metric_values
from lens_recipes.views.figures.layers.axes import LayerSeries
from lens_recipes.views.figures.layers.metrics import PROFILE_METRICS

Array = NDArray[np.floating[Any]]

QUARTILES = (0.25, 0.5, 0.75)


class Panel(NamedTuple):
    """The numbers of one metric.

    Attributes:
        metric: Which one.
        value_label: What the numbers are called.
        quartiles: `[layer, 3]`; NaN where no item has a number.
        counts: How many items have a number, `[layer]`.
        n_read: How many items were read.
        over: What an item is, "token" or "prompt".
        reason: Why an item has no number.
        ends_at_zero: Whether the last layer has 0 because the model's own answer is taken there.
    """

    metric: str
    value_label: str
    quartiles: Array
    counts: NDArray[np.int64]
    n_read: int
    over: str
    reason: str
    ends_at_zero: bool

    @property
    def is_empty(self) -> bool:
        """Whether no item has a number at any layer."""
        return not self.counts.any()

    @property
    def has_quartiles(self) -> bool:
        """Whether some layer has a number for more than one item."""
        return bool(self.counts.max() > 1)


def counted_tokens(single: LensArrays, first_position: bool) -> NDArray[np.bool_]:
    """Return which tokens of one prompt are counted: not position 0, where others were read."""
    position = single.tokens.position
    if first_position or (position == 0).all():
        return np.ones(len(position), dtype=bool)
    return position != 0


def make_panel(
    result: LensArrays,
    metric: str,
    of: Any,
    over: str,
    series: LayerSeries,
    *,
    first_position: bool = False,
) -> Panel:
    """Return the quartiles of one metric at each layer.

    Raises:
        ValueError: a metric that is not drawn here, or one that does not go with `of`.
    """
    entry = find_metric(metric, PROFILE_METRICS)
    values_by_prompt: list[Array] = []
    value_labels: list[str] = []
    for single in result:
        values, value_label = metric_values(single, metric, of)
        counted = counted_tokens(single, first_position)
        values = values[series.site_indices][:, counted].astype(np.float64)
        if over == "prompt":
            values = _prompt_values(values, logarithmic=entry.logarithmic)
        values_by_prompt.append(values)
        value_labels.append(value_label)
    all_values = np.concatenate(values_by_prompt, axis=1)
    about_the_answer = metric == "kl" or (metric == "rank" and of == "final")
    return Panel(
        metric=metric,
        value_label=common_label(metric, of, value_labels),
        quartiles=_row_quartiles(all_values),
        counts=(~np.isnan(all_values)).sum(axis=1),
        n_read=all_values.shape[1],
        over=over,
        reason="no next token" if "next" in (entry.about, of) else "no number",
        ends_at_zero=about_the_answer and series.site_indices[-1] == result.output_site,
    )


def _prompt_values(values: Array, *, logarithmic: bool) -> Array:
    """Return one number of a prompt for each layer, `[layer, 1]`: the mean of its tokens.

    The mean of ranks is the geometric one of rank + 1, so that one token far down does not hide
    all others.
    """
    if not logarithmic:
        return _row_means(values)
    return np.expm1(_row_means(np.log1p(values)))


def _row_means(values: Array) -> Array:
    """Return the mean of each row without its NaNs, `[row, 1]`; NaN where nothing is left."""
    means = np.full((len(values), 1), np.nan)
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
        for row, numbers in enumerate(values):
            present = numbers[~np.isnan(numbers)]
            if present.size:
                means[row] = np.mean(present)
    return means


def _row_quartiles(values: Array) -> Array:
    """Return the quartiles of each row without its NaNs, `[row, 3]`; NaN where nothing is left."""
    quartiles = np.full((len(values), len(QUARTILES)), np.nan)
    with np.errstate(invalid="ignore"):  # between infinities there is no quartile
        for row, numbers in enumerate(values):
            present = numbers[~np.isnan(numbers)]
            if present.size:
                quartiles[row] = np.quantile(present, QUARTILES)
    return quartiles
