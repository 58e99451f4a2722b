"""`solve()`: the transports of what a fit of any kind added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lens_recipes.lenses.solve.jacobian import solve_jacobian
from lens_recipes.lenses.solve.linear import solve_linear
from lens_recipes.lenses.solve.solution import Solution, Sums

MERGED_KINDS = ("linear", "jacobian")  # of which sums are all that a lens is made of


def solve(
    kind: str, sums: Sums, layers: Sequence[int], device: str | torch.device = "cpu"
) -> Solution:
    """Return what the sums of a fit come to.

    Args:
        kind: "linear" or "jacobian".
        sums: What it added up, by half.
        layers: The streams that it has a transport for, in the order of the sums.
        device: Where to compute.

    Raises:
        ValueError: a kind whose transports are not made of sums.
    """
    if kind == "linear":
        return solve_linear(sums, layers, device)
    if kind == "jacobian":
        return solve_jacobian(sums, layers)
    raise ValueError(f"a {kind} lens is not made of sums; those that are: {MERGED_KINDS}.")
