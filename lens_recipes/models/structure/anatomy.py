"""`anatomy()`: where a decoder keeps its parts, and what it does between the last block and the logits.

Nothing here knows a model by name. A few tokens are run through the model (or, without weights, their shapes
alone) while it is watched: which list of modules was walked from end to end (the blocks), which modules and which
elementwise operations turned the last block's output into the logits (the *tail*: final norm, projections,
unembedding, logit scale, softcap, casts). Replaying the tail on another vector is the logit lens, with whatever
this model does there. What cannot be followed to the end is refused.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import on_meta, text_config
from lens_recipes.models.structure.head_path import (
    find_head_operations,
    without_devices,
)
from lens_recipes.models.structure.probe import (
    PROBE_SHAPE,
    ForwardRecord,
    outermost_lists,
    plain_ids,
    record_forward,
)
from lens_recipes.trace.operations import (
    Elementwise,
    ModuleCall,
    Operation,
    unembedding_index,
)


@dataclass(frozen=True)
class Anatomy:
    """Where this decoder keeps its parts. Paths are relative to the model: `model.get(anatomy.blocks)`.

    Attributes:
        family: The model's class.
        n_layers, d_model, vocab_size: Blocks, width of the stream, tokens.
        blocks: The list of blocks.
        embed, norm, unembed: Embedding, final norm and unembedding; None where there is none, or it was not found.
        attention, mlp: Within a block.
        tail: All that happens between the last block and the logits, step by step.
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
        """What happens to the logits after the unembedding, in words (`"div 30.0, tanh, mul 30.0"`)."""
        after = self.tail[unembedding_index(self.tail) + 1 :]
        return ", ".join(str(operation) for operation in after) or "nothing"

    def __str__(self) -> str:
        block = f"{self.blocks}.0."
        rows = [
            ("family", self.family),
            ("blocks", f"{self.blocks}  ({self.n_layers} layers, {self.d_model} wide)"),
            ("embedding", self.embed or "not found"),
            ("attention", block + self.attention if self.attention else "none found in a block"),
            ("MLP", block + self.mlp if self.mlp else "none found in a block"),
            ("final norm", self.norm or "none"),
            ("unembedding", f"{self.unembed}  ({self.vocab_size} tokens)"),
            ("after it", self.after_unembed),
            ("whole tail", " → ".join(str(operation) for operation in self.tail)),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)


_known: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


def anatomy(model: Envoy) -> Anatomy:
    """Find blocks, attention, MLP, final norm and unembedding, and what is applied after the unembedding.

    Costs one forward pass over a dozen tokens, once per model; without weights (`remote=True`) no computation.

    Raises:
        LensError: the logits are not a function of the last block's output alone, position by position
            (encoder–decoders, several residual streams, unknown heads), or the model is not causal.

    Example:
        >>> print(anatomy(load("smollm2")))     # blocks: model.layers, final norm: model.norm, …
    """
    module = model._module
    found = _known.get(module)
    if found is None:
        found = _known[module] = _examine(model)
    return found


def _examine(model: Envoy) -> Anatomy:
    module = model._module
    family = type(module).__name__
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        raise LensError(
            f"{family} is an encoder–decoder: its logits do not come from one residual stream. "
            "A logit lens needs a decoder-only model."
        )
    options = frozenset(inspect.signature(module.forward).parameters)
    ids = plain_ids(
        getattr(module, "config", None), getattr(text_config(model), "vocab_size", None) or 2
    )
    run = record_forward(module, ids, options, meta=on_meta(model))
    path, blocks = _find_blocks(module, run)
    _check_stream(family, run, blocks)
    steps = find_head_operations(module, run, blocks[-1])
    calls = [step for step in steps if isinstance(step, ModuleCall)]
    norms = [call.path for call in calls if call.is_norm]
    names = {module_: name for name, module_ in module.named_modules()}
    return Anatomy(
        family=family,
        n_layers=len(blocks),
        d_model=run.outputs[blocks[-1]].shape[-1],
        vocab_size=run.logits.shape[-1],
        blocks=path,
        embed=next((names[m] for m in run.calls if isinstance(m, nn.Embedding)), None),
        attention=_part(blocks[0], run, ("attn", "attention", "mixer", "temporal")),
        mlp=_part(blocks[0], run, ("mlp", "feed_forward", "ffn", "moe", "ff", "fc")),
        norm=norms[-1] if norms else None,
        unembed=calls[-1].path,
        tail=steps,
        forward_options=options,
        plain_ids=ids,
    )


# -- blocks ------------------------------------------------------------


def _find_blocks(module: nn.Module, run: ForwardRecord) -> tuple[str, list[nn.Module]]:
    """The longest list of modules that the run walked through; of several, the last."""
    ended = {m: i for i, m in enumerate(run.calls)}
    found = []
    for path, blocks in outermost_lists(module):
        members = list(blocks.children())
        if all(
            m in ended and run.outputs[m] is not None and run.outputs[m].is_floating_point()
            for m in members
        ):
            found.append((path, members))
    if not found:
        raise LensError(
            f"{type(module).__name__}: no list of blocks was found that a text prompt passes through from first "
            "to last, so there are no layers to read."
        )
    return max(found, key=lambda item: (len(item[1]), ended[item[1][-1]]))


def _check_stream(family: str, run: ForwardRecord, blocks: list[nn.Module]) -> None:
    """The model reads left to right, and one stream [batch, position, d_model] goes from block to block."""
    if run.logits.device.type != "meta":
        rows = run.logits[:, : PROBE_SHAPE[1] - 1].float()
        if (rows[0] - rows[1]).abs().max() > 0.05 * rows.abs().max():
            raise LensError(
                f"{family} is not causal: a later token changes the prediction at an earlier position, so "
                "'what the model predicts next' is not defined. A lens needs a model that reads left to right."
            )
    for layer, block in enumerate(blocks):
        stream = run.outputs[block]
        if (
            stream.ndim != 3
            or stream.shape[:2] != PROBE_SHAPE
            or stream.shape != run.outputs[blocks[0]].shape
        ):
            raise LensError(
                f"{family}: block {layer} gives {list(stream.shape)} for 2 prompts of 6 tokens, where a lens expects "
                "one residual stream [2, 6, d_model]. Several streams, and other layouts, are refused."
            )
        times = run.calls.count(block)
        if times != 1:
            raise LensError(
                f"{family}: block {layer} runs {times} times for one token, so 'after layer {layer}' is not defined."
            )
        if layer and not _continues(run.outputs[blocks[layer - 1]], run.inputs[block]):
            raise LensError(
                f"{family}: between block {layer - 1} and block {layer} something is added to the stream, so the model "
                f"cannot be said to stop after layer {layer - 1}."
            )


def _continues(before: Tensor, after: Tensor | None) -> bool:
    """Whether a block takes what the one before it gave, or that times a number (RWKV halves its stream)."""
    if after is None or after.shape != before.shape:
        return False
    if after is before or after.device.type == "meta":
        return True
    before, after = before.double(), after.to(before.device).double()
    factor = (before * after).sum() / (before * before).sum()
    return bool(((after - factor * before).abs().max() <= 1e-5 * after.abs().max()).item())


def _part(block: nn.Module, run: ForwardRecord, hints: tuple[str, ...]) -> str | None:
    """The child of a block whose name or class speaks of `hints`; modules that ran, the outermost first."""
    for name, child in block.named_modules():
        kind = type(child).__name__.lower()
        leaf = name.rpartition(".")[2].lower()
        if not name or child not in run.inputs or "norm" in kind + leaf:
            continue
        if any(leaf.startswith(w) or leaf.endswith(w) or w in kind for w in hints):
            return name
    return None


def plain_head(model: Envoy, parts: Anatomy) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias of an unembedding that is nothing but a product on this processor; None for any other.

    Sharded, quantised, offloaded, adapted, half-precision or hooked heads are modules to be called.
    """
    head = model._module.get_submodule(parts.unembed)
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return None
    hooked = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook")
    here = head.weight.dtype == torch.float32 and head.weight.device.type == "cpu"
    elementwise = all(isinstance(step, ModuleCall | Elementwise) for step in parts.tail)
    return (head.weight, head.bias) if here and elementwise and not hooked else None


# -- there and back ----------------------------------------------------


def head_operations_for(parts: Anatomy, remote: bool | str) -> list[Operation]:
    """The way from the stream to the logits, there without the names of this machine's devices."""
    return without_devices(parts.tail) if remote else parts.tail
