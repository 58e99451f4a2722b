"""`residual_blocks()`: what each block adds to the residual stream, and where that can be read.

No names of families here either. The few tokens of `anatomy` are run once more, now with every
operation inside the blocks recorded, and each block's output is taken apart backwards into the sum
that it is: the stream that came in, and what was added to it. A post-norm, a residual multiplier, a
module that contains the residual, norms that the stream itself passes through, or attention and MLP
in parallel are thus found as they are. Where a block is no such sum, the reason is kept. Names only
decide what a part is called.
"""

from __future__ import annotations

from nnsight.intervention.envoy import Envoy

from lens_recipes.models.components import WRITES_BEFORE_MIDDLE
from lens_recipes.models.handle import attention_configs, on_meta
from lens_recipes.models.structure.anatomy import anatomy_of
from lens_recipes.models.structure.block.block_sum import Unreadable, terms_of, terms_with_stream
from lens_recipes.models.structure.block.component_names import component_of_node
from lens_recipes.models.structure.block.heads import heads_of_write
from lens_recipes.models.structure.known import KnownModel, known_model
from lens_recipes.models.structure.parts import (
    Anatomy,
    Block,
    HookPoint,
    ResidualWrite,
    StreamNorm,
)
from lens_recipes.models.structure.record.graph import BlockGraph, Graph
from lens_recipes.models.structure.record.node import Node, Origin, single_origin
from lens_recipes.models.structure.record.probe import PROBE_SHAPE, record_forward
from lens_recipes.trace.operations import ModuleCall, Operation, is_norm_call


def residual_blocks(model: Envoy) -> list[Block]:
    """Return what each block adds to the stream, `[layer]`.

    Costs one run over a few tokens, again when the model was changed.

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
    graph = Graph(module)
    record_forward(module, parts.plain_ids, parts.forward_options, meta=on_meta(model), graph=graph)
    paths = {child: path for path, child in module.named_modules()}
    stream_shape = (*PROBE_SHAPE, parts.d_model)
    blocks: list[Block] = []
    previous_output = None
    for layer in parts.layers:
        block_module = model.get(parts.block(layer))._module
        block = BlockGraph(graph, paths, type(module).__name__, block_module, stream_shape)
        taken_apart = _take_apart(block, previous_output)
        while len(blocks) < layer:
            blocks.append(_passed_over(blocks, taken_apart))
        blocks.append(taken_apart)
        previous_output = graph.outputs.get(block_module)
    while len(blocks) < parts.n_layers:
        blocks.append(_passed_over(blocks, blocks[-1]))
    return blocks


def _passed_over(before: list[Block], following: Block) -> Block:
    """Return a block that did not run: it adds nothing to the stream of the one before it."""
    stream = before[-1].resid_post if before else following.resid_pre
    return Block(stream, None, stream, (), (), [])


def _take_apart(block: BlockGraph, previous_output: Node | None) -> Block:
    """Return a block as a sum, or as one that says why it is none.

    `previous_output` is what the block before it gave; None for the first block.
    """
    resid_mid: HookPoint | None = None
    interblock_scale: tuple[Operation, ...] = ()
    residual_scale: tuple[Operation, ...] = ()
    norms: tuple[StreamNorm, ...] = ()
    writes: list[ResidualWrite] = []
    unreadable_reason = ""
    try:
        if block.stream is None:
            raise Unreadable("it does not take the residual stream as its first argument")
        if previous_output is not None:
            interblock_scale = _interblock_scale(block.stream, previous_output)
        terms = terms_with_stream(block, is_first=previous_output is None)
        residual_scale, norms = _way_of_stream(block, terms)
        added = [term for term in terms if term.node is not block.stream]
        component_of = {term.node: component_of_node(block, term.node) for term in added}
        for term in added:
            writes.append(_residual_write(block, term, component_of[term.node], norms))
        writes.sort(key=lambda write: write.point.time)
        resid_mid = _resid_mid(block, component_of)
    except Unreadable as reason:
        unreadable_reason = str(reason)
        if block.block._forward_hooks:
            unreadable_reason = "a hook on it changes what it gives, so its parts are not all of it"
        writes, norms = [], ()
    return Block(
        resid_pre=block.stream_point,
        resid_mid=resid_mid,
        resid_post=block.hook_point("out", block.block),
        interblock_scale=interblock_scale,
        residual_scale=residual_scale,
        writes=writes,
        unreadable_reason=unreadable_reason,
        norms=norms,
    )


# -- the sum -----------------------------------------------------------


def _way_of_stream(
    block: BlockGraph, terms: list[Origin]
) -> tuple[tuple[Operation, ...], tuple[StreamNorm, ...]]:
    """Return what is done to the stream itself: up to its first norm, and its norms."""
    operations = next(term.operations for term in terms if term.node is block.stream)
    scale, stretches = _split_at_norms(operations)
    norms = []
    for call, scale_after in stretches:
        point = block.hook_point("in", block.norms[call])
        norms.append(StreamNorm(point, call, scale_after))
    return scale, tuple(norms)


def _split_at_norms(
    operations: tuple[Operation, ...],
) -> tuple[tuple[Operation, ...], list[tuple[ModuleCall, tuple[Operation, ...]]]]:
    """Return the operations before the first norm, and each norm with those that follow it."""
    before: tuple[Operation, ...] = ()
    stretches: list[tuple[ModuleCall, tuple[Operation, ...]]] = []
    for operation in operations:
        if isinstance(operation, ModuleCall) and is_norm_call(operation):
            stretches.append((operation, ()))
        elif stretches:
            call, after = stretches[-1]
            stretches[-1] = (call, (*after, operation))
        else:
            before = (*before, operation)
    return before, stretches


def _interblock_scale(stream: Node, previous_output: Node) -> tuple[Operation, ...]:
    """Return what is done to the stream between two blocks: nothing, or a number times it."""
    operations: tuple[Operation, ...] = ()
    node = stream
    while node is not previous_output:
        origin = single_origin(node)
        if origin is None:
            raise Unreadable("between it and the block before it something is done to the stream")
        node = origin.node
        operations = (*origin.operations, *operations)
    return operations


def _resid_mid(block: BlockGraph, component_of: dict[Node, str]) -> HookPoint | None:
    """Return where the stream after attention and before the MLP is read, or None.

    It is the sum of the stream and what attention adds, where a module takes or gives that sum.
    """
    mixed = {node for node, component in component_of.items() if component in WRITES_BEFORE_MIDDLE}
    if not mixed or "mlp_out" not in component_of.values():
        return None
    for node in block.carrying_nodes():
        terms = terms_of(block, Origin(node, ()))
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


def _residual_write(
    block: BlockGraph, term: Origin, component: str, norms: tuple[StreamNorm, ...]
) -> ResidualWrite:
    """Return a term of the block's sum as what a module writes to the stream.

    Raises:
        Unreadable: it is there before the norm that comes before its addition.
    """
    source = block.source_module(term.node)
    assert source is not None  # else it would be no term
    operations, norms_after = _split_at_norms(term.operations)
    n_norms_before = len(norms) - len(norms_after)
    heads = None
    if component == "attn_out":
        heads = heads_of_write(block, Origin(term.node, operations))
    point = block.hook_point("out", source, operations)
    if any(norm.point.time > point.time for norm in norms[:n_norms_before]):
        raise Unreadable("the stream is normed between what a block adds and the addition")
    return ResidualWrite(component, point, heads, n_norms_before)
