"""The transports of a Jacobian lens: the mean of the Jacobians of all prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lens_recipes.lenses.solve.solution import (
    HALVES,
    Solution,
    Sums,
    Transports,
    add_sums,
    halves_of,
)
from lens_recipes.trace.transport import Affine

FIRST_POSITION = 16  # of a prompt: as in the reference, earlier ones are no sources and no targets


def solve_jacobian(sums: Sums, layers: Sequence[int]) -> Solution:
    """Return the mean Jacobian of each layer, all prompts weighted equally.

    Args:
        sums: Of each half `jacobian [layer, d_out, d_in]` and `n_prompts [1]`.
        layers: Which stream each of them starts from.
    """
    halves = halves_of(sums)
    both: dict[str, Tensor] = {}
    for half in halves:
        add_sums(both, half)
    apart: list[Transports] = []
    if len(halves) == len(HALVES):
        apart = [means(half, layers) for half in halves]
    return Solution(means(both, layers), apart, {})


def means(sums: Sums, layers: Sequence[int]) -> Transports:
    """Return the transports of one set of sums."""
    n_prompts = int(sums["n_prompts"])
    transports = {}
    for index, layer in enumerate(layers):
        transports[layer] = Affine((sums["jacobian"][index] / n_prompts).float())
    return transports
