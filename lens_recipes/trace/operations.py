"""Read a module's output, and replay on other vectors what the model did to its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


def first_of(output: Any) -> Tensor:
    """A block's output stream: families and versions differ in whether it comes alone or first in a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


def model_logits(output: Any) -> Float[Tensor, "batch position vocab"]:
    """The logits in what a model returned."""
    return output.logits if hasattr(output, "logits") else output[0]


def replay(model: Any, steps: list[tuple], x: Tensor) -> Tensor:
    """Do to `x` what the model did."""
    for kind, name, *more in steps:
        if kind == "call":
            device = more[1]
            x = first_of(model.get(name)(x if device is None else x.to(device)))
        elif kind == "op":
            x = getattr(torch, name)(x, *more)
        elif kind == "cast":
            x = x.to(getattr(torch, name))
        elif kind == "keep":
            x = x[..., :name]
    return x


def slices(length: int, step: int) -> Iterator[slice]:
    """0 to `length`, at most `step` (and at least one) at a time."""
    step = max(1, step)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
