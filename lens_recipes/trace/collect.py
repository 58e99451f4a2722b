"""The traced block's part of components: read what a plan names, in order, and check that it adds up.

Runs where the model is and imports only torch, like `readout`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import head_writes, one_head, to_float32
from lens_recipes.trace.operations import Operation, first_of, replay, slices


def collect(
    model: Any,
    plan: list[tuple],
    where: tuple[int, Int[Tensor, " token"], Int[Tensor, " token"]],
    n_slots: int,
    max_bytes: int,
) -> tuple[list[Any], dict[str, Float[Tensor, " token"]]]:
    """Read tensors of a running model, each at the tokens asked for.

    Args:
        plan: (role, side, path, steps, slots, extra) in the order in which the model gives them: `side` "in" or "out"
            of the module at `path`; `slots` are where it is summed up. Roles:
            "read": nothing more.
            "pre": the stream before a block, which starts the block's sum; `extra` is (between, carry), or None
            where nothing is to be checked.
            "write": what is added. "mid", "post": the stream on the way and after, which the sum so far must be.
            "heads": the heads side by side; `extra` is (columns, chain), checked against the next write with the
            `extra` True.
            "attention": weights `[batch, head, query, key]`; `extra` is which output. "values": whole.
        where: (number of rows, row of each token, column of each token).
        n_slots: How many vectors are given back.
        max_bytes: Bound on what the check of the heads holds at once.

    Returns:
        The vectors `[token, width]`, and the largest relative errors `[token]`: "block", "total" and "head", of what
        was checked. Both sides of a check are read: nothing here is the difference of two streams.
    """
    n_rows, rows, columns = where
    vectors: list[Any] = [None] * n_slots
    errors: dict[str, Tensor] = {}
    block: Any = None  # the sums, and the same of absolute values
    total: Any = None
    sizes: Any = None
    pending: list[tuple] = []
    for role, side, path, steps, slots, extra in plan:
        module = model.get(path)
        value = module.input if side == "in" else module.output
        if role == "attention":
            value = value[extra] if isinstance(value, (tuple, list)) else value
            vectors[slots[0]] = value[rows, :, columns]
            continue
        value = first_of(value)
        if role == "values":
            vectors[slots[0]] = value.clone()
            continue
        value = value.reshape(n_rows, -1, value.shape[-1])[
            rows, columns
        ]  # a copy: some models write on into theirs
        value = replay(model, steps, value)
        for slot in slots:
            vectors[slot] = (
                value if vectors[slot] is None else vectors[slot] + value.to(vectors[slot].device)
            )
        if role == "heads":
            pending.append((extra, value))
        elif role == "write" and block is not None:
            added = to_float32(value)
            block, total = block + added, total + added.to(total.device)
            sizes = [sizes[0] + added.abs(), sizes[1] + added.abs().to(total.device)]
            if extra and pending:
                own, heads = pending.pop()
                _note(errors, "head", *_sum_of_heads(model, own, heads, value, max_bytes))
        elif role == "pre" and extra is not None:
            between, carry = extra
            start = to_float32(value)
            total = start if total is None else replay(model, between, total.to(start.device))
            before = (
                start.abs()
                if sizes is None
                else replay(model, between, sizes[1].to(start.device)).abs()
            )
            sizes = [replay(model, carry, start.abs()).abs(), replay(model, carry, before).abs()]
            block, total = replay(model, carry, start), replay(model, carry, total)
        elif role in ("mid", "post") and block is not None:
            _note(errors, "block", block, value, sizes[0] + to_float32(value).abs())
            _note(errors, "total", total, value, sizes[1] + to_float32(value).abs())
    return vectors, errors


def site_streams(
    model: Any,
    vectors: list[Any],
    slots: list[int],
    heads: list[tuple[list[int], list[Operation]] | None],
) -> list[Any]:
    """What `readout` reads of each site: a vector, or for a head what makes its share out of that of all heads."""
    own = zip(slots, heads, strict=True)
    return [
        vectors[slot] if head is None else partial(one_head, model, *head, vectors[slot])
        for slot, head in own
    ]


def _sum_of_heads(
    model: Any, own: Any, x: Tensor, value: Tensor, max_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Heads and bias added up, beside what attention really wrote, and the largest number among them `[token]`."""
    columns, chain = own
    step = max_bytes // (16 * (len(columns) + 1) * max(x.shape[-1], value.shape[-1]))
    sums, sizes = [], []
    for here in slices(len(x), step):
        heads, bias = head_writes(model, columns, chain, x, here)
        sums.append(heads.sum(0) + bias)
        sizes.append(_size(heads).amax(0))
    return torch.cat(sums), value, torch.maximum(torch.cat(sizes), _size(value))[:, None]


def _size(x: Float[Tensor, "*head token d_model"]) -> Float[Tensor, "*head token"]:
    return to_float32(x).abs().amax(-1)


def _note(errors: dict[str, Tensor], name: str, a: Tensor, b: Tensor, scale: Tensor) -> None:
    """Keep the largest relative error of each token; a NaN stays.

    Number by number: beside a massive activation, a whole missing part would be lost in the size of the vector.
    """
    apart = (a - to_float32(b).to(a.device)).abs()
    floor = 1e-6 * scale.amax(-1, keepdim=True)
    error = (apart / (scale.to(a.device) + floor.to(a.device)).clamp(min=1e-30)).amax(-1).cpu()
    errors[name] = torch.maximum(errors[name], error) if name in errors else error
