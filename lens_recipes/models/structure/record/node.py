"""A tensor of a recorded run as a node: which operation made it, out of which other tensors.

Nodes hold no numbers, apart from single ones and small indices: a run may unpack weights as large
as the model. The functions here go back from a tensor to the ones that it is a sum, a multiple or
another layout of. Which column of a tensor came from which element of an earlier one is found by
sending an index through the same views, transpositions, slices and repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from lens_recipes.trace.operations import Elementwise, Operation, WithVector, cast_to

# Operations that only move numbers about: each output element is one of the input's.
_SAME_SHAPE = ("alias", "clone", "contiguous", "detach", "lift_fresh")
_RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze")
_TRANSPOSES = ("permute", "t", "transpose")
_PICKS = ("index", "select", "slice")
_SPLITS = ("chunk", "split", "split_with_sizes", "unbind", "unsafe_split")
_REPEATS = ("expand", "repeat", "cat")  # `cat`: with an empty cache
LAYOUT_NAMES = {*_SAME_SHAPE, *_RESHAPES, *_TRANSPOSES, *_PICKS, *_SPLITS, *_REPEATS}

SCALE_NAMES = ("mul", "div", "neg")

# What may be done to a stream with a vector of weights, and where the vector may also stand first.
VECTOR_NAMES = ("mul", "div", "add", "sub")
COMMUTING_NAMES = ("mul", "add")

MAX_INDEX_SIZE = 64  # elements of a tensor of whole numbers that is kept


def operation_name(function: Any) -> str:
    """Return torch's name of an operation, whether or not it runs in place."""
    # An operation that takes functions, as flex attention does, has no overloads.
    packet = getattr(function, "overloadpacket", function)
    return packet.__name__.removesuffix("_")


class FurtherOutput(NamedTuple):
    """A module that gives a tensor as another than its first output, and as which."""

    module: nn.Module
    item: int


class Node:
    """One tensor as it was after one operation, without its numbers.

    Attributes:
        name: torch's name of the operation; empty for what was there before (weights, inputs).
        func, args, kwargs: The operation, with nodes in place of tensors.
        item: Which of the operation's outputs it is; −1 where the operation gives a single tensor.
        index: The numbers of a small tensor of whole numbers: such a tensor picks elements of
            others.
        number: The number in a tensor that holds no other.
        is_constant: Whether it was computed from nothing but weights.
        vector: A copy of it, where it is constant and a single vector, and the run has numbers.
        shape, dtype: Those of the tensor.
        output_of: Modules whose first output it is, the innermost first.
        further_output_of: Modules that give it as another output.
        input_of: Modules whose first argument it is.
    """

    def __init__(
        self,
        tensor: Tensor,
        func: Any = None,
        args: tuple = (),
        kwargs: Any = None,
        item: int = -1,
        *,
        is_weight: bool = False,
    ) -> None:
        self.name = ""
        if func is not None:
            self.name = operation_name(func)
        self.func = func
        self.args = args
        self.kwargs = kwargs or {}
        self.item = item
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype
        self.index = _index_in(tensor)
        self.number = _number_in(tensor)
        self.is_constant = is_weight
        if func is not None:
            self.is_constant = all(parent.is_constant for parent in self.parents)
        self.vector = _vector_in(tensor) if self.is_constant else None
        self.output_of: list[nn.Module] = []
        self.further_output_of: list[FurtherOutput] = []
        self.input_of: list[nn.Module] = []

    @property
    def parents(self) -> list[Node]:
        """Return the tensors that it was computed from."""
        return [*_nodes_in(self.args), *_nodes_in(list(self.kwargs.values()))]

    @property
    def other_layout(self) -> Node | None:
        """Return the tensor that holds the same numbers in another layout, or None."""
        if self.name not in LAYOUT_NAMES:
            return None
        moved = [node for node in self.parents if node.index is None and 0 not in node.shape]
        if len(moved) != 1:
            return None
        return moved[0]


def _index_in(tensor: Tensor) -> Tensor | None:
    """Return a copy of a small tensor of whole numbers; None for any other tensor."""
    if tensor.numel() <= MAX_INDEX_SIZE and tensor.dtype == torch.int64 and _has_numbers(tensor):
        return tensor.detach().cpu().clone()
    return None


def _number_in(tensor: Tensor) -> float | None:
    """Return the only number of a tensor; None for a tensor of several or of whole numbers."""
    if tensor.numel() == 1 and tensor.dtype.is_floating_point and _has_numbers(tensor):
        return float(tensor)
    return None


def _vector_in(tensor: Tensor) -> Tensor | None:
    """Return a copy of a tensor that is a single vector; None for any other."""
    is_vector = tensor.ndim > 0 and tensor.numel() == tensor.shape[-1] > 1
    if is_vector and tensor.dtype.is_floating_point and _has_numbers(tensor):
        return tensor.detach().reshape(-1).clone()
    return None


def _has_numbers(tensor: Tensor) -> bool:
    """Return whether a tensor has values: those of a run without weights have shapes alone."""
    return tensor.device.type != "meta" and not isinstance(tensor, FakeTensor)


def _nodes_in(value: Any) -> Iterator[Node]:
    """Yield the nodes in nested arguments."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _nodes_in(item)


# -- sums and multiples ------------------------------------------------


class Origin(NamedTuple):
    """A tensor that another one comes from, and the operations that lead from it to the other."""

    node: Node
    operations: tuple[Operation, ...]


def linear_origins(node: Node) -> list[Origin]:
    """Return the tensors whose sum, multiple, cast or other layout this one is, or nothing."""
    with_vector = _origin_with_vector(node)
    if with_vector is not None:
        return [with_vector]
    summands = _summands(node)
    if summands:
        return summands
    origin = single_origin(node)
    if origin is None:
        return []
    return [origin]


def _summands(node: Node) -> list[Origin]:
    """Return the two tensors that were added up to this one, each with its factor; else nothing."""
    if node.name not in ("add", "sub"):
        return []
    if not all(isinstance(argument, Node) for argument in node.args[:2]):
        return []
    first, second = node.args[:2]
    factor = float(node.kwargs.get("alpha", 1))
    if node.name == "sub":
        factor = -factor
    scale: tuple[Operation, ...] = ()
    if factor != 1:
        scale = (Elementwise("mul", (factor,)),)
    return [Origin(first, ()), Origin(second, scale)]


def single_origin(node: Node) -> Origin | None:
    """Return the one tensor of which this is a multiple, a cast or another layout, or None."""
    scaled = _scaled_origin(node) or _origin_with_vector(node)
    if scaled is not None:
        return scaled
    if node.other_layout is not None:
        return Origin(node.other_layout, ())
    return None


def _scaled_origin(node: Node) -> Origin | None:
    """Return the tensor of which this is a cast or a multiple by plain numbers, or None."""
    if not node.args or not isinstance(node.args[0], Node):
        return None
    first, others = node.args[0], node.args[1:]
    if node.name == "_to_copy":
        return Origin(first, (cast_to(node.dtype),))
    if node.name not in SCALE_NAMES:
        return None
    if node.name == "mul" and first.number is not None and isinstance(others[0], Node):
        # A number times the stream, in this order.
        scale = Elementwise("mul", (first.number,))
        return Origin(others[0], (scale,))
    numbers: list[Any] = []
    for other in others:
        number = other.number if isinstance(other, Node) else other
        if not isinstance(number, int | float):
            return None
        numbers.append(number)
    scale = Elementwise(node.name, tuple(numbers))
    return Origin(first, (scale,))


def _origin_with_vector(node: Node) -> Origin | None:
    """Return the tensor that was multiplied by, or added to, a vector of weights, or None."""
    if node.name not in VECTOR_NAMES or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if not isinstance(first, Node) or not isinstance(second, Node):
        return None
    vector = _constant_vector(second)
    if vector is None and node.name in COMMUTING_NAMES:
        first, second = second, first
        vector = _constant_vector(second)
    if vector is None or first.shape != node.shape or len(vector) != node.shape[-1]:
        return None
    return Origin(first, (WithVector(node.name, vector),))


def _constant_vector(node: Node) -> Tensor | None:
    """Return the vector of weights that a tensor repeats, or None."""
    current: Node | None = node
    while current is not None and current.is_constant:
        if current.vector is not None:
            return current.vector
        current = current.other_layout
    return None


def comes_from(node: Node, name: str, max_operations: int = 16) -> bool:
    """Return whether one of the last operations before a tensor has a name that contains `name`."""
    nodes = [node]
    seen: set[Node] = set()
    for _ in range(max_operations):
        if any(name in current.name for current in nodes):
            return True
        seen.update(nodes)
        parents = [parent for current in nodes for parent in current.parents]
        nodes = [parent for parent in dict.fromkeys(parents) if parent not in seen]
    return False


# -- changes of layout -------------------------------------------------


class LayoutPath(NamedTuple):
    """A way from a tensor to a later one that holds the same numbers.

    Attributes:
        source: The earlier tensor.
        moves: The operations on the way, in order, each as the tensor that it gave.
    """

    source: Node
    moves: list[Node]


def layout_path(node: Node, is_source: Callable[[Node], bool]) -> LayoutPath | None:
    """Return the way from the nearest ancestor that satisfies `is_source`.

    None where anything but layouts and casts comes between.
    """
    moves: list[Node] = []
    current: Node | None = node
    while current is not None:
        if is_source(current):
            return LayoutPath(current, moves[::-1])
        moves.append(current)
        current = _moved_from(current)
    return None


def _moved_from(node: Node) -> Node | None:
    """Return the tensor that this one is a cast or another layout of, or None."""
    if node.name == "_to_copy":
        return node.args[0]
    return node.other_layout


def origin_indices(path: LayoutPath) -> Tensor:
    """Return for each element at the end of a path the flat index of its element in the source."""
    index = torch.arange(math.prod(path.source.shape), device="cpu").reshape(path.source.shape)
    for move in path.moves:
        if move.name in ("_to_copy", "cat"):
            continue
        if "view" in move.name or "reshape" in move.name:
            # Not by the operation itself: the strides of the index may differ from the tensor's.
            index = index.reshape(move.shape)
            continue
        moved = move.func(*_with_index(move.args, index), **move.kwargs)
        index = moved[move.item] if move.item >= 0 else moved
    return index


def _with_index(value: Any, index: Tensor) -> Any:
    """Return an operation's arguments with `index` in place of the tensor that is moved."""
    if isinstance(value, Node):
        return index if value.index is None else value.index
    if isinstance(value, tuple | list):
        return type(value)(_with_index(item, index) for item in value)
    return value
