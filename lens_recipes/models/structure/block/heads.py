"""Through which heads an attention wrote: which columns of its output projection's input are whose.

A recorded run is followed backwards from what attention adds: through norms and scales to the
projection, and through nothing but changes of layout to what the attention weights made of the
values. Which column belongs to which head is found by sending an index the same way. Where a tensor
gets there in another way (gates, differences, recurrences), no heads can be told apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.parts import Heads, HeadSources
from lens_recipes.models.structure.record.graph import BlockGraph
from lens_recipes.models.structure.record.node import (
    LayoutPath,
    Node,
    Origin,
    comes_from,
    layout_path,
    origin_indices,
    single_origin,
)
from lens_recipes.models.structure.record.norms import is_norm
from lens_recipes.trace.operations import ModuleCall, Operation

MAX_OPERATIONS = 32  # between what attention adds and its output projection

# What fused kernels are called in torch's operations.
FUSED_ATTENTION = ("scaled_dot_product", "flash_attn", "flex_attention")

# Columns are followed for the first token of the first prompt: those of all tokens go the same way.
FIRST_PROMPT = FIRST_TOKEN = 0


def heads_of_write(block: BlockGraph, write: Origin) -> Heads | None:
    """Return the heads of what attention adds; None where they do not reach the stream as they are.

    `write` is the tensor that a module gives, and the operations from there to the stream.
    """
    current, to_stream = write
    for _ in range(MAX_OPERATIONS):
        if block.carries_stream(current):
            return None
        modules = _modules_giving(block, current)
        for module in modules:
            path = layout_path(block.graph.inputs[module], _is_mix_of_values)
            if path is not None:
                projection = _call(block, module)
                return _heads_at(block, module, path, (projection, *to_stream))
        origin = _origin_through_module(block, current, modules) or single_origin(current)
        if origin is None:
            return None
        current = origin.node
        to_stream = (*origin.operations, *to_stream)
    return None


def _modules_giving(block: BlockGraph, node: Node) -> list[nn.Module]:
    """Return the modules that ran once and made a tensor of another one, the innermost first."""
    modules = []
    for module in node.output_of:
        takes_another = block.graph.inputs.get(module, node) is not node
        if takes_another and block.graph.runs_once(module):
            modules.append(module)
    return modules


def _call(block: BlockGraph, module: nn.Module) -> ModuleCall:
    """Return a module as an operation, wherever its weights are."""
    path = envoy_path(block.path(module))
    return ModuleCall(path, is_norm(module), device=None)


def _origin_through_module(
    block: BlockGraph, node: Node, modules: list[nn.Module]
) -> Origin | None:
    """Return what a norm, or a module without parts, made a tensor of, at the same width."""
    for module in modules:
        taken = block.graph.inputs[module]
        same_width = taken.shape[-1] == node.shape[-1]
        if same_width and (is_norm(module) or not list(module.children())):
            return Origin(taken, (_call(block, module),))
    return None


def _is_mix_of_values(node: Node) -> bool:
    """Return whether a tensor is attention weights times values, by a fused or a plain product."""
    if node.item > 0 or len(node.shape) not in (3, 4):
        return False
    if any(name in node.name for name in FUSED_ATTENTION):
        return True
    return node.name == "bmm" and comes_from(node.args[0], "softmax")


class _HeadColumns(NamedTuple):
    """The columns of the projection's input that come from one head.

    Attributes:
        mix_row: All but the last index into the mix of the values: (batch, head, position) after a
            fused kernel, (batch · head, position) after a plain product.
        columns: The columns.
        inner: The last index into the mix for each column.
    """

    mix_row: tuple[int, ...]
    columns: list[int]
    inner: Tensor


def _heads_at(
    block: BlockGraph, projection: nn.Module, path: LayoutPath, to_stream: tuple[Operation, ...]
) -> Heads | None:
    """Return the heads side by side at the input of an output projection.

    None where the heads differ in width.
    """
    heads = _columns_by_head(path)
    widths = {len(head.columns) for head in heads}
    if len(widths) != 1:
        return None
    sources = None
    if path.source.name == "bmm":
        sources = _find_sources(block, path.source, heads)
    return Heads(
        point=block.hook_point("in", projection),
        columns=[head.columns for head in heads],
        to_stream=to_stream,
        sources=sources,
    )


def _columns_by_head(path: LayoutPath) -> list[_HeadColumns]:
    """Return which columns at the end of a path come from which head, in the order of the heads."""
    origins = origin_indices(path)[FIRST_PROMPT, FIRST_TOKEN]
    indices = torch.unravel_index(origins, path.source.shape)
    mix_rows = torch.stack(indices[:-1], -1)  # [column, axis]
    inner = indices[-1]  # [column]
    columns_of: dict[tuple[int, ...], list[int]] = {}
    for column, mix_row in enumerate(mix_rows.tolist()):
        columns_of.setdefault(tuple(mix_row), []).append(column)
    heads = []
    for mix_row, columns in sorted(columns_of.items()):
        heads.append(_HeadColumns(mix_row, columns, inner[columns]))
    return heads


def _find_sources(
    block: BlockGraph, product: Node, heads: list[_HeadColumns]
) -> HeadSources | None:
    """Return where the attention weights and the values of each head can be read.

    None where no module gives them. `product` is weights @ values: `[batch · head, query, key]`
    times `[batch · head, key, inner]`.
    """

    def is_weights(node: Node) -> bool:
        return len(node.shape) == 4 and _is_given_once(block, node)

    def is_values(node: Node) -> bool:
        is_one_row_a_token = len(node.shape) == 3 and node.shape[:2] == block.stream_shape[:2]
        return is_one_row_a_token and _is_given_once(block, node)

    weights = layout_path(product.args[0], is_weights)
    values = layout_path(product.args[1], is_values)
    if weights is None or values is None or not values.source.output_of:
        return None
    values_module = values.source.output_of[0]
    values_input = block.graph.inputs.get(values_module)
    if values_input is None or not _heads_are_in_order(weights, heads):
        return None
    weights_module, weights_item = _giver_of_weights(weights.source)
    return HeadSources(
        weights=block.hook_point("out", weights_module),
        weights_item=weights_item,
        values=block.hook_point("out", values_module),
        value_width=values_input.shape[-1],
        value_columns=_value_columns(values, heads),
    )


def _is_given_once(block: BlockGraph, node: Node) -> bool:
    """Return whether a module that runs once gives a tensor, as whichever of its outputs."""
    modules = list(node.output_of)
    for output in node.further_output_of:
        modules.append(output.module)
    return any(block.graph.runs_once(module) for module in modules)


def _giver_of_weights(weights: Node) -> tuple[nn.Module, int]:
    """Return the module that gives the attention weights, and as which of its outputs."""
    if weights.further_output_of:
        output = weights.further_output_of[0]
        return output.module, output.item
    return weights.output_of[0], 0


def _heads_are_in_order(weights: LayoutPath, heads: list[_HeadColumns]) -> bool:
    """Return whether head n of the columns is head n of the attention weights."""
    origins = origin_indices(weights)  # [batch · head, query, key]
    for number, head in enumerate(heads):
        batch_head = head.mix_row[0]
        origin = origins[batch_head, FIRST_TOKEN, FIRST_TOKEN]
        _batch, weights_head, _query, _key = torch.unravel_index(origin, weights.source.shape)
        if int(weights_head) != number:
            return False
    return True


def _value_columns(values: LayoutPath, heads: list[_HeadColumns]) -> list[list[int]]:
    """Return the columns of each head in what the values' module gives, `[head][width]`."""
    origins = origin_indices(values)  # [batch · head, key, inner]
    columns_of_heads = []
    for head in heads:
        batch_head = head.mix_row[0]
        origin = origins[batch_head, FIRST_TOKEN, head.inner]
        _batch, _position, columns = torch.unravel_index(origin, values.source.shape)
        columns_of_heads.append(columns.tolist())
    return columns_of_heads
