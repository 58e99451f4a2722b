"""Write what the blocks of one model add to the stream, as Python expressions."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from lens_recipes.errors import LensError
from lens_recipes.models.structure.block.blocks import residual_blocks
from lens_recipes.models.structure.parts import Block, HookPoint
from lens_recipes.recipes.paste.expressions import (
    changes_nothing,
    joined_words,
    module_expression,
)
from lens_recipes.recipes.paste.literals import Code
from lens_recipes.recipes.paste.source import ModelSource
from lens_recipes.run.request.sites import refuse_scattered, refuse_unreadable


class Write(NamedTuple):
    """What a block adds to the stream, as a script reads it out of the variable `block`.

    Attributes:
        name: The component, with a number where a block has several: `attn_out`, `attn_out_2`.
        value: The expression, `[batch, 1, d_model]` at the last position.
    """

    name: str
    value: str


class AlikeBlocks(NamedTuple):
    """Blocks that are read in the same way.

    Attributes:
        layers: Where they are, ascending.
        writes: What each of them adds, in the order in which it can be read.
    """

    layers: list[int]
    writes: list[Write]


class BlockWrites:
    """What the blocks of one model add to the stream.

    Every property raises LensError where a block is no sum, or the stream is rescaled on its way.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._anatomy = source.anatomy

    @property
    def first_stream(self) -> Code:
        """Write the stream before the first block, at the last position."""
        first_block = self._blocks[0]
        return self._read(first_block.resid_pre, module_expression(first_block.resid_pre.path))

    @cached_property
    def alike_blocks(self) -> list[AlikeBlocks]:
        """Group the blocks that are read in the same way; the largest group comes last."""
        layers_by_writes: dict[tuple[Write, ...], list[int]] = {}
        for layer in self._anatomy.layers:
            block = self._blocks[layer]
            writes = tuple(self._writes(layer, block))
            layers_by_writes.setdefault(writes, []).append(layer)
        groups = [AlikeBlocks(layers, list(writes)) for writes, layers in layers_by_writes.items()]
        return sorted(groups, key=lambda group: len(group.layers))

    @property
    def component_names(self) -> Code:
        """Name what the blocks add: "attn_out and mlp_out"."""
        names: dict[str, None] = {}
        for group in reversed(self.alike_blocks):
            names.update(dict.fromkeys(write.name for write in group.writes))
        return joined_words(list(names))

    @cached_property
    def _blocks(self) -> list[Block]:
        """Return each block as a sum; refuse a model whose blocks a script cannot add up."""
        family = self._anatomy.family
        refuse_scattered(self._anatomy)
        blocks = residual_blocks(self._source.model)
        for layer, block in enumerate(blocks):
            refuse_unreadable(block, layer, family)
            if block.interblock_scale or block.residual_scale or block.norms:
                change = "normed" if block.norms else "rescaled"
                raise LensError(
                    f"{family}: the stream is {change} at layer {layer}, so what the blocks add "
                    "does not sum to it as it is, and a short script would be wrong. "
                    "lens_recipes.logit_lens(components=…) and attribution() follow it."
                )
        return blocks

    def _writes(self, layer: int, block: Block) -> list[Write]:
        """Write what a block adds; the second part of a name is called attn_out_2."""
        prefix = f"{self._anatomy.blocks}.{layer}."
        times_seen: dict[str, int] = {}
        writes = []
        for residual_write in block.writes:
            component = residual_write.component
            times_seen[component] = times_seen.get(component, 0) + 1
            if times_seen[component] > 1:
                component = f"{component}_{times_seen[component]}"
            path = f"{residual_write.point.path}."
            if path.startswith(prefix):
                module = module_expression(path.removeprefix(prefix), "block")
            else:
                module = module_expression(path)
            writes.append(Write(component, self._read(residual_write.point, module)))
        return writes

    def _read(self, hook_point: HookPoint, module: str) -> Code:
        """Write what a hook point holds after the last token, `[batch, 1, d_model]`, as a copy."""
        if hook_point.side == "in":
            value = f"{module}.input"
            tensors = self._source.record.inputs
        else:
            value = module + self._source.output(hook_point.path)
            tensors = self._source.record.outputs
        if tensors[self._source.modules[hook_point.path]].ndim != 3:
            value += f".reshape(1, -1, {self._anatomy.d_model})"
        value += "[:, -1:]"
        operations = [step for step in hook_point.operations if not changes_nothing(step)]
        if not operations:
            return Code(f"{value}.clone()")
        value = self._source.applied(operations[0], value)
        for operation in operations[1:]:
            value = self._source.applied(operation, f"({value})")
        return Code(value)
