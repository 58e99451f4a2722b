"""`ConfirmationArrays`: direct effects of parts beside what ablating them does, in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes
from lens_recipes.arrays.edits.verdict import Verdict, judge

CONFIRMATION_AXES: Axes = {
    "direct": ("part", "prompt"),
    "base": ("prompt",),
    "totals": ("method", "part", "prompt"),
    "control_totals": ("method", "part", "control", "prompt"),
}
TOGETHER = "all together"


@dataclass(frozen=True, repr=False, eq=False)
class ConfirmationArrays:
    """The numbers of a confirmation: `Confirmation` without the methods that show and save it.

    All are logits, or differences of two, after one token of each prompt. A positive effect helps
    the target.

    Attributes:
        parts: Names of the parts, the largest direct effect first, and last "all together" where
            there are several.
        methods: What stood in place of a part: "mean", "resample", "zero".
        prompts: Display text of every prompt.
        target: What the logit is of: "' Paris' − ' London'".
        direct: What the attribution says that a part adds by itself, `[part, prompt]`.
        base: The logit, or the difference, of the unedited run, `[prompt]`.
        totals: By how much it falls where the part is ablated, `[method, part, prompt]`.
        control_totals: The same of random other parts of the same kind, `[method, part, control,
            prompt]`; NaN where there are fewer controls.
        controls: Which parts these were, `[part][control]`.
        left_out: Parts that the attribution names and that cannot be ablated, with the reason.
        where: At which tokens the parts were ablated, in words.
        provenance: Model, versions, arguments.
    """

    parts: list[str]
    methods: list[str]
    prompts: list[str]
    target: str
    direct: NDArray[np.float64]
    base: NDArray[np.float64]
    totals: NDArray[np.float64]
    control_totals: NDArray[np.float64]
    controls: list[list[str]]
    left_out: list[str]
    where: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def verdict(self, part: int | str, method: int | str = 0) -> Verdict:
        """Return whether ablating a part does more than ablating random others.

        Args:
            part: Its number or its name.
            method: The number or the name of what stood in its place.

        Raises:
            ValueError: no such part or method.
        """
        row = index_of(part, self.parts, "part")
        column = index_of(method, self.methods, "method")
        controls = self.control_totals[column, row]
        is_made = ~np.isnan(controls).any(axis=-1)
        return judge(self.totals[column, row], controls[is_made])

    def mean_direct(self, part: int) -> float:
        """Return the mean direct effect of a part over the prompts."""
        return float(self.direct[part].mean())

    def is_confirmed(self, part: int) -> bool | None:
        """Return whether a part is beyond its controls by every method; None without controls."""
        beyond = [self.verdict(part, method).beyond for method in range(len(self.methods))]
        if None in beyond:
            return None
        return all(beyond)

    def control_spread(self, part: int) -> tuple[float, float]:
        """Return mean and standard deviation of the controls' effects, over all methods; or NaN."""
        effects = self.control_totals[:, part].mean(axis=-1)
        effects = effects[~np.isnan(effects)]
        if len(effects) == 0:
            return math.nan, math.nan
        deviation = float(effects.std(ddof=1)) if len(effects) > 1 else math.nan
        return float(effects.mean()), deviation

    def rows(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the name of each part."""
        yield from enumerate(self.parts)


def index_of(what: int | str, names: list[str], axis: str) -> int:
    """Return the number of an entry that is given by its number or its name.

    Raises:
        ValueError: there is none.
    """
    if isinstance(what, str) and what in names:
        return names.index(what)
    if isinstance(what, int) and not isinstance(what, bool) and -len(names) <= what < len(names):
        return what % len(names)
    raise ValueError(f"{axis}={what!r} is unknown: there are {', '.join(map(repr, names))}.")
