"""Hold norms at their value of this run, which makes them linear in the parts of a stream.

A norm divides by the size of the whole vector, so the parts of a vector have no norm of their own.
Held at the whole vector's size, it is a linear map, and the parts of its output sum to what it
really gave (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

Like `readout`, everything here imports only torch and runs where the model is. Modules are called
and never their
weights: a norm's scale and bias are read by calling it on a few probe vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.kernels import kernels_for, sent
from lens_recipes.trace.operations import (
    ModuleCall,
    Operation,
    autocast_dtype,
    is_norm_call,
)
from lens_recipes.trace.transport import TransportCall


class FrozenNorm(NamedTuple):
    """A norm as the affine map that it is at some tokens.

    It maps v to gain ⊙ v + bias, or v minus its mean if `centred`.

    Attributes:
        gain: `[token, d_model]`.
        bias: `[d_model]`.
        centred: Whether the mean of a vector is taken off first, as in a layer norm; where asking a
            tensor makes the host wait, the tensor that knows.
    """

    gain: Tensor
    bias: Tensor
    centred: bool | Tensor


class CallInDtype(NamedTuple):
    """A call of a module, which takes its input in one dtype."""

    call: ModuleCall
    dtype: torch.dtype


FrozenOperation = FrozenNorm | CallInDtype | Operation


def freeze_norm(
    model: Any, operations: Sequence[Operation], x: Float[Tensor, "token d_model"]
) -> tuple[list[FrozenOperation], Tensor]:
    """Return the operations with every norm as its affine map at `x`, and what they make of `x`."""
    frozen: list[FrozenOperation] = []
    for operation in operations:
        after = operation.apply(model, x.unsqueeze(0))[0]
        if not isinstance(operation, ModuleCall):
            frozen.append(operation)
        elif operation.is_norm:
            frozen.append(frozen_norm(model, operation, x, after))
        else:
            frozen.append(CallInDtype(operation, x.dtype))
        x = after
    return frozen, x


class NormParameters(NamedTuple):
    """Scale and bias of a norm `[d_model]`, and whether it takes off a vector's mean."""

    scale: Tensor
    bias: Tensor
    centred: bool | Tensor


def frozen_norm(
    model: Any,
    norm: ModuleCall,
    x: Float[Tensor, "token d_model"],
    after: Float[Tensor, "token d_model"],
) -> FrozenNorm:
    """Return a norm as the affine map that it is at `x`, of which it made `after`.

    norm(v) = factor · scale ⊙ (v − mean v) + bias, where an RMS norm takes off no mean. Only the
    factor depends on v. It
    is fitted by least squares over all columns: (after − bias) = factor · scale ⊙ (x − mean x).
    """
    scale, bias, centred = read_scale_and_bias(model, norm, x)
    scale, bias = scale.to(after.device), bias.to(after.device)
    direction = scale * centre(to_float32(x.to(after.device)), centred)
    squared = (direction * direction).sum(-1).clamp(min=1e-30)
    factor = ((to_float32(after) - bias) * direction).sum(-1) / squared
    return FrozenNorm(factor[:, None] * scale, bias, centred)


def read_scale_and_bias(model: Any, norm: ModuleCall, like: Tensor) -> NormParameters:
    """Read a norm's parameters by calling it on probe vectors.

    A probe p of +1 and −1 has the mean 0 and the mean square 1, so that a norm passes it on as it
    is: norm(±p) = ±scale ⊙ p + bias. The half difference of the two is scale ⊙ p, the half sum is
    the bias. And
    norm(p + 1) is norm(p) just where the norm takes off the mean; 5 % of the difference allow for
    its epsilon and for rounding. At an odd width the last three entries are 1, 1, −2, whose mean is
    0 as well.
    """
    probe = torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
    probe[1::2] = -1
    if len(probe) % 2:
        probe[-3:-1] = 1
        probe[-1] = -2
    probes = torch.stack([probe, -probe, probe + 1])
    positive, negative, shifted = to_float32(norm.apply(model, probes.unsqueeze(0))[0])
    difference = positive - negative
    is_centred = (shifted - positive).abs().max() <= 0.05 * difference.abs().max()
    centred = bool(is_centred) if kernels_for(is_centred.device).asks_at_once else is_centred
    scale = difference / 2 / probe.to(difference.device)
    return NormParameters(scale, (positive + negative) / 2, centred)


def centre(x: Tensor, centred: bool | Tensor) -> Tensor:
    """Take off the mean of each vector, if the norm does."""
    return if_centred(centred, lambda: x - x.mean(-1, keepdim=True), x)


def if_centred(centred: bool | Tensor, make: Callable[[], Tensor], otherwise: Tensor) -> Tensor:
    """Return what `make` makes if the norm takes off the mean, else `otherwise`.

    Where nobody asked whether it does, both are made.
    """
    if isinstance(centred, Tensor):
        return torch.where(centred.to(otherwise.device), make(), otherwise)
    return make() if centred else otherwise


def apply_affine(
    model: Any, frozen: Sequence[FrozenOperation], rows: Float[Tensor, "part token d"]
) -> Float[Tensor, "part token out"]:
    """Apply frozen operations to other vectors: an affine map for each token, biases included."""
    for operation in frozen:
        if isinstance(operation, FrozenNorm):
            gain, bias, centred = operation
            rows = centre(to_float32(rows.to(gain.device)), centred) * gain + bias
        elif isinstance(operation, CallInDtype):
            rows = call_on_rows(model, operation.call, rows.to(operation.dtype))
        elif isinstance(operation, ModuleCall):
            rows = call_on_rows(model, operation, rows)
        elif isinstance(operation, TransportCall):
            rows = operation.apply(model, to_float32(rows))  # not rounded as the stream is
        else:
            rows = operation.apply(model, rows)
    return rows


def call_on_rows(
    model: Any, call: ModuleCall, rows: Float[Tensor, "part token d"]
) -> Float[Tensor, "part token out"]:
    """Call a module on vectors of parts and tokens; it expects [batch, position, d_model]."""
    flat = rows.flatten(0, 1).unsqueeze(0)
    return call.apply(model, flat)[0].unflatten(0, rows.shape[:2])


def to_float32(x: Tensor) -> Tensor:
    """Return a tensor in at least float32: sums must not be rounded as the stream is."""
    return x if x.dtype == torch.float64 else x.float()


def bfloat16_scale(x: Tensor) -> int:
    """Return by how much a part is made larger before an affine map, and its share smaller after.

    In bfloat16 a small part would be rounded away beside the map's bias, which is taken off again.
    """
    dtypes = (x.dtype, autocast_dtype(x.device))
    return 1024 if torch.bfloat16 in dtypes else 1


def head_writes(
    model: Any,
    columns: list[list[int]],
    operations: Sequence[Operation],
    side_by_side: Float[Tensor, "token inner"],
    tokens: slice = slice(None),
) -> tuple[Float[Tensor, "head token d_model"], Float[Tensor, "token d_model"]]:
    """Return what each head adds to the stream, and what the projection adds by itself.

    A head alone is the projection called with the other heads' columns at zero.

    Args:
        model: The nnsight model.
        columns: Of each head, in the input of the output projection.
        operations: From there to the stream.
        side_by_side: The input of the output projection, with all heads.
        tokens: For which tokens.
    """
    x = side_by_side[tokens]
    frozen: Sequence[FrozenOperation] = operations
    if any(is_norm_call(operation) for operation in operations):
        frozen, _ = freeze_norm(model, operations, x)
    scale = bfloat16_scale(x)
    masks = x.new_zeros(len(columns) + 1, x.shape[-1])  # the last row is of no head
    masks[:-1].scatter_(1, sent(torch.tensor(columns, device="cpu"), x.device), scale)
    writes = to_float32(apply_affine(model, frozen, x * masks[:, None]))
    projection = writes[-1]
    return (writes[:-1] - projection) / scale, projection


def one_head(
    model: Any,
    columns: list[int],
    operations: Sequence[Operation],
    side_by_side: Tensor,
    tokens: slice,
) -> Float[Tensor, "token d_model"]:
    """Return what one head adds to the stream at some tokens, in the stream's dtype."""
    heads, _ = head_writes(model, [columns], operations, side_by_side, tokens)
    return heads[0].to(side_by_side.dtype)
