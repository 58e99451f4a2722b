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
from lens_recipes.models.structure.heads import heads_of_write
from lens_recipes.models.structure.known import KnownModel, known_model
from lens_recipes.models.structure.node import VECTOR_NAMES, Node, Origin, single_origin
from lens_recipes.models.structure.norms import is_norm
from lens_recipes.models.structure.parts import (
    Anatomy,
    Block,
    HookPoint,
    ResidualWrite,
    StreamNorm,
)
from lens_recipes.models.structure.probe import PROBE_SHAPE, record_forward
from lens_recipes.trace.operations import ModuleCall, Operation, WithVector, is_norm_call


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


class _Unreadable(Exception):
    """A reason why a block is not the sum that was looked for."""


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
            raise _Unreadable("it does not take the residual stream as its first argument")
        if previous_output is not None:
            interblock_scale = _interblock_scale(block.stream, previous_output)
        terms = _terms_with_stream(block, is_first=previous_output is None)
        residual_scale, norms = _way_of_stream(block, terms)
        added = [term for term in terms if term.node is not block.stream]
        component_of = {term.node: _component(block, term.node) for term in added}
        for term in added:
            writes.append(_residual_write(block, term, component_of[term.node], norms))
        writes.sort(key=lambda write: write.point.time)
        resid_mid = _resid_mid(block, component_of)
    except _Unreadable as reason:
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


def _terms_with_stream(block: BlockGraph, *, is_first: bool) -> list[Origin]:
    """Return the tensors that add up to the block's output, with the stream once among them.

    The stream is followed through norms where it does not reach the output otherwise.

    Raises:
        _Unreadable: the output is no such sum.
    """
    try:
        terms = _terms_of_output(block)
        if is_first and _start_after_first_norm(block, terms):
            terms = _terms_of_output(block)
        _check_stream_is_in(block, terms)
    except _Unreadable:
        block.follow_norms()
        terms = _terms_of_output(block)
        _check_stream_is_in(block, terms)
    return terms


def _check_stream_is_in(block: BlockGraph, terms: list[Origin]) -> None:
    """Raise `_Unreadable` if the stream that comes in is not one of the summands."""
    if sum(term.node is block.stream for term in terms) != 1:
        raise _Unreadable("its output is not a sum that contains its input")


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
    origins = block.origins(node)
    if not origins:
        if _needs_weights(node):
            raise _Unreadable(
                "the stream is multiplied by weights, or weights are added to it, and their values "
                "are not in this process: a model that is loaded with its weights can be read"
            )
        if carries_stream or not node.parents:
            raise _Unreadable(
                "the stream is mixed after the addition, so what a block adds does not stay in it"
            )
        raise _Unreadable(
            f"something is added that no module gives (it comes out of the operation {node.name})"
        )
    # What is added to a sum is added to one summand alone: to the stream, if it is among them.
    first = next((origin for origin in origins if block.carries_stream(origin.node)), origins[0])
    scales = tuple(step for step in operations if not (isinstance(step, WithVector) and step.adds))
    terms = []
    for origin in origins:
        later = operations if origin is first else scales
        terms += _terms(block, Origin(origin.node, (*origin.operations, *later)))
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


def _needs_weights(node: Node) -> bool:
    """Return whether a product or sum cannot be followed for want of the values of weights."""
    operands = [argument for argument in node.args if isinstance(argument, Node)]
    if node.name not in VECTOR_NAMES or len(operands) != 2:
        return False
    return any(operand.is_constant and operand.vector is None for operand in operands)


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
            raise _Unreadable("between it and the block before it something is done to the stream")
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


def _residual_write(
    block: BlockGraph, term: Origin, component: str, norms: tuple[StreamNorm, ...]
) -> ResidualWrite:
    """Return a term of the block's sum as what a module writes to the stream.

    Raises:
        _Unreadable: it is there before the norm that comes before its addition.
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
        raise _Unreadable("the stream is normed between what a block adds and the addition")
    return ResidualWrite(component, point, heads, n_norms_before)


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
    for depth, module_name in enumerate(names, start=1):
        module = block.block.get_submodule(".".join(names[:depth]))
        class_name = _without_family(type(module).__name__, block.family)
        component = _component_named(class_name) or _component_named(module_name)
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
