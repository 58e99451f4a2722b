"""What a model reads as its stream after each block, as it is now: hooks, edits and all.

The early-exit oracle switches blocks off with hooks of its own, and so changes what the hooks of a
user do in them. Here nothing of the model is changed: the stream is what the inside of the next
block was given, and its logits are what the model makes of it when all later blocks are gone.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn


class PassOn(nn.Module):
    """Stands in for a block, and hands on its input; the first in the row hands on one tensor."""

    def __init__(self, hands_on: Tensor | None, in_tuple: bool) -> None:
        """Keep what is handed on, and how."""
        super().__init__()
        self.hands_on = hands_on
        self.in_tuple = in_tuple

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """Hand on."""
        stream = hidden_states if self.hands_on is None else self.hands_on
        return (stream,) if self.in_tuple else stream


def streams_and_tuples(
    module: nn.Module, blocks: nn.ModuleList, inputs: dict[str, Tensor]
) -> tuple[list[Tensor | None], list[bool]]:
    """Return what the inside of each block was given in one run, and whether it gives a tuple.

    A block's `forward` is wrapped as it stands, so all hooks before it have run.
    """
    given: list[Tensor | None] = [None] * len(blocks)
    tuples = [False] * len(blocks)
    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            own = block.forward

            def wrapped(*args: Any, number: int = number, own: Any = own, **kwargs: Any) -> Any:
                values = [value for value in (*args, *kwargs.values()) if torch.is_tensor(value)]
                given[number] = values[0].clone()
                output = own(*args, **kwargs)
                tuples[number] = not torch.is_tensor(output)
                return output

            before = block.__dict__.get("forward")
            block.__dict__["forward"] = wrapped
            if before is None:
                stack.callback(block.__dict__.pop, "forward")
            else:
                stack.callback(block.__dict__.__setitem__, "forward", before)
        with torch.no_grad():
            module(**inputs, use_cache=False)
    return given, tuples


def lens_logits(module: nn.Module, blocks: nn.ModuleList, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of the stream after each block, `[layer, row, position, vocab]`.

    For every layer but the last, the blocks are replaced: all hand on what the next block was
    given. The last layer is the model itself.
    """
    given, tuples = streams_and_tuples(module, blocks, inputs)
    originals = list(blocks)
    rows = []
    for layer in range(len(originals) - 1):
        try:
            for number in range(len(originals)):
                blocks[number] = PassOn(given[layer + 1], tuples[number])
            with torch.no_grad():
                rows.append(module(**inputs, use_cache=False).logits.float())
        finally:
            for number, block in enumerate(originals):
                blocks[number] = block
    with torch.no_grad():
        rows.append(module(**inputs, use_cache=False).logits.float())
    return torch.stack(rows)
