"""What a part of a block is called: its name follows the module that gave it."""

from __future__ import annotations

import re

from torch import nn

from lens_recipes.models.components import COMPONENTS
from lens_recipes.models.structure.record.graph import BlockGraph
from lens_recipes.models.structure.record.node import Node, single_origin
from lens_recipes.models.structure.record.norms import is_norm


def component_of_node(block: BlockGraph, node: Node) -> str:
    """Return the component that a tensor is: its name follows the module that gave it.

    Where that is a norm, the module before it counts.
    """
    source = block.source_module(node)
    while source is not None and is_norm(source) and source in block.graph.inputs:
        source = _source_before(block, block.graph.inputs[source])
    path = ""
    if source is not None:
        path = block.path(source).removeprefix(f"{block.path(block.block)}.")
    names = path.split(".")
    for depth, name in enumerate(names, start=1):
        module = block.block.get_submodule(".".join(names[:depth]))
        class_name = _without_family(type(module).__name__, block.family)
        component = _component_named(class_name) or _component_named(name)
        if component is not None:
            return component
    return "other_out"


def _source_before(block: BlockGraph, node: Node) -> nn.Module | None:
    """Return the module that gave a tensor; scales, casts and other layouts may follow it."""
    current = node
    while not current.output_of:
        origin = single_origin(current)
        if origin is None:
            return None
        current = origin.node
    return block.source_module(current)


def _component_named(name: str) -> str | None:
    """Return the component that the name of a module or a class speaks of, or None."""
    lowered = name.lower()
    if "norm" in lowered:
        return None
    for component in COMPONENTS:
        pattern = component.module_pattern
        if pattern is not None and re.search(pattern, lowered):
            return component.name
    return None


def _without_family(class_name: str, family: str) -> str:
    """Return a class name without the words that all classes of a family begin with.

    RecurrentGemmaMlp is no recurrence.
    """
    n_shared = 0
    for letter, family_letter in zip(class_name, family, strict=False):
        if letter != family_letter:
            break
        n_shared += 1
    # Back to the beginning of a word.
    while n_shared > 0 and not class_name[n_shared : n_shared + 1].isupper():
        n_shared -= 1
    return class_name[n_shared:]
