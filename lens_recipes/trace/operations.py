"""What a decoder does to a vector, as values that travel: calls of its modules, arithmetic, casts.

`Anatomy.tail`, the way from the last block to the logits, is a list of these operations, and
`replay` applies them to other vectors. They travel to a server by value, so this file imports only
torch.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ModuleCall(NamedTuple):
    """A call of one module, with one tensor.

    Attributes:
        path: Where the module is: `model.get(path)`.
        is_norm: Whether it is a norm, which a lens can leave out and an attribution freezes.
        device: Where its weights are, and its input must be; None for wherever the input is.
    """

    path: str
    is_norm: bool
    device: str | None

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return what the module makes of `x`."""
        if self.device is not None:
            x = x.to(self.device)
        return first_of(model.get(self.path)(x))

    def __str__(self) -> str:
        """Return where the module is."""
        return self.path


class Elementwise(NamedTuple):
    """An operation on every element, with plain numbers: a scale, or a part of a softcap.

    Attributes:
        name: torch's name of it, such as "mul" or "tanh".
        numbers: What stands beside the tensor.
    """

    name: str
    numbers: tuple[float, ...]

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return the operation's result on `x`; no module of the model takes part."""
        return getattr(torch, self.name)(x, *self.numbers)

    def __str__(self) -> str:
        """Return the operation and its numbers: "mul 30"."""
        words = [self.name]
        words += [f"{number:g}" for number in self.numbers]
        return " ".join(words)


class CastTo(NamedTuple):
    """A change of dtype, by its name in torch ("bfloat16")."""

    dtype: str

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return `x` in this dtype; no module of the model takes part."""
        return x.to(getattr(torch, self.dtype))

    def __str__(self) -> str:
        """Return the change in words: "to bfloat16"."""
        return f"to {self.dtype}"


def cast_to(dtype: torch.dtype) -> CastTo:
    """Return the change to a dtype."""
    return CastTo(str(dtype).removeprefix("torch."))


class KeepColumns(NamedTuple):
    """A cut after the first `n_columns`, as where an unembedding has more rows than tokens."""

    n_columns: int

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return the first columns of `x`; no module of the model takes part."""
        return x[..., : self.n_columns]

    def __str__(self) -> str:
        """Return the cut in words: "first 50257 columns"."""
        return f"first {self.n_columns} columns"


class WithVector:
    """A product or a sum with a vector of the model's own weights, such as a layer scale.

    Two are equal where they are the same object. It is no dataclass: what that generates would
    travel to a server as bytecode.

    Attributes:
        name: torch's name of the operation: "mul", "div", "add" or "sub".
        vector: The weights, or what the model computes from nothing but weights, `[d_model]`.
    """

    def __init__(self, name: str, vector: Tensor) -> None:
        self.name = name
        self.vector = vector

    @property
    def adds(self) -> bool:
        """Return whether it is a sum, which is done once to a sum and not to each summand."""
        return self.name in ("add", "sub")

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return the operation's result on `x`; no module of the model takes part."""
        return getattr(torch, self.name)(x, self.vector.to(x.device))

    def __str__(self) -> str:
        """Return the operation in words: "mul by weights"."""
        return f"{self.name} by weights"


class OtherOperation(Protocol):
    """Anything else that is done to a vector."""

    def apply(self, model: Any, x: Tensor) -> Tensor: ...


Operation = ModuleCall | Elementwise | CastTo | KeepColumns | WithVector | OtherOperation


def replay(model: Any, operations: Sequence[Operation], x: Tensor) -> Tensor:
    """Apply operations to `x`, one after the other.

    `model` may be None where no `ModuleCall` is among them.
    """
    for operation in operations:
        x = operation.apply(model, x)
    return x


def is_norm_call(operation: Operation) -> bool:
    """Return whether the operation is the call of a norm."""
    return isinstance(operation, ModuleCall) and operation.is_norm


def unembedding_index(operations: Sequence[Operation]) -> int:
    """Return the index of the unembedding: the last module call on the way to the logits."""
    calls = [
        index for index, operation in enumerate(operations) if isinstance(operation, ModuleCall)
    ]
    return calls[-1]


class HeadOperations(NamedTuple):
    """The way from the last block to the logits in three parts.

    Attributes:
        before: Up to the unembedding: norms and projections.
        linear: The unembedding, and what is linear in the logits after it.
        softcap: From the first operation that is not linear in the logits; empty in most models.
    """

    before: list[Operation]
    linear: list[Operation]
    softcap: list[Operation]


def split_at_unembedding(operations: Sequence[Operation]) -> HeadOperations:
    """Split the way to the logits at the unembedding and at the softcap."""
    unembedding = unembedding_index(operations)
    softcap = find_softcap(operations)
    return HeadOperations(
        before=list(operations[:unembedding]),
        linear=list(operations[unembedding:softcap]),
        softcap=list(operations[softcap:]),
    )


def find_softcap(operations: Sequence[Operation]) -> int:
    """Return the index at which the softcap begins; without one, the number of operations.

    A softcap is c · tanh(logit / c): it begins at the division, although that is linear by itself.
    Any other function that is not linear in the logits begins at its own operation.
    """
    after = unembedding_index(operations) + 1
    bends = [
        index
        for index, operation in enumerate(operations)
        if index >= after and _is_nonlinear(operation)
    ]
    if not bends:
        return len(operations)
    bend = bends[0]
    if bend + 1 < len(operations):
        factor_before = _factor(operations[bend - 1])
        factor_after = _factor(operations[bend + 1])
        if abs(factor_before * factor_after - 1) < 1e-6:
            return bend - 1
    return bend


LINEAR_NAMES = ("mul", "div", "add", "sub", "rsub", "neg")


def _is_nonlinear(operation: Operation) -> bool:
    """Return whether an operation is a function that is not linear, such as tanh."""
    return isinstance(operation, Elementwise) and operation.name not in LINEAR_NAMES


def _factor(operation: Operation) -> float:
    """Return by which number an operation multiplies; NaN for one that does something else."""
    if isinstance(operation, Elementwise):
        if operation.name == "mul":
            return operation.numbers[0]
        if operation.name == "div":
            return 1 / operation.numbers[0]
    return float("nan")


def first_of(output: Any) -> Tensor:
    """Return a block's output stream: by family and version it comes alone, or first in a tuple."""
    if isinstance(output, (tuple, list)):
        return output[0]
    return output


def model_logits(output: Any) -> Float[Tensor, "batch position vocab"]:
    """Return the logits in what a model returned."""
    if hasattr(output, "logits"):
        return output.logits
    return output[0]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return in which dtype modules compute on a device by `torch.autocast`; None where it is off.

    A model runs in the caller's autocast, and what is called of it after the run does, too.
    """
    if not torch.amp.is_autocast_available(device.type):
        return None
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context for products of this package's own, which are not to be rounded."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def rounding_eps(stream: Tensor) -> float:
    """Return how finely numbers are rounded where a model runs: in its stream, or by autocast."""
    eps = torch.finfo(stream.dtype).eps
    cast = autocast_dtype(stream.device)
    return eps if cast is None else max(eps, torch.finfo(cast).eps)


def slices(length: int, step: int) -> Iterator[slice]:
    """Cut 0 to `length` into slices of at most `step` elements, and of at least one."""
    step = max(1, step)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
