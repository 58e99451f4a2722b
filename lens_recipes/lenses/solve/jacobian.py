"""The transports of a Jacobian lens: the mean of the Jacobians of all prompts."""

from __future__ import annotations

from collections.abc import Sequence

from lens_recipes.lenses.solve.solution import HALVES, Solution, Sums, Transports, added, half_of
from lens_recipes.trace.transport import Affine

FIRST_POSITION = 16  # of a prompt: as in the reference, earlier ones are no sources and no targets


def solve_jacobian(sums: Sums, layers: Sequence[int]) -> Solution:
    """Return the mean Jacobian of each layer, all prompts weighted equally.

    Args:
        sums: Of each half `jacobian [layer, d_out, d_in]` and `n_prompts [1]`.
        layers: Which stream each of them starts from.
    """
    halves = [half_of(sums, half) for half in HALVES]
    present = [half for half in halves if half]
    both: dict = {}
    for half in present:
        both = added(both, half)
    apart = [means(half, layers) for half in present] if len(present) == len(HALVES) else []
    return Solution(means(both, layers), apart, {})


def means(sums: Sums, layers: Sequence[int]) -> Transports:
    """Return the transports of one set of sums."""
    n_prompts = int(sums["n_prompts"])
    transports = {}
    for index, layer in enumerate(layers):
        transports[layer] = Affine((sums["jacobian"][index] / n_prompts).float())
    return transports
