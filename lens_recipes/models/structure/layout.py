"""Follow numbers through changes of layout: views, transpositions, slices, repetitions.

Which column of a tensor came from which element of an earlier one is found by sending an index the
same way, whatever the operations on the way are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lens_recipes.models.structure.node import Node


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
    index = torch.arange(math.prod(path.source.shape)).reshape(path.source.shape)
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
