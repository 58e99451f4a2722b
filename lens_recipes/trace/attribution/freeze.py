"""Norms held at their value of this run: what then is a linear map from a part of the stream to its share of a logit.

A norm divides by the size of the whole vector, so the parts of a vector have no norm of their own. Held at the whole
vector's size, it is a linear map, and the parts of its output sum to what it really gave (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits").

Like `readout`, everything here imports only torch and runs where the model is. Modules are called and never their
weights: a norm's scale and bias are read by calling it on a few probe vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.operations import ModuleCall, Operation, is_norm_call


class FrozenNorm(NamedTuple):
    """A norm as the affine map that it is at some tokens: gain ⊙ v + bias, of v minus its mean if `centred`.

    Attributes:
        gain: `[token, d_model]`.
        bias: `[d_model]`.
        centred: Whether the mean of a vector is taken off first, as in a layer norm.
    """

    gain: Tensor
    bias: Tensor
    centred: bool


class CallInDtype(NamedTuple):
    """A call of a module, which takes its input in one dtype."""

    call: ModuleCall
    dtype: torch.dtype


FrozenOperation = FrozenNorm | CallInDtype | Operation


def freeze_norm(
    model: Any, operations: Sequence[Operation], x: Float[Tensor, "token d_model"]
) -> tuple[list[FrozenOperation], Tensor]:
    """Return the operations with every norm as the linear map that it is at `x`, and what they make of `x`."""
    frozen: list[FrozenOperation] = []
    for operation in operations:
        after = operation.apply(model, x.unsqueeze(0))[0]
        if not isinstance(operation, ModuleCall):
            frozen.append(operation)
        elif operation.is_norm:
            frozen.append(_as_linear(model, operation, x, after))
        else:
            frozen.append(CallInDtype(operation, x.dtype))
        x = after
    return frozen, x


def _as_linear(model: Any, norm: ModuleCall, x: Tensor, after: Tensor) -> FrozenNorm:
    """Norm(v) = k · scale ⊙ (v − mean v) + bias with k from this run; for an RMS norm without the mean."""
    probe = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    probe[1::2] = -1
    if len(probe) % 2:
        probe[-3:] = torch.tensor([1.0, 1.0, -2.0])  # its mean is 0 at any width
    pair = to_float32(norm.apply(model, torch.stack([probe, -probe, probe + 1]).unsqueeze(0))[0])
    up, down, shifted = pair.to(after.device)
    scale, bias = (up - down) / 2 / probe.to(up.device), (up + down) / 2
    centred = bool((shifted - up).abs().max() <= 0.05 * (up - down).abs().max())
    direction = scale * _centre(to_float32(x.to(up.device)), centred)
    k = ((to_float32(after) - bias) * direction).sum(-1) / (direction * direction).sum(-1).clamp(
        min=1e-30
    )
    return FrozenNorm(k[:, None] * scale, bias, centred)


def _centre(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


def apply_affine(
    model: Any, frozen: Sequence[FrozenOperation], rows: Float[Tensor, "part token d"]
) -> Float[Tensor, "part token out"]:
    """The frozen steps on other vectors, biases included: an affine map, one for each token."""
    for operation in frozen:
        if isinstance(operation, FrozenNorm):
            gain, bias, centred = operation
            rows = _centre(to_float32(rows.to(gain.device)), centred) * gain + bias
        elif isinstance(operation, CallInDtype):
            rows = _called(model, operation.call, rows.to(operation.dtype))
        elif isinstance(operation, ModuleCall):
            rows = _called(model, operation, rows)
        else:
            rows = operation.apply(model, rows)
    return rows


def _called(model: Any, call: ModuleCall, rows: Tensor) -> Tensor:
    flat = rows.flatten(0, 1).unsqueeze(0)  # modules expect [batch, position, d_model]
    return call.apply(model, flat)[0].unflatten(0, rows.shape[:2])


def to_float32(x: Tensor) -> Tensor:
    """At least float32: sums must not be rounded as the stream is."""
    return x if x.dtype == torch.float64 else x.float()


def bfloat16_scale(x: Tensor) -> int:
    """By how much a part is made larger before an affine map, and its share smaller after.

    In bfloat16 a small part would be rounded away beside the map's bias, which is taken off again.
    """
    return 1024 if x.dtype == torch.bfloat16 else 1


def head_writes(
    model: Any,
    columns: list[list[int]],
    chain: Sequence[Operation],
    x: Float[Tensor, "token inner"],
    here: slice = slice(None),
) -> tuple[Float[Tensor, "head token d_model"], Float[Tensor, "token d_model"]]:
    """What each head adds to the stream, and what the projection (and a norm) add by themselves.

    `x` is the input of the output projection; `columns` are each head's, `chain` leads from there to the stream. A head
    alone is the projection called with the other heads' columns at zero.
    """
    x = x[here]
    frozen: Sequence[FrozenOperation] = chain
    if any(is_norm_call(operation) for operation in chain):
        frozen, _ = freeze_norm(model, chain, x)
    size = bfloat16_scale(x)
    own = x.new_zeros(len(columns) + 1, x.shape[-1])  # the last row is of no head
    own[:-1].scatter_(1, torch.tensor(columns, device=x.device), size)
    writes = to_float32(apply_affine(model, frozen, x * own[:, None]))
    return (writes[:-1] - writes[-1]) / size, writes[-1]


def one_head(
    model: Any, own: list[int], chain: Sequence[Operation], x: Tensor, here: slice
) -> Float[Tensor, "token d_model"]:
    """What one head adds to the stream at some tokens, in the stream's dtype."""
    return head_writes(model, [own], chain, x, here)[0][0].to(x.dtype)
