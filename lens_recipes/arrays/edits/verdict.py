"""`judge()`: whether an effect is beyond its controls, by a rule that is said in words."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of Student's t: 97.5 % of its mass is below, for 1, 2, … degrees of freedom.
from lens_recipes.arrays.statistics.quantiles import student_quantile

RULE = (
    "Beyond the control: larger in size than the effect of every control; of two prompts or more, "
    "the effect must also exceed the controls' mean size in a paired comparison over the prompts "
    "(95 % t-interval above 0)."
)


class Interval(NamedTuple):
    """A 95 % interval of a mean over prompts; NaN where there is one prompt."""

    low: float
    high: float


class Verdict(NamedTuple):
    """An effect beside its controls.

    Attributes:
        effect: The mean over the prompts.
        effect_interval: Of it, over the prompts.
        control_low, control_high: The smallest and the largest of the controls' effects, each the
            mean over the prompts; NaN without controls.
        control_size: The mean size of a control's effect, over controls and prompts.
        excess: By how much the effect exceeds that, prompt by prompt: the interval of the mean.
        beyond: Whether the effect is beyond the control by `RULE`; None without controls.
        n_prompts, n_controls: How many there were.
    """

    effect: float
    effect_interval: Interval
    control_low: float
    control_high: float
    control_size: float
    excess: Interval
    beyond: bool | None
    n_prompts: int
    n_controls: int

    @property
    def words(self) -> str:
        """The verdict: "beyond the control", "not beyond the control" or "no control"."""
        if self.beyond is None:
            return "no control"
        return "beyond the control" if self.beyond else "not beyond the control"


def judge(effects: NDArray[Any], control_effects: NDArray[Any]) -> Verdict:
    """Return whether an effect is beyond its controls. `RULE` says how.

    Args:
        effects: Of the edit, `[prompt]`.
        control_effects: Of the controls, `[control, prompt]`.

    Example:
        >>> judge(np.array([-3.4]), np.array([[0.1], [-0.2]])).words
        'beyond the control'
    """
    effects = np.asarray(effects, dtype=np.float64)
    controls = np.asarray(control_effects, dtype=np.float64).reshape(-1, len(effects))
    mean = float(effects.mean())
    n_controls = len(controls)
    nothing = Interval(math.nan, math.nan)
    if n_controls == 0:
        return Verdict(
            effect=mean,
            effect_interval=t_interval(effects),
            control_low=math.nan,
            control_high=math.nan,
            control_size=math.nan,
            excess=nothing,
            beyond=None,
            n_prompts=len(effects),
            n_controls=0,
        )
    control_means = controls.mean(axis=1)
    sizes = np.abs(controls).mean(axis=0)  # [prompt]
    excess = t_interval(math.copysign(1.0, mean) * effects - sizes)
    is_largest = abs(mean) > np.abs(control_means).max()
    is_beyond = is_largest and (len(effects) < 2 or excess.low > 0)
    return Verdict(
        effect=mean,
        effect_interval=t_interval(effects),
        control_low=float(control_means.min()),
        control_high=float(control_means.max()),
        control_size=float(sizes.mean()),
        excess=excess,
        beyond=bool(is_beyond),
        n_prompts=len(effects),
        n_controls=n_controls,
    )


def t_interval(numbers: NDArray[np.float64]) -> Interval:
    """Return the 95 % interval of a mean by Student's t; NaN for one number."""
    n_numbers = len(numbers)
    if n_numbers < 2:
        return Interval(math.nan, math.nan)
    quantile = student_quantile(0.975, n_numbers - 1)
    mean = float(numbers.mean())
    margin = quantile * float(numbers.std(ddof=1)) / math.sqrt(n_numbers)
    return Interval(mean - margin, mean + margin)
