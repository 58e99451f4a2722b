"""`anatomy()`: where a decoder keeps its parts, and how its last block becomes the logits.

Nothing here knows a model by name. A few tokens are run through the model (or, without weights,
their shapes alone) while it is recorded: which list of modules was walked from end to end (the
blocks), which modules and which elementwise operations turned the last block's output into the
logits (the *tail*: final norm, projections, unembedding, logit scale, softcap, casts). Replaying
the tail on another vector is the logit lens, with whatever this model does there. What cannot be
followed to the end is refused.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import on_meta, text_config
from lens_recipes.models.structure.head_path import find_head_operations
from lens_recipes.models.structure.probe import (
    N_TOKENS,
    PROBE_SHAPE,
    ForwardRecord,
    outermost_lists,
    plain_ids,
    record_forward,
)
from lens_recipes.trace.operations import ModuleCall, Operation, unembedding_index

# What the name of such a part of a block begins or ends with, or its class contains.
ATTENTION_HINTS = ("attn", "attention", "mixer", "temporal")
MLP_HINTS = ("mlp", "feed_forward", "ffn", "moe", "ff", "fc")


@dataclass(frozen=True)
class Anatomy:
    """The places where a decoder keeps its parts.

    Paths are relative to the model: `model.get(anatomy.blocks)`.

    Attributes:
        family: The model's class.
        n_layers, d_model, vocab_size: Blocks, width of the stream, tokens.
        blocks: The list of blocks.
        embed, norm, unembed: Embedding, final norm and unembedding; None where the model has none,
            or it was not found.
        attention, mlp: Within a block.
        tail: All that happens between the last block and the logits, operation by operation.
        forward_options: Which arguments the model's forward takes.
        plain_ids: A few tokens without a special meaning, for trial runs.
    """

    family: str
    n_layers: int
    d_model: int
    vocab_size: int
    blocks: str
    embed: str | None
    attention: str | None
    mlp: str | None
    norm: str | None
    unembed: str
    tail: list[Operation] = field(repr=False)
    forward_options: frozenset[str] = field(repr=False)
    plain_ids: tuple[int, ...] = field(repr=False)

    @property
    def after_unembed(self) -> str:
        """Return in words what happens to the logits after the unembedding.

        For instance "div 30, tanh, mul 30".
        """
        operations = self.tail[unembedding_index(self.tail) + 1 :]
        return ", ".join(str(operation) for operation in operations) or "nothing"

    def __str__(self) -> str:
        none_in_block = "none found in a block"
        first_block = f"{self.blocks}.0"
        attention = f"{first_block}.{self.attention}" if self.attention else none_in_block
        mlp = f"{first_block}.{self.mlp}" if self.mlp else none_in_block
        rows = {
            "family": self.family,
            "blocks": f"{self.blocks}  ({self.n_layers} layers, {self.d_model} wide)",
            "embedding": self.embed or "not found",
            "attention": attention,
            "MLP": mlp,
            "final norm": self.norm or "none",
            "unembedding": f"{self.unembed}  ({self.vocab_size} tokens)",
            "after it": self.after_unembed,
            "whole tail": " → ".join(str(operation) for operation in self.tail),
        }
        return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


# The anatomy of each model that was examined.
_anatomies: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


def anatomy(model: Envoy) -> Anatomy:
    """Find blocks, attention, MLP, final norm and unembedding, and what follows the unembedding.

    Costs one forward pass over a dozen tokens, once per model; without weights (`remote=True`) no
    computation.

    Raises:
        LensError: the logits are not a function of the last block's output alone, position by
            position (encoder–decoders, several residual streams, unknown heads), or the model is
            not causal.

    Example:
        >>> print(anatomy(load("smollm2")))     # blocks: model.layers, final norm: model.norm, …
    """
    module = model._module
    if module not in _anatomies:
        _anatomies[module] = _examine(model)
    return _anatomies[module]


def _examine(model: Envoy) -> Anatomy:
    """Run the model once, and find its parts in the record."""
    module = model._module
    family = type(module).__name__
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise LensError(
            f"{family} is an encoder–decoder: its logits do not come from one residual stream. "
            "A logit lens needs a decoder-only model."
        )
    options = frozenset(inspect.signature(module.forward).parameters)
    vocab_size = getattr(text_config(model), "vocab_size", None) or 2
    ids = plain_ids(config, vocab_size)
    record = record_forward(module, ids, options, meta=on_meta(model))
    block_list = _find_block_list(module, record)
    blocks = block_list.blocks
    _check_causal(family, record)
    _check_stream(family, record, blocks)
    operations = find_head_operations(module, record, blocks[-1])
    calls = [operation for operation in operations if isinstance(operation, ModuleCall)]
    norms = [call.path for call in calls if call.is_norm]
    return Anatomy(
        family=family,
        n_layers=len(blocks),
        d_model=record.outputs[blocks[-1]].shape[-1],
        vocab_size=record.logits.shape[-1],
        blocks=block_list.path,
        embed=_find_embedding(module, record),
        attention=_find_part(blocks[0], record, ATTENTION_HINTS),
        mlp=_find_part(blocks[0], record, MLP_HINTS),
        norm=norms[-1] if norms else None,
        unembed=calls[-1].path,
        tail=operations,
        forward_options=options,
        plain_ids=ids,
    )


# -- parts -------------------------------------------------------------


class _BlockList(NamedTuple):
    """A list of modules that may be the blocks, and its path."""

    path: str
    blocks: list[nn.Module]


def _find_block_list(module: nn.Module, record: ForwardRecord) -> _BlockList:
    """Return the longest list of modules that the run walked through; of several, the last."""
    ended = {called: time for time, called in enumerate(record.calls)}

    def was_walked_through(block: nn.Module) -> bool:
        output = record.outputs.get(block)
        return block in ended and output is not None and output.is_floating_point()

    candidates = []
    for path, listed in outermost_lists(module):
        blocks = list(listed.children())
        if all(was_walked_through(block) for block in blocks):
            candidates.append(_BlockList(path, blocks))
    if not candidates:
        raise LensError(
            f"{type(module).__name__}: no list of blocks was found that a text prompt passes "
            "through from first to last, so there are no layers to read."
        )
    return max(candidates, key=lambda found: (len(found.blocks), ended[found.blocks[-1]]))


def _find_embedding(module: nn.Module, record: ForwardRecord) -> str | None:
    """Return the path of the first embedding that ended."""
    paths = {child: path for path, child in module.named_modules()}
    for called in record.calls:
        if isinstance(called, nn.Embedding):
            return paths[called]
    return None


def _find_part(block: nn.Module, record: ForwardRecord, hints: tuple[str, ...]) -> str | None:
    """Return the path of the outermost module in a block that a hint names.

    Only modules that ran are looked at, and no norms.
    """
    for path, child in block.named_modules():
        class_name = type(child).__name__.lower()
        name = path.rpartition(".")[2].lower()
        is_part = path != "" and child in record.inputs
        if not is_part or "norm" in class_name or "norm" in name:
            continue
        for hint in hints:
            if name.startswith(hint) or name.endswith(hint) or hint in class_name:
                return path
    return None


# -- what a lens needs -------------------------------------------------


def _check_causal(family: str, record: ForwardRecord) -> None:
    """Check that the model reads left to right: the two prompts differ in the last token alone.

    A model without weights gives no numbers to compare.
    """
    if record.logits.device.type == "meta":
        return
    before_last = record.logits[:, : N_TOKENS - 1].float()
    difference = (before_last[0] - before_last[1]).abs().max()
    if difference > 0.05 * before_last.abs().max():
        raise LensError(
            f"{family} is not causal: a later token changes the prediction at an earlier "
            "position, so 'what the model predicts next' is not defined. A lens needs a model that "
            "reads left to right."
        )


def _check_stream(family: str, record: ForwardRecord, blocks: list[nn.Module]) -> None:
    """Check that one stream [batch, position, d_model] goes from block to block."""
    first_shape = record.outputs[blocks[0]].shape
    for layer, block in enumerate(blocks):
        stream = record.outputs[block]
        is_one_stream = stream.ndim == 3 and stream.shape[:2] == PROBE_SHAPE
        if not is_one_stream or stream.shape != first_shape:
            raise LensError(
                f"{family}: block {layer} gives {list(stream.shape)} for 2 prompts of 6 tokens, "
                "where a lens expects one residual stream [2, 6, d_model]. Several streams, and "
                "other layouts, are refused."
            )
        times = record.calls.count(block)
        if times != 1:
            raise LensError(
                f"{family}: block {layer} runs {times} times for one token, so "
                f"'after layer {layer}' is not defined."
            )
        if layer == 0:
            continue
        previous_stream = record.outputs[blocks[layer - 1]]
        if not _is_multiple(record.inputs[block], previous_stream):
            raise LensError(
                f"{family}: between block {layer - 1} and block {layer} something is added to the "
                f"stream, so the model cannot be said to stop after layer {layer - 1}."
            )


def _is_multiple(stream: Tensor | None, previous: Tensor) -> bool:
    """Return whether a block takes what the one before it gave, or that times a number.

    RWKV halves its stream. Tensors without numbers are compared by their shapes alone.
    """
    if stream is None or stream.shape != previous.shape:
        return False
    if stream is previous or stream.device.type == "meta":
        return True
    previous = previous.double()
    stream = stream.to(previous.device).double()
    factor = (previous * stream).sum() / (previous * previous).sum()
    difference = (stream - factor * previous).abs().max()
    return bool((difference <= 1e-5 * stream.abs().max()).item())
