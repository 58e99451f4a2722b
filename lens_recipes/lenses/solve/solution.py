"""`Solution`: what a fit comes to, and the halves that its sums are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lens_recipes.trace.transport import Affine

HALVES = ("a", "b")  # each row of text belongs to one of them
ROWS = "rows"  # the name of the keys of all rows among the sums

Sums = Mapping[str, Tensor]  # a name such as "a.xx" is that of half a
Transports = dict[int, Affine]


class Solution(NamedTuple):
    """What sums come to.

    Attributes:
        transports: Of all text.
        halves: Of each half of the text alone; empty where a half has none.
        settings: What was chosen on the way, as JSON can hold it.
    """

    transports: Transports
    halves: list[Transports]
    settings: dict[str, Any]


def half_of(sums: Sums, half: str) -> dict[str, Tensor]:
    """Return the sums of one half by their names without it; empty where it has none."""
    prefix = f"{half}."
    own = {}
    for name, value in sums.items():
        if name.startswith(prefix):
            own[name.removeprefix(prefix)] = value
    return own


def added(left: Sums, right: Sums) -> dict[str, Tensor]:
    """Return the sums of two texts together, name by name."""
    total = dict(left)
    for name, value in right.items():
        total[name] = total[name] + value if name in total else value
    return total
