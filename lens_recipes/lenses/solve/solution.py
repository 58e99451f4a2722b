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


def halves_of(sums: Sums) -> list[dict[str, Tensor]]:
    """Return the sums of each half that there is."""
    halves = [half_of(sums, half) for half in HALVES]
    return [half for half in halves if half]


def add_sums(total: dict[str, Tensor], more: Sums) -> None:
    """Add the sums of one more text, name by name. No tensor is changed."""
    for name, value in more.items():
        if name in total:
            total[name] = total[name] + value
        else:
            total[name] = value
