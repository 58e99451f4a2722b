"""Find where the model goes on with the stream after each block.

What is read as the stream after a block must be what the model goes on with. That is what the next
block takes, or after the last block the module that comes first on the way to the logits. Between
the two, a hook, an adapter or an edit may change the stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.block_list import BlockList, stream_factor
from lens_recipes.models.structure.parts import Anatomy, StreamLink
from lens_recipes.models.structure.record.probe import ForwardRecord, ModuleBegins, ModuleEnds
from lens_recipes.trace.operations import ModuleCall, Operation


def find_links(
    module: nn.Module, record: ForwardRecord, block_list: BlockList, tail: list[Operation]
) -> list[StreamLink | None]:
    """Return where the stream after each block can be read as the model goes on with it.

    Args:
        module: The model.
        record: Of one run.
        block_list: Its blocks.
        tail: What it does between the last block and the logits.

    Returns:
        `[layer]`; None where no module takes that stream in a way that can be read.

    Raises:
        LensError: a hook changes a stream where that is so.
    """
    paths = {child: path for path, child in module.named_modules()}
    links: list[StreamLink | None] = [None] * block_list.length
    for (layer, block), following in pairwise(block_list.blocks.items()):
        link = _link_to_block(record, paths, block, following[1])
        if link is None and (block._forward_hooks or following[1]._forward_pre_hooks):
            raise LensError(
                f"{type(module).__name__}: a hook stands between block {layer} and the next, and "
                f"what that block takes cannot be read, so the stream after layer {layer} is not "
                "known. Remove the hook."
            )
        links[layer] = link
    last_layer = max(block_list.blocks)
    links[last_layer] = _link_to_tail(module, record, block_list.blocks[last_layer], tail)
    return links


def layers_without_hooks(model: Envoy, anatomy: Anatomy, layers: Iterable[int]) -> list[int]:
    """Return after which of some layers neither hook nor edit stands that could change the stream.

    What happens there is the model's own.
    """
    found: list[int] = []
    if getattr(model, "_edits", None):
        return found
    for layer in layers:
        link = anatomy.links[layer]
        block = model.get(anatomy.block(layer))._module
        following = block if link is None else model.get(link.reader)._module
        if not (block._forward_hooks or following._forward_pre_hooks):
            found.append(layer)
    return found


def _link_to_block(
    record: ForwardRecord, paths: dict[nn.Module, str], block: nn.Module, following: nn.Module
) -> StreamLink | None:
    """Return how the block that follows takes the stream."""
    stream = record.inputs[following]
    factor = stream_factor(record.outputs[block], stream)
    if factor is None:
        return None
    lone_reader = _lone_reader(record, following, stream)
    lone_path = None if lone_reader is None else envoy_path(paths[lone_reader])
    if following in record.first_inputs:
        return StreamLink(envoy_path(paths[following]), lone_path, factor)
    if lone_path is None:
        return None
    return StreamLink(lone_path, lone_path, factor)


def _link_to_tail(
    module: nn.Module, record: ForwardRecord, last_block: nn.Module, tail: list[Operation]
) -> StreamLink | None:
    """Return how the first module on the way to the logits takes the stream.

    None where that cannot be read: what is no norm may be given the last positions only, a norm may
    run several times in a model, and a hook before it is run again when the lens calls it.
    """
    first = next(operation for operation in tail if isinstance(operation, ModuleCall))
    if not first.is_norm:
        return None
    modules = {envoy_path(path): child for path, child in module.named_modules() if path}
    reader = modules[first.path]
    factor = stream_factor(record.outputs[last_block], record.inputs[reader])
    takes_it_once = reader in record.first_inputs and record.calls.count(reader) == 1
    if factor is None or not takes_it_once or reader._forward_pre_hooks:
        return None
    return StreamLink(first.path, first.path, factor)


def _lone_reader(
    record: ForwardRecord, block: nn.Module, stream: Tensor | None
) -> nn.Module | None:
    """Return the module in a block that takes the block's stream, and nothing else, before others.

    To read what it takes costs a server nothing but the stream: a block is given masks, position
    encodings and a cache as well.
    """
    events = iter(record.events)
    for event in events:
        if isinstance(event, ModuleBegins) and event.module is block:
            break
    for event in events:
        if isinstance(event, ModuleEnds):
            return None
        if isinstance(event, ModuleBegins):
            reader = event.module
            takes_it = record.inputs[reader] is stream and reader in record.lone_inputs
            return reader if takes_it and record.calls.count(reader) == 1 else None
    return None
