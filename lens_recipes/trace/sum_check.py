"""Compare the sum of what blocks write with the stream, number by number."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.attribution.freeze import (
    frozen_norm,
    head_writes,
    if_centred,
    to_float32,
)
from lens_recipes.trace.operations import ModuleCall, slices
from lens_recipes.trace.plan import HeadSplit, ReadStep, StreamScales


class RunningSum:
    """A sum of what blocks write, and the same sum of absolute values, `[token, d_model]`."""

    def __init__(self, start: Tensor, size: Tensor) -> None:
        """Begin with a stream and its absolute values."""
        self.value = start
        self.size = size

    def add(self, write: Tensor) -> None:
        """Add what a module wrote."""
        self.value = self.value + write.to(self.value.device)
        self.size = self.size + write.abs().to(self.size.device)

    def scale(self, model: Any, operations: Any, device: torch.device) -> None:
        """Do to the sum what the model does to the stream."""
        self.value = self.value.to(device)
        self.size = self.size.to(device)
        for operation in operations:
            # Zero shows what the operation adds, which may be of the other sign.
            constant = operation.apply(model, torch.zeros_like(self.size))
            self.size = (operation.apply(model, self.size) - constant).abs() + constant.abs()
            self.value = operation.apply(model, self.value)

    def norm(self, model: Any, call: ModuleCall, stream: Tensor) -> None:
        """Norm the sum as the model norms the stream, which has its dtype and its device."""
        before = self.value.to(stream)
        after = call.apply(model, before.unsqueeze(0))[0]
        gain, bias, centred = frozen_norm(model, call, before, after)
        size = self.size.to(gain.device)
        size = if_centred(centred, lambda: size + size.mean(-1, keepdim=True), size)
        self.size = size * gain.abs() + bias.abs()
        self.value = to_float32(after)

    def error(self, stream: Tensor) -> Float[Tensor, " token"]:
        """Return the largest relative error of the sum against a stream that was read."""
        size = to_float32(stream).abs().to(self.size.device)
        return relative_error(self.value, stream, self.size + size)


class SumCheck:
    """Compares the sum of what was written with the stream that was read.

    "block" begins anew at each block; "total" goes on from the first block to the last.

    Attributes:
        errors: The largest relative error of each token so far, by name, on the device of the
            first.
    """

    def __init__(self, model: Any, max_bytes: int) -> None:
        """Begin before anything was read."""
        self.model = model
        self.max_bytes = max_bytes
        self.errors: dict[str, Tensor] = {}
        self.block: RunningSum | None = None
        self.total: RunningSum | None = None
        self.pending_heads: list[tuple[HeadSplit, Tensor]] = []

    def follow(self, step: ReadStep, value: Tensor) -> None:
        """Take one more value that was read."""
        if step.role == "heads" and step.heads is not None:
            self.pending_heads.append((step.heads, value))
        elif step.role == "before" and step.scales is not None:
            self.begin_block(value, step.scales)
        elif self.block is None or self.total is None:
            return
        elif step.role == "write":
            write = to_float32(value)
            self.block.add(write)
            self.total.add(write)
            if step.has_heads and self.pending_heads:
                self.compare_heads(*self.pending_heads.pop(), value)
        elif step.role in ("after", "norm"):
            self.note("block", self.block.error(value))
            self.note("total", self.total.error(value))
            if step.role == "norm" and step.scales is not None:
                self.pass_norm(value, step.scales)

    def begin_again(self) -> None:
        """Begin the total anew at the next block: an edit has set the stream."""
        self.total = None

    def begin_block(self, stream: Tensor, scales: StreamScales) -> None:
        """Begin the sum of a block at the stream before it."""
        start = to_float32(stream)
        self.block = RunningSum(start, start.abs())
        if self.total is None:
            self.total = RunningSum(start, start.abs())
        else:
            self.total.scale(self.model, scales.between, start.device)
        self.block.scale(self.model, scales.within, start.device)
        self.total.scale(self.model, scales.within, start.device)

    def pass_norm(self, stream: Tensor, scales: StreamScales) -> None:
        """Do to the sums what a norm, and the scales after it, do to the stream."""
        (call,) = scales.between
        for running_sum in (self.block, self.total):
            assert running_sum is not None  # `follow` has seen to it
            running_sum.norm(self.model, call, stream)
            running_sum.scale(self.model, scales.within, running_sum.value.device)

    def compare_heads(self, split: HeadSplit, heads: Tensor, write: Tensor) -> None:
        """Compare the shares of all heads, and the bias, with what attention really wrote."""
        widest = max(heads.shape[-1], write.shape[-1])
        tokens_at_once = self.max_bytes // (16 * (len(split.columns) + 1) * widest)
        sums, sizes = [], []
        for tokens in slices(len(heads), tokens_at_once):
            shares, bias = head_writes(self.model, split.columns, split.operations, heads, tokens)
            sums.append(shares.sum(0) + bias)
            sizes.append(largest(shares).amax(0))
        size = torch.maximum(torch.cat(sizes), largest(write))[:, None]
        self.note("head", relative_error(torch.cat(sums), write, size))

    def note(self, name: str, error: Float[Tensor, " token"]) -> None:
        """Keep the largest error of each token; a NaN stays."""
        if name in self.errors:
            error = torch.maximum(self.errors[name], error.to(self.errors[name].device))
        self.errors[name] = error


def relative_error(expected: Tensor, actual: Tensor, scale: Tensor) -> Float[Tensor, " token"]:
    """Return the largest relative error of each token, number by number.

    Beside a massive activation, a whole missing part would be lost in the size of the vector.
    """
    difference = (expected - to_float32(actual).to(expected.device)).abs()
    floor = 1e-6 * scale.amax(-1, keepdim=True)
    size = (scale + floor).to(expected.device).clamp(min=1e-30)
    return (difference / size).amax(-1)


def largest(vectors: Float[Tensor, "*head token d_model"]) -> Float[Tensor, "*head token"]:
    """Return the largest absolute value of each vector."""
    return to_float32(vectors).abs().amax(-1)
