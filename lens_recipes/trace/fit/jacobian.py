"""Pull directions of the final stream back to earlier streams: the rows of their Jacobians.

The estimator is that of Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace
in Language Models": J = mean over sources t of the sum over targets t' ≥ t of ∂final[t'] / ∂h[t].
A cotangent that is 1 in one dimension at every target gives, at all sources at once, one row of the
sum; and one backward pass gives it for the streams of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class StreamRun(NamedTuple):
    """The streams of one prompt's forward pass, from which gradients can be taken.

    Attributes:
        sources: The stream after each layer that a Jacobian is wanted of,
            `[row, position, d_model]`.
        final: The stream before the final norm, of the same shape.
        places: The positions that are sources and targets.
    """

    sources: Sequence[Tensor]
    final: Tensor
    places: slice


def pull_batched(run: StreamRun, start: int, stop: int) -> list[Tensor | None]:
    """Pull some dimensions of the final stream back, all in one batched backward pass.

    Args:
        run: The forward pass of one row.
        start, stop: The dimensions.

    Returns:
        For each source `[dimension, position, d_model]`; None where the final stream does not
        depend on it.

    Raises:
        RuntimeError: an operation of the model has no rule for a batch of gradients.
    """
    n_dimensions = stop - start
    cotangents = run.final.new_zeros(n_dimensions, *run.final.shape)
    for number in range(n_dimensions):
        cotangents[number, 0, run.places, start + number] = 1
    gradients = torch.autograd.grad(
        run.final,
        list(run.sources),
        cotangents,
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
    )
    return [None if gradient is None else gradient[:, 0] for gradient in gradients]


def pull_repeated(run: StreamRun, start: int, stop: int) -> list[Tensor | None]:
    """Pull some dimensions of the final stream back, each in a row of its own.

    Args:
        run: The forward pass of the same prompt in at least as many rows as there are dimensions.
        start, stop: The dimensions.

    Returns:
        As `pull_batched`.
    """
    n_dimensions = stop - start
    cotangent = torch.zeros_like(run.final)
    for row in range(n_dimensions):
        cotangent[row, run.places, start + row] = 1
    gradients = torch.autograd.grad(
        run.final, list(run.sources), cotangent, retain_graph=True, allow_unused=True
    )
    return [None if gradient is None else gradient[:n_dimensions] for gradient in gradients]


def mean_over_sources(
    gradient: Float[Tensor, "dimension position d_model"], places: slice
) -> Float[Tensor, "dimension d_model"]:
    """Return the mean over these positions, in float32 or better.

    The sum over targets is in the gradient already.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return gradient[:, places].to(dtype).mean(1)
