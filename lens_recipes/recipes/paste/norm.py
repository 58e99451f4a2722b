"""What the final norm of a model is, as a script must know it: found out on a copy with random weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from lens_recipes.errors import LensError


@dataclass(frozen=True)
class Norm:
    """x − mean(x) (if `centred`) over its size √(mean square + eps), times a gain, plus a bias (if `biased`)."""

    eps: float
    centred: bool
    biased: bool


def norm_of(module: nn.Module, width: int) -> Norm:
    """What a norm without weights does, tried on a copy of it with random ones.

    Raises:
        LensError: it is neither a layer norm nor an RMS norm.
    """
    norm = copy.deepcopy(module).to_empty(device="cpu").double()
    generator = torch.Generator().manual_seed(0)
    for weight in (*norm.parameters(), *norm.buffers()):
        weight.data.copy_(torch.rand(weight.shape, generator=generator, dtype=torch.float64) + 0.5)
    a, b = torch.randn(2, 1, 1, width, generator=generator, dtype=torch.float64)
    b = b * 1e-3  # as small as a part may be: there eps counts
    with torch.no_grad():
        bias = (norm(a) + norm(-a)) / 2  # not norm(0): without an eps that is 0 / 0
        for centred in (False, True):
            found = Norm(_eps(norm, centred, bias, a), centred, bool(bias.abs().max() > 1e-9))
            apart = (
                _frozen(norm, found, bias, a)
                + _frozen(norm, found, bias, b)
                - _frozen(norm, found, bias, a + b)
            )
            if apart.abs().max() < 1e-5:
                return found
    raise LensError(
        f"{type(module).__name__} is neither a layer norm nor an RMS norm, so a short script cannot hold it at its "
        "value. lens_recipes.attribution() can."
    )


def _eps(norm: nn.Module, centred: bool, bias: torch.Tensor, x: torch.Tensor) -> float:
    """What it adds to the mean square, read off what x and a tiny x give: some norms keep it in no attribute."""
    tiny = 1e-6
    square = (x - x.mean() if centred else x).pow(2).mean()
    shrunk = ((norm(x * tiny) - bias).norm() / (norm(x) - bias).norm()) ** 2
    # shrunk = tiny² (square + eps) / (tiny² square + eps), solved for eps
    eps = float(square * tiny**2 * (1 - shrunk) / (shrunk - tiny**2))
    return float(f"{eps:.3g}") if eps > 1e-14 else 0.0


def _frozen(norm: nn.Module, kind: Norm, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What is linear in x if the norm is what it is said to be: its output times the size that it divided by."""
    middle = x.mean(-1, keepdim=True) if kind.centred else 0
    return (norm(x) - bias) * ((x - middle).pow(2).mean(-1, keepdim=True) + kind.eps).sqrt()
