"""Quantiles of the normal and of Student's distribution, without scipy."""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution, to about six digits.

    Found by bisection of the distribution function, which is a finite sum (Abramowitz & Stegun
    1964, 26.7.3 and 26.7.4). Beyond 200 degrees of freedom the expansion in 1/degrees is used
    (26.7.5).

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, from 1.

    Raises:
        ValueError: a probability or degrees out of range.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(
            f"probability={probability!r} must be between 0 and 1, degrees={degrees!r} from 1."
        )
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    if degrees > 200:
        return _expansion(NORMAL.inv_cdf(probability), degrees)
    low, high = 0.0, 10.0
    while _student_cdf(high, degrees) < probability:
        high *= 10
    for _ in range(100):
        middle = (low + high) / 2
        if _student_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    """Return the distribution function of Student's t at t ≥ 0."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    n_terms = degrees // 2
    total = 0.0
    for number in range(1, n_terms + 1):
        total += term
        ratio = 2 * number / (2 * number + 1) if is_odd else (2 * number - 1) / (2 * number)
        term *= cosine * cosine * ratio
    share = (2 / math.pi) * (angle + sine * total) if is_odd else sine * total
    return (1 + share) / 2


def _expansion(normal: float, degrees: int) -> float:
    """Return Student's quantile from the normal one, for many degrees of freedom."""
    first = (normal**3 + normal) / 4
    second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
    return normal + first / degrees + second / degrees**2
