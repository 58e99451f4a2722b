"""The tensors that add up to a block's output: the stream that came in, and what was added to it.

A block's output is followed backwards through additions, scales, casts and other layouts, and where
that does not lead to the stream, through norms as well.
"""

from __future__ import annotations

from lens_recipes.models.structure.record.graph import BlockGraph
from lens_recipes.models.structure.record.node import VECTOR_NAMES, Node, Origin
from lens_recipes.models.structure.record.norms import is_norm
from lens_recipes.trace.operations import WithVector


class Unreadable(Exception):
    """A reason why a block is not the sum that was looked for."""


def terms_with_stream(block: BlockGraph, *, is_first: bool) -> list[Origin]:
    """Return the tensors that add up to the block's output, with the stream once among them.

    The stream is followed through norms where it does not reach the output otherwise.

    Raises:
        Unreadable: the output is no such sum.
    """
    try:
        terms = _terms_of_output(block)
        if is_first and _start_after_first_norm(block, terms):
            terms = _terms_of_output(block)
        _check_stream_is_in(block, terms)
    except Unreadable:
        block.follow_norms()
        terms = _terms_of_output(block)
        _check_stream_is_in(block, terms)
    return terms


def _check_stream_is_in(block: BlockGraph, terms: list[Origin]) -> None:
    """Raise `Unreadable` if the stream that comes in is not one of the summands."""
    if sum(term.node is block.stream for term in terms) != 1:
        raise Unreadable("its output is not a sum that contains its input")


def _terms_of_output(block: BlockGraph) -> list[Origin]:
    """Return the tensors that add up to the block's output, each with the operations on its way."""
    output = block.graph.outputs[block.block]
    return terms_of(block, Origin(output, ()))


def terms_of(block: BlockGraph, tensor: Origin) -> list[Origin]:
    """Return the tensors that add up to one: the stream, and what modules of the block give.

    Raises:
        Unreadable: it is no sum of such tensors.
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
            raise Unreadable(
                "the stream is multiplied by weights, or weights are added to it, and their values "
                "are not in this process: a model that is loaded with its weights can be read"
            )
        if carries_stream or not node.parents:
            raise Unreadable(
                "the stream is mixed after the addition, so what a block adds does not stay in it"
            )
        raise Unreadable(
            f"something is added that no module gives (it comes out of the operation {node.name})"
        )
    # What is added to a sum is added to one summand alone: to the stream, if it is among them.
    first = next((origin for origin in origins if block.carries_stream(origin.node)), origins[0])
    scales = tuple(step for step in operations if not (isinstance(step, WithVector) and step.adds))
    terms = []
    for origin in origins:
        later = operations if origin is first else scales
        terms += terms_of(block, Origin(origin.node, (*origin.operations, *later)))
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
