"""The transports of a linear lens: weighted ridge regression in closed form.

Din et al., "Jump to Conclusions: Short-Cutting Transformers With Linear Transformations" (2023),
predict the final stream from an earlier one by least squares. Here each token counts by
1 / mean(final stream²), as the final norm will make all of them alike; means are subtracted; and
the ridge is the one with which each half of the text predicts the other best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.lenses.solve.solution import HALVES, Solution, Sums, add_sums, halves_of
from lens_recipes.trace.transport import Affine

# Ridges that are tried, as shares of the mean eigenvalue of Σ w x xᵀ over all text.
RIDGES = tuple(10.0**power for power in range(-8, 3))
FIRST_TRIED = RIDGES.index(1e-2)  # of the first layer; later ones begin where the last one ended


class Moments(NamedTuple):
    """Weighted moments of one stream and the final one, about their means, in float64.

    Attributes:
        xx, xy, yy: Σ w (x − x̄)(x − x̄)ᵀ, Σ w (x − x̄)(y − ȳ)ᵀ, Σ w |y − ȳ|².
        x, y: The means x̄ and ȳ.
        weight: Σ w.
    """

    xx: Float[Tensor, "d_in d_in"]
    xy: Float[Tensor, "d_in d_out"]
    yy: float
    x: Float[Tensor, " d_in"]
    y: Float[Tensor, " d_out"]
    weight: float

    @property
    def mean_eigenvalue(self) -> float:
        """The mean eigenvalue of `xx`."""
        return float(self.xx.diagonal().mean())

    @property
    def size(self) -> float:
        """How long a vector of the stream is: the root of the mean of |x|²."""
        spread = float(self.xx.diagonal().sum()) / self.weight
        return math.sqrt(spread + float(self.x @ self.x))


class Fitted(NamedTuple):
    """An affine map y ≈ x K + b."""

    matrix: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"]

    def transport(self) -> Affine:
        """Return it as a transport."""
        return Affine(self.matrix.T.float().contiguous().cpu(), self.bias.float().cpu())


def solve_linear(sums: Sums, layers: Sequence[int], device: str | torch.device = "cpu") -> Solution:
    """Return the affine map from each stream to the final one.

    Args:
        sums: Of each half, what `add_streams` gives, in float64.
        layers: Which stream each index of them is.
        device: Where to compute, in float64.

    Returns:
        The maps of all text and of each half; of each layer the ridge, as a share of the mean
        eigenvalue (None where there was one half alone, which cannot choose it), and how long its
        vectors are.
    """
    halves = halves_of(sums)
    transports, ridges, sizes = {}, {}, {}
    apart: list[dict[int, Affine]] = [{} for _ in halves]
    chosen = FIRST_TRIED
    for index, layer in enumerate(layers):
        moments = [moments_of(half, index, device) for half in halves]
        if len(halves) == len(HALVES):
            both = of_stream(halves[0], index)
            add_sums(both, of_stream(halves[1], index))
            whole = moments_of(both, 0, device)
            scale = whole.mean_eigenvalue
            chosen, fits = choose_ridge(moments, scale, chosen)
            for half, fitted in enumerate(fits):
                apart[half][layer] = fitted.transport()
        else:
            (whole,) = moments
            scale = whole.mean_eigenvalue
        transports[layer] = ridge_fit(whole, RIDGES[chosen] * scale).transport()
        ridges[str(layer)] = RIDGES[chosen] if len(halves) == len(HALVES) else None
        sizes[str(layer)] = whole.size
    if len(halves) < len(HALVES):
        apart = []
    return Solution(transports, apart, {"ridge": ridges, "sizes": sizes})


def of_stream(sums: Sums, index: int) -> dict[str, Tensor]:
    """Return the sums of one stream alone, as the only one."""
    own = dict(sums)
    for name in ("xx", "xy", "x"):
        own[name] = sums[name][index : index + 1]
    return own


def moments_of(sums: Sums, index: int, device: str | torch.device) -> Moments:
    """Return the moments of one stream about their means."""
    weight = float(sums["weight"])
    x = sums["x"][index].to(device) / weight
    y = sums["y"].to(device) / weight
    return Moments(
        xx=sums["xx"][index].to(device) - weight * torch.outer(x, x),
        xy=sums["xy"][index].to(device) - weight * torch.outer(x, y),
        yy=float(sums["yy"]) - weight * float(y @ y),
        x=x,
        y=y,
        weight=weight,
    )


def ridge_fit(moments: Moments, ridge: float) -> Fitted:
    """Return the map that makes Σ w |y − x K − b|² + ridge · |K|² smallest.

    Where the ridge is too small for the rounding of the sums, the map is NaN.
    """
    identity = torch.eye(len(moments.xx), dtype=moments.xx.dtype, device=moments.xx.device)
    factor, failure = torch.linalg.cholesky_ex(moments.xx + ridge * identity)
    matrix = torch.cholesky_solve(moments.xy, factor)
    if int(failure):
        matrix = torch.full_like(matrix, float("nan"))
    return Fitted(matrix, moments.y - moments.x @ matrix)


def squared_error(fitted: Fitted, moments: Moments) -> float:
    """Return Σ w |y − x K − b|² / Σ w |y − ȳ|² on some text, from its moments alone."""
    matrix, bias = fitted
    offset = moments.y - moments.x @ matrix - bias
    error = moments.yy - 2 * (matrix * moments.xy).sum() + (matrix * (moments.xx @ matrix)).sum()
    return float(error + moments.weight * (offset @ offset)) / max(moments.yy, 1e-30)


class Choice(NamedTuple):
    """The place of a ridge among `RIDGES`, and what each half comes to with it."""

    place: int
    fits: tuple[Fitted, Fitted]


def choose_ridge(halves: Sequence[Moments], scale: float, start: int) -> Choice:
    """Return the ridge with which each half predicts the other best.

    Args:
        halves: The moments of two texts.
        scale: What the ridges are shares of. It is that of both together: a ridge says how much
            is known beforehand, which does not grow with the text.
        start: Where to begin to look.
    """
    first, second = halves
    fits: dict[int, tuple[Fitted, Fitted]] = {}

    def error(index: int) -> float:
        ridge = RIDGES[index] * scale
        fits[index] = ridge_fit(first, ridge), ridge_fit(second, ridge)
        crossed = squared_error(fits[index][0], second) + squared_error(fits[index][1], first)
        return crossed if math.isfinite(crossed) else math.inf

    index = lowest(error, start, len(RIDGES))
    return Choice(index, fits[index])


def lowest(error: Callable[[int], float], start: int, length: int) -> int:
    """Return where a function of 0…length − 1 that falls and then rises is lowest, from a guess."""
    known = {start: error(start)}
    place = start
    for step in (1, -1):
        while 0 <= place + step < length:
            if place + step not in known:
                known[place + step] = error(place + step)
            if not known[place + step] < known[place]:
                break
            place += step
    return place
