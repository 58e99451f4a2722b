"""How large the pieces are that work is cut into, and what differs between kinds of device.

Every tile width, chunk and batch size of a model's runs that only speed and memory depend on stands
here, with what measured it, and on which kind of device. Nothing here was measured on an
accelerator yet: `benchmarks/gpu.py` does that, and what it says belongs here. No number changes a
result by more than rounding. "Beside its neighbours" means: in turn with them, on one core, with
SmolLM2-135M in float32 and the grid of 32 tokens of `benchmarks/lens.py`.

What stands elsewhere is no such choice. How many arrays an operation holds at once is a fact about
it, by which a bound in bytes becomes a number of rows, and stands beside it (`LOGITS_AT_ONCE`,
`OWN_ROWS`, `LARGE_ARRAYS` and their like). `STATE_BYTES` of an alignment says how many vectors it
looks at, and so changes what it finds. Statistics and files, which run no model, have bounds of
their own.

It travels to servers, and imports only torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# -- alike on all devices ----------------------------------------------

# Columns of the vocabulary that share a maximum, from which the top k are found. Measured on
# processors beside its neighbours: 32, 64 and 128 cost the same within 5 %.
GROUP_COLUMNS = 64
# Tokens of one forward pass, padding included. Chosen to keep a processor busy, and measured beside
# no other number. Unmeasured on accelerators, too: of a model of 8 billion parameters so many are
# 33 · 10¹² operations, which keep any of them busy.
FORWARD_TOKENS = 2048
# Bytes of logits that exist at once, where a caller does not say. Measured on processors beside its
# neighbours: from 64 MiB to 1 GiB the time is the same within 5 %, and 16 MiB cost 14 % more.
# Unmeasured on accelerators, where more rows share a read of the unembedding; benchmarks/gpu.py
# tries larger ones by `max_bytes`.
LOGIT_BYTES = 256 * 2**20
# Rows of text that are written side by side. On processors more gained nothing. Accelerators could
# take more, but what is sampled depends on this number.
WRITTEN_ROWS = 64
# Vectors of an attribution that share one product with the unembedding. Found on processors where
# the unembedding is called: a product for each layer, of the few rows of its heads, reads all of it
# each time. `benchmarks/components.py` measures what is left ("as sent"), and no other number.
PART_ROWS = 512
# Bytes of the streams that one forward pass of a linear fit keeps: a bound on memory, measured
# beside no other number on any device.
PASS_BYTES = 512 * 2**20
# Bytes of the logits that the training of a tuned lens has at once. Measured beside no other number
# on any device.
TRAINING_BYTES = 512 * 2**20
# Unit vectors of the stream that are taken to a token's logit at once, at most, to find along which
# direction it rises. Measured beside no other number.
UNIT_VECTORS = 512
# Rows of four tokens that ask a model about its edits in one pass. Measured beside no other number.
PROBE_ROWS = 32


class Kernels(NamedTuple):
    """What is chosen by the kind of device.

    Attributes:
        tile_columns: Of the vocabulary that are looked at at a time, a multiple of GROUP_COLUMNS.
        rows_at_once: Rows of logits (sites × tokens) that are made at a time, beneath `max_bytes`.
        tiles_the_product: Whether a plain float32 unembedding is multiplied tile by tile, while the
            tile is in cache. Otherwise the module is called for all columns.
        tokens_compared: With the model's own logits at a time, beneath `max_bytes`.
        asks_at_once: Whether the value of a tensor may be asked wherever it saves work. Elsewhere
            the question waits for all that the device was asked before, and the host, which should
            be ahead, begins again from nothing.
        sends_ahead: Whether small arrays are sent without waiting for the device.
        dimensions_at_once: Of the final stream that a Jacobian fit pulls back in one batch of
            gradients.
        repeated_at_once: The same where each takes a row of the forward pass.
        gradient_bytes: Of the gradients of a Jacobian fit that exist at once.
        fit_tokens: Tokens of a linear fit whose sums come together before they are brought to the
            processor: two matrices `[d_model, d_model]` of each layer.
    """

    tile_columns: int
    rows_at_once: int
    tiles_the_product: bool
    tokens_compared: int
    asks_at_once: bool
    sends_ahead: bool
    dimensions_at_once: int
    repeated_at_once: int
    gradient_bytes: int
    fit_tokens: int


# The processor:
# - tile_columns, rows_at_once, tiles_the_product: a tile of 640 × 1024 float32 numbers (2.6 MB)
#   stays in cache, and all passes over it cost little beside the product (benchmarks/lens.py, on
#   two cores). Measured beside their neighbours: 512 to 8192 columns and 160 to 1280 rows cost the
#   same within 5 %.
# - tokens_compared: what is made of four stays in cache. Measured beside no other number.
# - asks_at_once: to ask for a value costs nothing here; `torch.equal` is one pass where the whole
#   comparison of two streams is six (benchmarks/lens.py: the proof of all links is below 2 %).
# - dimensions_at_once, repeated_at_once, gradient_bytes: 8, 32 and 96 dimensions cost the same
#   (benchmarks/lenses.py jacobian, on two cores).
# - fit_tokens: measured beside no other number; a fit can be saved the more often.
PROCESSOR = Kernels(
    tile_columns=1024,
    rows_at_once=640,
    tiles_the_product=True,
    tokens_compared=4,
    asks_at_once=True,
    sends_ahead=False,
    dimensions_at_once=32,
    repeated_at_once=8,
    gradient_bytes=2**28,
    fit_tokens=4096,
)
# Any accelerator. All of it is unmeasured, and reasoned:
# - tile_columns: a launch costs as much as a pass over some megabytes, so tiles are wide; a tile of
#   160 × 16,384 float32 numbers (10 MB) still fits the 50 MB of cache of an H100 or H200.
# - rows_at_once: only `max_bytes` should bind, as each product reads the whole unembedding.
# - tiles_the_product: no, since a product in half precision is rounded by the module.
# - tokens_compared: all that are at hand, as each slice is nine launches. What that takes has room
#   beneath `max_bytes` already: `OWN_ROWS` counts it.
# - asks_at_once: no, since the host must stay ahead of the device.
# - dimensions_at_once, repeated_at_once, gradient_bytes: 32 × 128 tokens are 4,096 rows of a
#   product, above where reading the weights costs as much as multiplying by them.
# - fit_tokens: of a model of 8 billion parameters the sums are 4 GB, which take longer to bring to
#   the processor than 4,096 tokens take to run.
ACCELERATOR = Kernels(
    tile_columns=16 * 1024,
    rows_at_once=8192,
    tiles_the_product=False,
    tokens_compared=8192,
    asks_at_once=False,
    sends_ahead=False,
    dimensions_at_once=64,
    repeated_at_once=64,
    gradient_bytes=2**30,
    fit_tokens=2**16,
)
# NVIDIA's and AMD's, where torch sends from ordinary memory without waiting: what is sent was
# copied before the call returns. Unmeasured.
CUDA = ACCELERATOR._replace(sends_ahead=True)


def kernels_for(device: torch.device) -> Kernels:
    """Return what is chosen for a device; for meta, which computes nothing, PROCESSOR."""
    if device.type in ("cpu", "meta"):
        return PROCESSOR
    return CUDA if device.type == "cuda" else ACCELERATOR


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small array of the processor on a device, if possible without waiting for it.

    What is on the device already is returned as it is.
    """
    if tensor.device == device:
        return tensor
    ahead = tensor.device.type == "cpu" and kernels_for(device).sends_ahead
    return tensor.to(device, non_blocking=ahead)


def on_cpu(arrays: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """Return arrays on the processor, brought there as one: the host waits once for each device.

    Arrays that are there already are returned as they are.
    """
    away: dict[torch.device, list[Any]] = {}
    for name, value in arrays.items():
        if value.device.type != "cpu":
            away.setdefault(value.device, []).append(name)
    home = dict(arrays)
    for names in away.values():
        names.sort(key=lambda name: -arrays[name].itemsize)  # each begins at a multiple of its size
        as_bytes = [arrays[name].reshape(-1).contiguous().view(torch.uint8) for name in names]
        sizes = [len(values) for values in as_bytes]
        brought = torch.cat(as_bytes).cpu().split(sizes)
        for name, values in zip(names, brought, strict=True):
            home[name] = values.view(arrays[name].dtype).reshape(arrays[name].shape)
    return home
