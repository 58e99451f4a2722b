"""The early-exit oracle: what a model itself says when its later blocks are switched off.

For layer l, the model runs with every block after l handing its input on unchanged. The model then
applies its own final norm, projections, head, soft cap and scale to the output of block l, so no
knowledge of any family goes into the answer. This module uses only torch, numpy and the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

# --------------------------------------------------------------------------------------------------
# running the model


def _forward(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The model's logits as float32, without a cache where the model lets one say so."""
    inputs = {"input_ids": input_ids}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    with torch.inference_mode():
        output = model(**inputs)
        logits = output[0] if isinstance(output, tuple) else output.logits
        return logits.float()


def plain_logits(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The logits [batch, position, vocab] of an ordinary forward pass."""
    return _forward(model, input_ids, attention_mask).clone()


# --------------------------------------------------------------------------------------------------
# finding the blocks


@contextmanager
def _record_calls(model: nn.Module) -> Iterator[set[nn.Module]]:
    """A set that fills with the modules that run inside the context."""
    ran: set[nn.Module] = set()

    def note(module: nn.Module, _args: tuple) -> None:
        ran.add(module)

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(note).remove)
        yield ran


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's blocks: those that ran for text, of the outermost list of the configured length."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    ids = torch.arange(6, 12, device=next(model.parameters()).device)[None]
    with _record_calls(model) as ran:
        _forward(model, ids)
    found = [
        (name.count("."), [block for block in module if block in ran])
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and any(block in ran for block in module)
    ]
    if not found:
        raise LookupError(f"no list of {count} blocks ran in {type(model).__name__}")
    depth = min(level for level, _ in found)
    outermost = [module for level, module in found if level == depth]
    if len(outermost) > 1:
        raise LookupError(f"{len(outermost)} lists of {count} blocks ran in {type(model).__name__}")
    return outermost[0]


# --------------------------------------------------------------------------------------------------
# switching blocks off


def _hidden_input(args: tuple, kwargs: dict) -> torch.Tensor:
    """The hidden state among a block's arguments: its first floating-point tensor."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise TypeError("a block was called without a hidden state")


def _with_hidden(output: object, hidden: torch.Tensor) -> object:
    """A block's output with its hidden state replaced."""
    first = output if isinstance(output, torch.Tensor) else output[0]
    if first.shape != hidden.shape:
        raise ValueError(f"a block turned {tuple(hidden.shape)} into {tuple(first.shape)}")
    if isinstance(output, torch.Tensor):
        return hidden
    if type(output) in (tuple, list):
        return type(output)((hidden, *output[1:]))
    raise TypeError(f"a block returned {type(output).__name__}")


@contextmanager
def _switched_off(block: nn.Module) -> Iterator[None]:
    """Make a block hand its input on unchanged."""
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        kept.append(_hidden_input(args, kwargs).clone())

    def replace(_module: nn.Module, _args: tuple, _kwargs: dict, output: object) -> object:
        return _with_hidden(output, kept.pop())

    before = block.register_forward_pre_hook(keep, with_kwargs=True)
    after = block.register_forward_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def early_exit_logits(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [layer, batch, position, vocab] of the model stopped after each of its blocks."""
    blocks = blocks_of(model)
    rows = []
    for layer in range(len(blocks)):
        with ExitStack() as stack:
            for block in blocks[layer + 1 :]:
                stack.enter_context(_switched_off(block))
            rows.append(_forward(model, input_ids, attention_mask))
    if not torch.equal(rows[-1], plain_logits(model, input_ids, attention_mask)):
        raise AssertionError("the last layer's row differs from the plain forward pass")
    return torch.stack(rows).clone()


def image_exit_logits(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [layer, position, vocab] of a model stopped after each block of its decoder, and its own.

    For one prompt with all that its processor made of it. A decoder that adds what it saw of an
    image between two blocks does so after the exit, too, where the later of the two is switched off.
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    blocks = list(model.get_decoder().layers)
    rows = []
    with torch.inference_mode():
        for layer in range(len(blocks)):
            with ExitStack() as stack:
                for block in blocks[layer + 1 :]:
                    stack.enter_context(_switched_off(block))
                rows.append(model(**given, use_cache=False).logits[0].float())
        own = model(**given, use_cache=False).logits[0].float()
    if not torch.equal(rows[-1], own):
        raise AssertionError("the last layer's row differs from the plain forward pass")
    return torch.stack(rows).clone(), own.clone()


def handed_on_logits(
    model: PreTrainedModel, blocks: list[nn.Module], input_ids: torch.Tensor
) -> torch.Tensor:
    """Logits [layer, batch, position, vocab] of the model where its last block gives what another one gave.

    For models whose layers are no modules that could be switched off.
    """
    given: list[torch.Tensor] = []
    with ExitStack() as stack:
        for block in blocks:

            def keep(_module: nn.Module, _args: tuple, output: object) -> None:
                given.append((output if isinstance(output, torch.Tensor) else output[0]).clone())

            stack.callback(block.register_forward_hook(keep).remove)
        own = _forward(model, input_ids)
    rows = []
    for hidden in given:

        def replace(
            _module: nn.Module, _args: tuple, output: object, hidden: torch.Tensor = hidden
        ) -> object:
            return _with_hidden(output, hidden.clone())

        handle = blocks[-1].register_forward_hook(replace)
        rows.append(_forward(model, input_ids))
        handle.remove()
    if not torch.equal(rows[-1], own):
        raise AssertionError("the last layer's row differs from the plain forward pass")
    return torch.stack(rows).clone()


# --------------------------------------------------------------------------------------------------
# reference metrics, in float64


def _float64(values: object) -> np.ndarray:
    """Any array or tensor as a float64 numpy array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def log_softmax(logits: object) -> np.ndarray:
    """Log-probabilities over the last axis."""
    logits = _float64(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _expectation(logprobs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of values under the given distribution; impossible tokens count nothing."""
    probs = np.exp(logprobs)
    return np.where(probs > 0, probs * np.where(probs > 0, values, 0.0), 0.0).sum(axis=-1)


def metrics(logits: object, final_logits: object, k: int) -> dict[str, np.ndarray]:
    """Reference numbers for lens logits [..., vocab], given the model's own logits to compare with.

    `final_logits` broadcasts against `logits`, so [layer, batch, position, vocab] goes with
    [batch, position, vocab]. Tokens with equal logits are ordered by their id.
    """
    logits = _float64(logits)
    logprobs, final = log_softmax(logits), log_softmax(final_logits)
    final = np.broadcast_to(final, logprobs.shape)
    top_ids = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    with np.errstate(invalid="ignore"):
        gap = final - logprobs
    return {
        "logprobs": logprobs,
        "top_ids": top_ids,
        "top_logprobs": np.take_along_axis(logprobs, top_ids, axis=-1),
        "entropy": -_expectation(logprobs, logprobs),
        "kl_to_final": _expectation(final, gap),
    }


def rank(logits: object, ids: object) -> np.ndarray:
    """How many tokens have a strictly larger logit than the given ones: zero for the top token.

    `ids` broadcasts against the leading axes of `logits` [..., vocab].
    """
    logits = _float64(logits)
    ids = np.asarray(ids.cpu() if isinstance(ids, torch.Tensor) else ids, dtype=np.int64)
    ids = np.broadcast_to(ids, logits.shape[:-1])
    own = np.take_along_axis(logits, ids[..., None], axis=-1)
    return (logits > own).sum(axis=-1)
