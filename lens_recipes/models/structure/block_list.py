"""Find the list of blocks in a recorded run, and check that one stream goes from block to block."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Size, Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.record.graph import Graph
from lens_recipes.models.structure.record.node import Node
from lens_recipes.models.structure.record.probe import (
    N_PROMPTS,
    N_TOKENS,
    PROBE_SHAPE,
    ForwardRecord,
    outermost_lists,
)


class BlockList(NamedTuple):
    """A list of modules that are the blocks.

    Attributes:
        path: Where it is.
        length: How many modules it has.
        blocks: Those of them that ran, by their numbers.
    """

    path: str
    length: int
    blocks: dict[int, nn.Module]


def find_block_list(module: nn.Module, record: ForwardRecord) -> BlockList:
    """Return the list of which most modules ran; of several, the one that ended last.

    It may hold modules that did not run: blocks that read an image, where there is none.

    Raises:
        LensError: there is none.
    """
    ended = {called: time for time, called in enumerate(record.calls)}

    def gives_stream(block: nn.Module) -> bool:
        output = record.outputs[block]
        return output is not None and output.is_floating_point()

    candidates = []
    for path, listed in outermost_lists(module):
        modules = list(listed.children())
        ran = {number: block for number, block in enumerate(modules) if block in ended}
        if ran and all(gives_stream(block) for block in ran.values()):
            candidates.append(BlockList(envoy_path(path), len(modules), ran))
    if not candidates:
        raise LensError(
            f"{type(module).__name__}: no list of blocks was found that a text prompt passes "
            "through, so there are no layers to read."
        )

    def count_and_end(found: BlockList) -> tuple[int, int]:
        last_number = max(found.blocks)
        return len(found.blocks), ended[found.blocks[last_number]]

    return max(candidates, key=count_and_end)


# -- one stream --------------------------------------------------------


def check_shapes(family: str, record: ForwardRecord, block_list: BlockList) -> None:
    """Raise LensError unless each block gives one vector a token, once, all of one width."""
    first_shape = record.outputs[next(iter(block_list.blocks.values()))].shape
    for layer, block in block_list.blocks.items():
        shape = record.outputs[block].shape
        if shape != first_shape and shape[:-1] == first_shape[:-1]:
            raise LensError(
                f"{family}: no list of blocks was found. The longest list of modules is "
                f"{block_list.path}, and what they give differs in width: first {first_shape[-1]}, "
                f"then {shape[-1]}."
            )
        if len(shape) != 3 or shape[:2] != PROBE_SHAPE or shape != first_shape:
            raise LensError(
                f"{family}: block {layer} gives {list(shape)} for 2 prompts of 6 tokens, where a "
                f"lens expects one residual stream [2, 6, d_model]. {_layout(shape)}"
            )
        times = record.calls.count(block)
        if times != 1:
            raise LensError(
                f"{family}: block {layer} runs {times} times for one token, so "
                f"'after layer {layer}' is not defined."
            )


def _layout(shape: Size) -> str:
    """Say in a sentence what a block's output is, if not one stream."""
    if len(shape) == 3 and shape[:2] == (N_TOKENS, N_PROMPTS):
        return "Its positions come before its prompts, and a stream that lies so is not read."
    n_streams, rest = divmod(shape[1:].numel(), N_TOKENS * shape[-1])
    if shape[0] == N_PROMPTS and rest == 0 and n_streams > 1:
        return f"These are {n_streams} streams, and a lens reads one."
    return "Several streams, and other layouts, are refused."


def is_chain(record: ForwardRecord, block_list: BlockList) -> bool:
    """Return whether each block takes what the one before it gave, or that times a number."""
    return all(
        _goes_on(record.inputs[block], record.outputs[previous])
        for previous, block in pairwise(block_list.blocks.values())
    )


def _goes_on(stream: Tensor | None, previous: Tensor) -> bool:
    """Return whether a block takes what the one before it gave, or that times a number.

    Tensors without numbers are compared by their shapes alone.
    """
    if stream is None or stream.shape != previous.shape:
        return False
    return stream.device.type == "meta" or stream_factor(previous, stream) is not None


def stream_factor(given: Tensor, taken: Tensor | None) -> float | None:
    """Return by which number a block's output is multiplied before the next block takes it.

    RWKV halves its stream. None where the two differ by more than a factor; where there are no
    numbers, it is known only of one and the same tensor.
    """
    if taken is None or taken.shape != given.shape:
        return None
    if taken is given:
        return 1.0
    if taken.device.type == "meta":
        return None
    given = given.double()
    taken = taken.to(given.device).double()
    if (taken == given).all():
        return 1.0
    factor = (given * taken).sum() / (given * given).sum()
    difference = (taken - factor * given).abs().max()
    if difference > 1e-5 * taken.abs().max():
        return None
    return float(factor)


def check_one_stream(
    family: str, graph: Graph, record: ForwardRecord, block_list: BlockList
) -> None:
    """Raise LensError unless the logits come out of what each block gives, and nothing beside it.

    The layers of XLM are no modules: between two that are listed there are others, but all that
    goes on from a layer is what its last one gives.
    """
    logits = graph.node_of(record.logits)
    embeddings = {
        graph.outputs[called]
        for called in record.calls
        if isinstance(called, nn.Embedding) and called in graph.outputs
    }
    for layer, block in block_list.blocks.items():
        if not embeddings.isdisjoint(_ancestors(logits, graph.outputs[block])):
            raise LensError(
                f"{family}: what comes after block {layer} is made of more than what this block "
                "gives: there are several streams, or something is added to the one. So the "
                f"model cannot be said to stop after layer {layer}."
            )


def _ancestors(node: Node, without: Node) -> set[Node]:
    """Return a tensor and all that it was computed from, but by way of `without`."""
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current is not without and current not in found:
            found.add(current)
            waiting += current.parents
    return found
