"""What was computed from what: the operations and modules of a watched run, as nodes that hold no tensors.

`watch` fills a `Graph` while the model runs on a few tokens; `wiring` reads in it which tensors a block adds to the
stream, and through which heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakTensorKeyDictionary

from lens_recipes.trace.operations import CastTo, Elementwise, Operation

# Operations that only move numbers about: each output element is one of the input's.
LAYOUT = {
    "alias",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "lift_fresh",
    "permute",
    "reshape",
    "select",
    "slice",
}

LAYOUT |= {
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
}

LAYOUT |= {
    "_reshape_alias",
    "cat",
    "chunk",
    "index",
    "repeat",
    "unsafe_split",
}  # cat: with an empty cache

SMALL = 64

SCALES = {"mul", "div", "neg"}


class Node:
    """One tensor as it was after one operation, without its numbers.

    Attributes:
        name: torch's name of the operation; empty for what was there before (weights, inputs).
        func, args, kwargs: The operation, with nodes in place of tensors.
        item: Which of its outputs.
        index: The numbers of a small tensor of whole numbers: with such, elements of others are picked.
        number: The number in a tensor that holds no other.
        shape, dtype: Of the tensor.
        given: Modules of which it is the (first) output, the innermost first.
        also: Modules of which it is a further output, and which.
        taken: Modules of which it is the first argument.
    """

    def __init__(
        self, tensor: Tensor, func: Any = None, args: tuple = (), kwargs: Any = None, item: int = -1
    ) -> None:
        self.name = func.overloadpacket.__name__.removesuffix("_") if func is not None else ""
        self.func, self.args, self.kwargs, self.item = func, args, kwargs or {}, item
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype
        picks = tensor.numel() <= SMALL and tensor.dtype == torch.int64 and _has_numbers(tensor)
        self.index = tensor.detach().cpu().clone() if picks else None
        scales = tensor.numel() == 1 and tensor.dtype.is_floating_point and _has_numbers(tensor)
        self.number = float(tensor) if scales else None
        self.given: list[nn.Module] = []
        self.also: list[tuple[nn.Module, int]] = []
        self.taken: list[nn.Module] = []

    @property
    def parents(self) -> list[Node]:
        """The tensors it was computed from."""
        return list(_nodes_in((self.args, tuple(self.kwargs.values()))))

    @property
    def moved(self) -> Node | None:
        """The tensor that holds the same numbers in another layout, if this operation did no more than that."""
        parents = [
            parent for parent in self.parents if parent.index is None and 0 not in parent.shape
        ]
        return parents[0] if self.name in LAYOUT and len(parents) == 1 else None


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and not isinstance(tensor, FakeTensor)


class Graph:
    """The nodes of a run; `watch` calls `operation`, `begin` and `end` as it goes.

    Attributes:
        inputs, outputs: Each module's first argument and first output, where they are tensors.
        began, ended: When (a counter), so that what is read can be put in order.
        times: How often each module ran.
    """

    def __init__(self) -> None:
        self._nodes = (
            WeakTensorKeyDictionary()
        )  # weak: a run may unpack weights as large as the model
        self.inputs: dict[nn.Module, Node] = {}
        self.outputs: dict[nn.Module, Node] = {}
        self.began: dict[nn.Module, int] = {}
        self.ended: dict[nn.Module, int] = {}
        self.times: dict[nn.Module, int] = {}
        self._clock = 0

    def node(self, tensor: Tensor) -> Node:
        found = self._nodes.get(tensor)
        if found is None:
            found = self._nodes[tensor] = Node(tensor)
        return found

    def operation(self, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        """Note one operation. What changed a tensor in place makes a new node of it."""
        known = self._named(args), self._named(kwargs)
        for item, tensor in enumerate(out if isinstance(out, tuple | list) else [out]):
            if isinstance(tensor, Tensor):
                self._nodes[tensor] = Node(
                    tensor, func, *known, item if isinstance(out, tuple | list) else -1
                )

    def begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._clock += 1
        self.began[module] = self._clock
        self.times[module] = self.times.get(module, 0) + 1
        first = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(first, Tensor):
            self.inputs[module] = self.node(first)
            self.inputs[module].taken.append(module)

    def end(self, module: nn.Module, out: Any) -> None:
        self._clock += 1
        self.ended[module] = self._clock
        items = out if isinstance(out, tuple | list) else [out]
        if items and isinstance(items[0], Tensor):
            self.outputs[module] = self.node(items[0])
            self.outputs[module].given.append(module)
        for i, tensor in enumerate(items):
            if i and isinstance(tensor, Tensor):
                self.node(tensor).also.append((module, i))

    def _named(self, value: Any) -> Any:
        """Nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, dict):
            return {key: self._named(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return (
                type(value)(self._named(item) for item in value)
                if type(value) in (tuple, list)
                else value
            )
        return value


def _nodes_in(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _nodes_in(item)


def operands(node: Node) -> list[tuple[Node, float]] | None:
    """The tensors that were added up to this one and their signs or factors; None if it is no sum."""
    if node.name not in ("add", "sub") or not all(isinstance(arg, Node) for arg in node.args[:2]):
        return None
    alpha = float(node.kwargs.get("alpha", 1))
    return [(node.args[0], 1.0), (node.args[1], alpha if node.name == "add" else -alpha)]


def rescaled(node: Node) -> tuple[Node, Operation] | None:
    """The tensor that this is a plain multiple or a cast of, and the step (as in `tail`) that makes it."""
    parent = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if parent is not None and node.name == "_to_copy":
        return parent, CastTo(str(node.dtype).removeprefix("torch."))
    if parent is not None and node.name in SCALES:
        numbers: list[Any] = [arg.number if isinstance(arg, Node) else arg for arg in node.args[1:]]
        if (
            parent.number is not None and node.name == "mul" and isinstance(node.args[1], Node)
        ):  # number × stream
            parent, numbers = node.args[1], [parent.number]
        if all(isinstance(number, int | float) for number in numbers):
            return parent, Elementwise(node.name, tuple(numbers))
    return None


def before(node: Node) -> tuple[Node, tuple[Operation, ...]] | None:
    """The tensor of which this is a multiple, a cast or another layout, and the steps that make it; None if of none."""
    if scaled := rescaled(node):
        return scaled[0], (scaled[1],)
    return (node.moved, ()) if node.moved is not None else None


def comes_from(node: Node, kind: str, within: int = 16) -> bool:
    """Whether an operation whose name contains `kind` is among the last few that led to this tensor."""
    front, seen = [node], set()
    for _ in range(within):
        if any(kind in n.name for n in front):
            return True
        seen |= set(front)
        front = [p for n in front for p in n.parents if p not in seen]
    return False


def back_to(node: Node, found: Any) -> tuple[Node, list[Node]] | None:
    """The nearest ancestor that satisfies `found` by layout alone, and the operations from there to here, in order."""
    moves: list[Node] = []
    now: Node | None = node
    while now is not None:
        if found(now):
            return now, moves[::-1]
        moves.append(now)
        now = now.moved if now.name != "_to_copy" else now.args[0]
    return None


def _numbers(args: Any, index: Tensor) -> Any:
    """Arguments with `index` in place of the tensor that is moved."""
    if isinstance(args, Node):
        return index if args.index is None else args.index
    return (
        type(args)(_numbers(arg, index) for arg in args) if isinstance(args, tuple | list) else args
    )


def where_from(source: Node, moves: list[Node]) -> Tensor:
    """For each element after the moves, the flat index of the element of `source` that stands there."""
    index = torch.arange(math.prod(source.shape)).reshape(source.shape)
    for node in moves:
        if node.name in ("_to_copy", "cat"):
            continue
        if "view" in node.name or "reshape" in node.name:
            index = index.reshape(node.shape)  # the strides here may be others than they were there
            continue
        index = node.func(*_numbers(node.args, index), **node.kwargs)
        index = index[node.item] if node.item >= 0 else index
    return index
