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

from nnsight.intervention.envoy import Envoy
from torch import nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path, on_meta, text_config
from lens_recipes.models.structure.block_list import (
    check_one_stream,
    check_shapes,
    find_block_list,
    is_chain,
)
from lens_recipes.models.structure.graph import Graph
from lens_recipes.models.structure.head_path import find_head_operations
from lens_recipes.models.structure.probe import (
    N_TOKENS,
    ForwardRecord,
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
        layers: The numbers of the blocks that a text prompt passes through: all in most models. A
            block that reads nothing but an image is passed over.
        is_chain: Whether each block takes what the one before it gave. Else the stream after a
            layer is what the block gives, and other modules come before the next one.
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
    layers: tuple[int, ...]
    is_chain: bool
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
    def last_layer(self) -> int:
        """Return the number of the last block that a text prompt passes through."""
        return self.layers[-1]

    def block(self, layer: int) -> str:
        """Return the path of a block."""
        return f"{self.blocks}.{layer}"

    @property
    def after_unembed(self) -> str:
        """Return in words what happens to the logits after the unembedding.

        For instance "div 30, tanh, mul 30".
        """
        operations = self.tail[unembedding_index(self.tail) + 1 :]
        return ", ".join(str(operation) for operation in operations) or "nothing"

    def __str__(self) -> str:
        none_in_block = "none found in a block"
        first_block = self.block(self.layers[0])
        size = f"{self.n_layers} layers, {self.d_model} wide"
        passed_over = [str(layer) for layer in range(self.n_layers) if layer not in self.layers]
        if passed_over:
            size += f"; text passes over {', '.join(passed_over)}"
        attention = f"{first_block}.{self.attention}" if self.attention else none_in_block
        mlp = f"{first_block}.{self.mlp}" if self.mlp else none_in_block
        rows = {
            "family": self.family,
            "blocks": f"{self.blocks}  ({size})",
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
    token_ids = plain_ids(config, vocab_size)
    record = record_forward(module, token_ids, options, meta=on_meta(model))
    block_list = find_block_list(module, record)
    blocks = list(block_list.blocks.values())
    _check_causal(family, record)
    check_shapes(family, record, block_list)
    blocks_follow = is_chain(record, block_list)
    if not blocks_follow:
        graph = Graph(module)
        again = record_forward(module, token_ids, options, meta=on_meta(model), graph=graph)
        check_one_stream(family, graph, again, block_list)
    operations = find_head_operations(module, record, blocks[-1])
    calls = [operation for operation in operations if isinstance(operation, ModuleCall)]
    norms = [call.path for call in calls if call.is_norm]
    return Anatomy(
        family=family,
        n_layers=block_list.length,
        layers=tuple(block_list.blocks),
        is_chain=blocks_follow,
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
        plain_ids=token_ids,
    )


# -- parts -------------------------------------------------------------


def _find_embedding(module: nn.Module, record: ForwardRecord) -> str | None:
    """Return the path of the first embedding that ended."""
    paths = {child: envoy_path(path) for path, child in module.named_modules()}
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
                return envoy_path(path)
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
