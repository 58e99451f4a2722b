"""`residual_blocks()`: what each block adds to the residual stream, and where that can be read.

No names of families here either. The few tokens of `anatomy` are run once more, now with every
operation inside the blocks recorded, and each block's output is taken apart backwards into the sum
that it is: the stream that came in, and what was added to it. A post-norm, a residual multiplier, a
module that contains the residual, or attention and MLP in parallel are thus found as they are.
Where a block is no such sum, the reason is kept. Names only decide what a part is called.
"""

from __future__ import annotations

import re

from nnsight.intervention.envoy import Envoy
from torch import nn

from lens_recipes.models.components import COMPONENTS, WRITES_BEFORE_MIDDLE
from lens_recipes.models.handle import attention_configs, on_meta
from lens_recipes.models.structure.anatomy import anatomy_of
from lens_recipes.models.structure.graph import BlockGraph, Graph
from lens_recipes.models.structure.head_path import is_norm
from lens_recipes.models.structure.heads import heads_of_write
from lens_recipes.models.structure.known import KnownModel, known_model
from lens_recipes.models.structure.node import Node, Origin, linear_origins, single_origin
from lens_recipes.models.structure.parts import Anatomy, Block, HookPoint, ResidualWrite
from lens_recipes.models.structure.probe import PROBE_SHAPE, record_forward
from lens_recipes.trace.operations import Operation


def residual_blocks(model: Envoy) -> list[Block]:
    """Return what each block adds to the stream, `[layer]`.

    Costs one run over a dozen tokens, again when the model was changed.

    Raises:
        LensError: as `anatomy`.
    """
    return blocks_of(model, known_model(model))


def blocks_of(model: Envoy, known: KnownModel) -> list[Block]:
    """Return the blocks of a model of which this is known, and keep them there.

    Raises:
        LensError: as `anatomy`.
    """
    configs = attention_configs(model._module)
    implementations = tuple(config.implementation for config in configs)
    if implementations not in known.blocks:
        known.blocks[implementations] = _find_blocks(model, anatomy_of(model, known))
    return known.blocks[implementations]


def _find_blocks(model: Envoy, parts: Anatomy) -> list[Block]:
    """Run the model with every operation recorded, and take its blocks apart."""
    module = model._module
    graph = Graph()
    record_forward(module, parts.plain_ids, parts.forward_options, meta=on_meta(model), graph=graph)
    paths = {child: path for path, child in module.named_modules()}
    stream_shape = (*PROBE_SHAPE, parts.d_model)
    blocks = []
    previous_output = None
    for block_module in module.get_submodule(parts.blocks).children():
        block = BlockGraph(graph, paths, type(module).__name__, block_module, stream_shape)
        blocks.append(_take_apart(block, previous_output))
        previous_output = graph.outputs.get(block_module)
    return blocks


class _Unreadable(Exception):
    """A reason why a block is not the sum that was looked for."""


def _take_apart(block: BlockGraph, previous_output: Node | None) -> Block:
    """Return a block as a sum, or as one that says why it is none.

    `previous_output` is what the block before it gave; None for the first block.
    """
    resid_mid: HookPoint | None = None
    interblock_scale: tuple[Operation, ...] = ()
    residual_scale: tuple[Operation, ...] = ()
    writes: list[ResidualWrite] = []
    unreadable_reason = ""
    try:
        if block.stream is None:
            raise _Unreadable("it does not take the residual stream as its first argument")
        if previous_output is not None:
            interblock_scale = _interblock_scale(block.stream, previous_output)
        terms = _terms_of_output(block)
        if previous_output is None and _start_after_first_norm(block, terms):
            terms = _terms_of_output(block)
        residual_scale = _residual_scale(block, terms)
        added = [term for term in terms if term.node is not block.stream]
        component_of = {term.node: _component(block, term.node) for term in added}
        writes = [_residual_write(block, term, component_of[term.node]) for term in added]
        writes.sort(key=lambda write: write.point.time)
        resid_mid = _resid_mid(block, component_of)
    except _Unreadable as reason:
        unreadable_reason = str(reason)
        if block.block._forward_hooks:
            unreadable_reason = "a hook on it changes what it gives, so its parts are not all of it"
        writes = []
    return Block(
        resid_pre=block.stream_point,
        resid_mid=resid_mid,
        resid_post=block.hook_point("out", block.block),
        interblock_scale=interblock_scale,
        residual_scale=residual_scale,
        writes=writes,
        unreadable_reason=unreadable_reason,
    )


# -- the sum -----------------------------------------------------------


def _terms_of_output(block: BlockGraph) -> list[Origin]:
    """Return the tensors that add up to the block's output, each with the operations on its way."""
    output = block.graph.outputs[block.block]
    return _terms(block, Origin(output, ()))


def _terms(block: BlockGraph, tensor: Origin) -> list[Origin]:
    """Return the tensors that add up to one: the stream, and what modules of the block give.

    Raises:
        _Unreadable: it is no sum of such tensors.
    """
    node, operations = tensor
    if node is block.stream:
        return [tensor]
    carries_stream = block.carries_stream(node)
    if not carries_stream and block.source_module(node) is not None:
        return [tensor]
    origins = linear_origins(node)
    if not origins:
        if carries_stream or not node.parents:
            raise _Unreadable(
                "the stream is normed or mixed after the addition, so what a block adds does not "
                "stay in it"
            )
        raise _Unreadable(
            f"something is added that no module gives (it comes out of the operation {node.name})"
        )
    terms = []
    for origin in origins:
        terms += _terms(block, Origin(origin.node, (*origin.operations, *operations)))
    return terms


def _start_after_first_norm(block: BlockGraph, terms: list[Origin]) -> bool:
    """Let the stream begin after a norm of the block where it does, as in RWKV's first block.

    Returns whether it does.
    """
    if any(term.node is block.stream for term in terms):
        return False
    for term in terms:
        source = block.source_module(term.node)
        if source is None or not is_norm(source):
            continue
        if block.graph.inputs.get(source) is block.stream:
            block.start_after(source, term.node)
            return True
    return False


def _residual_scale(block: BlockGraph, terms: list[Origin]) -> tuple[Operation, ...]:
    """Return what is done to the stream itself on its way through the block."""
    passed_through = [term.operations for term in terms if term.node is block.stream]
    if len(passed_through) != 1:
        raise _Unreadable(
            "its output is not a sum that contains its input (the stream is normed on the way)"
        )
    return passed_through[0]


def _interblock_scale(stream: Node, previous_output: Node) -> tuple[Operation, ...]:
    """Return what is done to the stream between two blocks: nothing, or a number times it."""
    operations: tuple[Operation, ...] = ()
    node = stream
    while node is not previous_output:
        origin = single_origin(node)
        if origin is None:
            raise _Unreadable("between it and the block before it something is done to the stream")
        node = origin.node
        operations = (*origin.operations, *operations)
    return operations


def _resid_mid(block: BlockGraph, component_of: dict[Node, str]) -> HookPoint | None:
    """Return where the stream after attention and before the MLP is read, or None.

    It is the sum of the stream and what attention adds, where a module takes or gives that sum.
    """
    mixed = {node for node, name in component_of.items() if name in WRITES_BEFORE_MIDDLE}
    if not mixed or "mlp_out" not in component_of.values():
        return None
    for node in block.carrying_nodes():
        terms = _terms(block, Origin(node, ()))
        added = {term.node for term in terms if term.node is not block.stream}
        if added != mixed:
            continue
        for module in node.input_of:
            if block.is_inside(module) and block.has_width(node):
                return block.hook_point("in", module)
        source = block.source_module(node)
        if source is not None:
            return block.hook_point("out", source)
    return None


# -- what is added -----------------------------------------------------


def _residual_write(block: BlockGraph, term: Origin, component: str) -> ResidualWrite:
    """Return a term of the block's sum as what a module writes to the stream."""
    source = block.source_module(term.node)
    assert source is not None  # else it would be no term
    heads = heads_of_write(block, term) if component == "attn_out" else None
    point = block.hook_point("out", source, term.operations)
    return ResidualWrite(component, point, heads)


def _component(block: BlockGraph, node: Node) -> str:
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
