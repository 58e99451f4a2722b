"""Add up products of streams where the model is: all that least squares needs of a text.

Everything here travels to a server by value, and calls modules only, so it also runs where the
weights are on the meta device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.batch import BatchSize
from lens_recipes.trace.operations import first_of, replay, without_autocast
from lens_recipes.trace.plan import ReadStep

SMALLEST_MEAN_SQUARE = 1e-30  # of a final stream: beneath it a token would outweigh all others


class FitBatch(NamedTuple):
    """Some rows of text, whose sums are brought back together.

    Attributes:
        passes: What the model is given in each forward pass: `input_ids [row, column]`, all rows of
            one length, and the options of its forward.
    """

    passes: list[dict[str, Any]]

    @property
    def n_tokens(self) -> int:
        """How many tokens run through the model."""
        return sum(one["input_ids"].numel() for one in self.passes)


class FitPlan(NamedTuple):
    """Which streams are read of every batch.

    Attributes:
        steps: One for each stream that a transport is fitted of, in the order in which the model
            runs, and last the final stream before the norm.
        has_products: Whether products of the streams are summed, which an estimate counts.
    """

    steps: list[ReadStep]
    has_products: bool = True

    @property
    def max_bytes(self) -> int:
        """Bound on the memory for logits: none are made."""
        return 0

    def batch_size(self, batch: FitBatch) -> BatchSize:
        """Return what makes a batch large: its largest pass."""
        largest = max((one["input_ids"] for one in batch.passes), key=Tensor.numel)
        rows, columns = largest.shape
        is_short = "logits_to_keep" in batch.passes[0]
        n_multiplied = len(self.steps) - 1 if self.has_products else 0
        return BatchSize(
            rows=rows,
            columns=columns,
            new_tokens=0,
            logits_per_row=1 if is_short else columns,
            keeps_scores=False,
            tokens=rows * columns,
            vectors=len(self.steps),
            logit_rows=0,
            all_tokens=batch.n_tokens,
            # The products of each stream with itself and with the final one.
            mapped_rows=2 * batch.n_tokens * n_multiplied,
        )

    def batch_identity(self, batch: FitBatch) -> list[Any]:
        """Return what tells a batch from another."""
        return [one["input_ids"] for one in batch.passes]


def add_streams(model: Any, plan: FitPlan, batch: FitBatch) -> dict[str, Tensor]:
    """Run some passes, and return the sums of products of their streams.

    x is a stream of a token, y its final stream, and w its weight: 1 / mean(y²), as the final norm
    makes all tokens alike in size.

    Returns:
        On the CPU, in float32 or as exact as the model: `xx` Σ w x xᵀ and `xy` Σ w x yᵀ
        `[stream, d_model, d_model]`; `x` Σ w x `[stream, d_model]`; `y` Σ w y `[d_model]`; `yy`
        Σ w |y|², `weight` Σ w and `n_tokens`, each `[1]`.
    """
    sums = ProductSums(len(plan.steps) - 1)
    for inputs in batch.passes:
        with torch.no_grad(), model.trace(**inputs):
            streams = nnsight.save(read_streams(model, plan.steps))
        sums.add(streams)
    return sums.on_cpu()


def read_streams(model: Any, steps: list[ReadStep]) -> list[Float[Tensor, "token d_model"]]:
    """Read whole streams of a running model, all rows end to end.

    Each is a copy: some models write on into their own tensors.
    """
    streams = []
    for step in steps:
        module = model.get(step.module)
        value = first_of(module.input if step.side == "in" else module.output)
        rows = value.reshape(-1, value.shape[-1]).clone()
        streams.append(replay(model, step.operations, rows))
    return streams


class ProductSums:
    """Sums of products of streams, kept on the device of each stream."""

    def __init__(self, n_streams: int) -> None:
        """Begin with nothing for so many streams beside the final one."""
        self.n_streams = n_streams
        self.xx: list[Tensor] = []
        self.xy: list[Tensor] = []
        self.x: list[Tensor] = []
        self.final: dict[str, Tensor] = {}
        self.n_tokens = 0

    def add(self, streams: list[Float[Tensor, "token d_model"]]) -> None:
        """Add the products of some tokens."""
        y = streams[-1]
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        weight = 1 / (y * y).mean(-1).clamp(min=SMALLEST_MEAN_SQUARE)
        if not self.xx:
            self.begin(streams, y.dtype)
        with torch.no_grad(), without_autocast(y.device):
            for index in range(self.n_streams):
                x = streams[index].to(y.dtype)
                weighted = x * weight.to(x.device)[:, None]
                self.xx[index].addmm_(weighted.T, x)
                self.xy[index].addmm_(weighted.T, y.to(x.device))
                self.x[index] += weighted.sum(0)
            weighted = y * weight[:, None]
            self.final["y"] += weighted.sum(0)
            self.final["yy"] += (weighted * y).sum()
            self.final["weight"] += weight.sum()
        self.n_tokens += len(y)

    def begin(self, streams: list[Float[Tensor, "token d_model"]], dtype: torch.dtype) -> None:
        """Make the sums, all of them zero."""
        d_final = streams[-1].shape[-1]
        for stream in streams[:-1]:
            width = stream.shape[-1]
            self.xx.append(torch.zeros(width, width, dtype=dtype, device=stream.device))
            self.xy.append(torch.zeros(width, d_final, dtype=dtype, device=stream.device))
            self.x.append(torch.zeros(width, dtype=dtype, device=stream.device))
        for name, size in (("y", d_final), ("yy", 1), ("weight", 1)):
            self.final[name] = torch.zeros(size, dtype=dtype, device=streams[-1].device)

    def on_cpu(self) -> dict[str, Tensor]:
        """Return all sums on the CPU, by their names in `add_streams`."""
        by_stream = {"xx": self.xx, "xy": self.xy, "x": self.x}
        sums = {}
        for name, values in by_stream.items():
            sums[name] = torch.stack([value.cpu() for value in values])
        for name, value in self.final.items():
            sums[name] = value.cpu()
        sums["n_tokens"] = torch.tensor([self.n_tokens], dtype=torch.int64, device="cpu")
        return sums
