"""The numbers of one figure, all written alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.views.words import MAX_FIXED_LOGIT, minus

DIGITS = 3  # of the largest number, if it is below 1
LEAST_DECIMALS = 2
MOST_DECIMALS = 5  # more zeros than that are written as an exponent


class LogitFormat(NamedTuple):
    """Writes logits with their sign and always as many decimals.

    Attributes:
        decimals: How many.
        exponent: Whether numbers are written with an exponent, because the largest is tiny or huge.
    """

    decimals: int = LEAST_DECIMALS
    exponent: bool = False

    @classmethod
    def fit(cls, values: NDArray[np.floating[Any]]) -> LogitFormat:
        """Return the format in which the largest of some logits has at least three digits.

        >>> LogitFormat.fit(np.array([1.23456, -0.0012])), LogitFormat.fit(np.array([0.0123]))
        (LogitFormat(decimals=2, exponent=False), LogitFormat(decimals=4, exponent=False))
        """
        finite = np.abs(values[np.isfinite(values)])
        largest = float(finite.max(initial=0))
        if largest == 0:
            return cls()
        decimals = max(DIGITS - 1 - math.floor(math.log10(largest)), LEAST_DECIMALS)
        if decimals > MOST_DECIMALS or largest >= MAX_FIXED_LOGIT:
            return cls(exponent=True)
        return cls(decimals)

    def write(self, value: float | np.floating[Any]) -> str:
        """Return a number as text; one that rounds to zero has no sign.

        >>> LogitFormat().write(-0.0012), LogitFormat().write(-1.234), LogitFormat(3).write(0.5)
        ('0.00', '−1.23', '+0.500')
        """
        number = float(value)
        if math.isnan(number):
            return "nan"
        if self.exponent and number != 0:
            return minus(f"{number:+.{self.decimals}e}")
        text = f"{number:+.{self.decimals}f}"
        if float(text) == 0:
            return text[1:]
        return minus(text)
