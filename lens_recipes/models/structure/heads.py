"""Through which heads an attention wrote: which columns of its output projection's input are whose, and what they read.

The run that `wiring` reads is followed backwards from what attention adds: through norms and scales to the projection,
and through nothing but changes of layout to what the attention weights made of the values. Which column is whose is
found by sending an index the same way. Whatever is not such a way (gates, differences, recurrences) has no heads here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.graph import Node, back_to, before, comes_from, where_from
from lens_recipes.models.structure.head_path import is_norm
from lens_recipes.models.structure.parts import Heads
from lens_recipes.models.structure.probe import PROBE_SHAPE
from lens_recipes.trace.operations import ModuleCall, Operation

if TYPE_CHECKING:
    from lens_recipes.models.structure.blocks import BlockReader


def heads_of_write(reader: BlockReader, node: Node, steps: tuple[Operation, ...]) -> Heads | None:
    """Back from what attention adds to the heads side by side; None where they do not get there as they are."""
    graph, chain, now = reader.graph, list(steps), node
    for _ in range(32):
        if reader.carries(now):
            return None
        back: tuple[Node, tuple[Operation, ...]] | None = None
        for module in (
            m for m in now.given if graph.inputs.get(m, now) is not now and graph.times[m] == 1
        ):
            taken = graph.inputs[module]
            call = ModuleCall(envoy_path(reader.names[module]), is_norm(module), None)
            if found := back_to(taken, _mixes_by_weights):
                return _with_columns(reader, module, *found, (call, *chain))
            if (
                back is None
                and taken.shape[-1] == now.shape[-1]
                and (is_norm(module) or not list(module.children()))
            ):
                back = taken, (call,)
        back = back or before(now)
        if back is None:
            return None
        now, chain = back[0], [*back[1], *chain]
    return None


def _mixes_by_weights(node: Node) -> bool:
    """Whether this is what attention weights made of the values: fused, or as a product with a softmax."""
    fused = "scaled_dot_product" in node.name or "flash_attn" in node.name
    plain = node.name == "bmm" and comes_from(node.args[0], "softmax")
    return node.item <= 0 and len(node.shape) in (3, 4) and (fused or plain)


def _with_columns(
    reader: BlockReader,
    module: nn.Module,
    mixed: Node,
    moves: list[Node],
    chain: tuple[Operation, ...],
) -> Heads | None:
    """Which columns of the projection's input belong to which head: an index is sent the way of the numbers."""
    index = where_from(mixed, moves)[0, 0]  # of the first token; all go the same way
    place = torch.stack(
        torch.unravel_index(index, mixed.shape), -1
    )  # [column, (batch, head, position, inner)]
    spots: dict[tuple[int, ...], list[int]] = {}
    for column, at in enumerate(place[:, :-1].tolist()):
        spots.setdefault(tuple(at), []).append(column)
    if len({len(columns) for columns in spots.values()}) != 1:
        return None
    spots = dict(sorted(spots.items()))
    read = reader.tap("in", module)
    heads = Heads(read, list(spots.values()), chain)
    return replace(heads, **_sources(reader, mixed, place, spots)) if mixed.name == "bmm" else heads


def _sources(
    reader: BlockReader, mixed: Node, place: torch.Tensor, spots: dict[tuple[int, ...], list[int]]
) -> Any:
    """Where the attention weights and the values of each head can be read, if they can."""

    def of_module(node: Node) -> bool:
        return any(reader.graph.times[m] == 1 for m in (*node.given, *(m for m, _ in node.also)))

    weights = back_to(mixed.args[0], lambda n: len(n.shape) == 4 and of_module(n))
    values = back_to(
        mixed.args[1], lambda n: n.shape[:2] == PROBE_SHAPE and len(n.shape) == 3 and of_module(n)
    )
    if weights is None or values is None:
        return {}
    from_weights, from_values = where_from(*weights), where_from(*values)
    columns = []
    for number, (spot, own) in enumerate(spots.items()):
        head = torch.unravel_index(from_weights[spot[0], 0, 0], weights[0].shape)[1]
        if int(head) != number:
            return {}
        inner = place[own, -1]
        columns.append(
            torch.unravel_index(from_values[spot[0], 0, inner], values[0].shape)[2].tolist()
        )
    (module, item) = next(iter(weights[0].also), (None, 0))
    module = module if module is not None else weights[0].given[0]
    source = values[0].given[0]
    if source not in reader.graph.inputs:
        return {}
    return {
        "weights": reader.tap("out", module), "item": item, "values": reader.tap("out", source),
        "value_width": reader.graph.inputs[source].shape[-1], "value_columns": columns,
    }  # fmt: skip
