"""Find out which norm a model ends with: a pasted attribution computes the size it divides by.

A norm may keep its settings in any attribute or in none. So a copy of the module gets random
weights, is called on random vectors, and shows by its outputs what it does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_recipes.errors import LensError


@dataclass(frozen=True)
class Norm:
    """A norm, as the map x → gain · (x − mean) / size + bias.

    The size is √(mean square of x − mean, plus eps).

    Attributes:
        eps: What is added to the mean square.
        centred: Whether the mean is subtracted (a layer norm); otherwise it is 0 (an RMS norm).
        biased: Whether there is a bias.
    """

    eps: float
    centred: bool
    biased: bool


def identify_norm(module: nn.Module, width: int) -> Norm:
    """Find out which norm a module is, from a copy with random weights.

    The product of a norm's output, without its bias, and the size it divides by is linear in the
    input. A layer norm and an RMS norm divide by different sizes: the right one makes it linear.

    Args:
        module: The norm, with or without its own weights.
        width: The width of the vectors that it takes.

    Raises:
        LensError: The module is neither a layer norm nor an RMS norm.
    """
    generator = torch.Generator().manual_seed(0)
    norm = _with_random_weights(module, generator)
    large, small = torch.randn(
        2, 1, 1, width, generator=generator, dtype=torch.float64, device="cpu"
    )
    small = small * 1e-3  # as small as one part of a stream may be: there eps matters
    with torch.no_grad():
        bias = (norm(large) + norm(-large)) / 2  # norm(0) would be 0 / 0 without an eps
        is_biased = bool(bias.abs().max() > 1e-9)
        for centred in (False, True):
            epsilon = _read_eps(norm, centred, bias, large)
            candidate = Norm(epsilon, centred, is_biased)
            if _is_linear(norm, candidate, bias, large, small):
                return candidate
    raise LensError(
        f"{type(module).__name__} is neither a layer norm nor an RMS norm, so a short script "
        "cannot hold it at its value. lens_recipes.attribution() can."
    )


def _with_random_weights(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a float64 copy of a module with random weights between 0.5 and 1.5."""
    norm = copy.deepcopy(module).to_empty(device="cpu").double()
    for weight in (*norm.parameters(), *norm.buffers()):
        values = torch.rand(weight.shape, generator=generator, dtype=torch.float64, device="cpu")
        weight.data.copy_(values + 0.5)
    return norm


def _read_eps(
    norm: nn.Module, centred: bool, bias: Float[Tensor, "1 1 d"], x: Float[Tensor, "1 1 d"]
) -> float:
    """Compute what a norm adds to the mean square, from its outputs for x and for a tiny x.

    With the mean square s of x and a factor t, the squared ratio r of the two outputs is
    t² (s + eps) / (t² s + eps). Solved for eps, that is s t² (1 − r) / (r − t²).
    """
    factor = 1e-6
    centred_x = x - x.mean() if centred else x
    mean_square = centred_x.pow(2).mean()
    output_size = (norm(x) - bias).norm()
    tiny_output_size = (norm(x * factor) - bias).norm()
    ratio = (tiny_output_size / output_size) ** 2
    epsilon = float(mean_square * factor**2 * (1 - ratio) / (ratio - factor**2))
    if epsilon <= 1e-14:
        return 0.0
    return float(f"{epsilon:.3g}")


def _is_linear(
    norm: nn.Module,
    candidate: Norm,
    bias: Float[Tensor, "1 1 d"],
    first: Float[Tensor, "1 1 d"],
    second: Float[Tensor, "1 1 d"],
) -> bool:
    """Check that a norm, times the size of this candidate, maps the sum of two vectors to a sum."""
    sum_of_outputs = _times_size(norm, candidate, bias, first) + _times_size(
        norm, candidate, bias, second
    )
    output_of_sum = _times_size(norm, candidate, bias, first + second)
    return bool((sum_of_outputs - output_of_sum).abs().max() < 1e-5)


def _times_size(
    norm: nn.Module, candidate: Norm, bias: Float[Tensor, "1 1 d"], x: Float[Tensor, "1 1 d"]
) -> Float[Tensor, "1 1 d"]:
    """Return a norm's output without its bias, times the size by which the candidate divides."""
    centred_x = x - x.mean(-1, keepdim=True) if candidate.centred else x
    mean_square = centred_x.pow(2).mean(-1, keepdim=True)
    return (norm(x) - bias) * (mean_square + candidate.eps).sqrt()
