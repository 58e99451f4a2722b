"""Arrays that are made chunk by chunk where the model is, and gathered on the processor."""

from __future__ import annotations

import torch
from torch import Tensor

from lens_recipes.trace.kernels import on_cpu


class GatheredArrays:
    """Arrays of all tokens on the processor, each allocated once.

    What is made elsewhere waits there, to be brought here together with other chunks: the host then
    waits for the device once for many of them.

    Attributes:
        arrays: By their names.
    """

    def __init__(self, n_tokens: int, token_axes: dict[str, int], most_waiting_bytes: int) -> None:
        """Begin with nothing.

        Args:
            n_tokens: Of all chunks together.
            token_axes: Which axis is that of the tokens, by an array's name; 0 where none is given.
            most_waiting_bytes: As soon as more than this waits on a device, it is brought here.
        """
        self.n_tokens = n_tokens
        self.token_axes = token_axes
        self.most_waiting_bytes = most_waiting_bytes
        self.arrays: dict[str, Tensor] = {}
        self._waiting: dict[tuple[str, int], Tensor] = {}  # by name and first token
        self._waiting_bytes = 0

    def add(self, tokens: slice, arrays: dict[str, Tensor]) -> None:
        """Take the arrays of some tokens, all chunks of an array in one dtype."""
        for name, value in arrays.items():
            if value.device.type == "cpu":
                self._put(name, tokens.start, value)
            else:
                self._waiting[name, tokens.start] = value
                self._waiting_bytes += value.nbytes
        if self._waiting_bytes > self.most_waiting_bytes:
            self._bring()

    def complete(self) -> dict[str, Tensor]:
        """Return the arrays, when those of all tokens have been added."""
        self._bring()
        return self.arrays

    def _bring(self) -> None:
        """Bring here what waits elsewhere."""
        for (name, start), value in on_cpu(self._waiting).items():
            self._put(name, start, value)
        self._waiting = {}
        self._waiting_bytes = 0

    def _put(self, name: str, start: int, value: Tensor) -> None:
        """Put the numbers of some tokens in their place."""
        axis = self.token_axes.get(name, 0)
        if name not in self.arrays:
            shape = list(value.shape)
            shape[axis] = self.n_tokens
            self.arrays[name] = torch.empty(shape, dtype=value.dtype, device="cpu")
        self.arrays[name].narrow(axis, start, value.shape[axis]).copy_(value)
