"""What is expected, by plain torch: hooks on the Hugging Face model, and its own later half. No lens library.

Prompts here are ids [1, token] of one prompt; log-probabilities are float64 numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from oracle import blocks_of, early_exit_logits, log_softmax, plain_logits
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints import ids_of


def lens_logits(module: PreTrainedModel, prompt: str | Tensor) -> np.ndarray:
    """What the model says when it stops after each layer: logits [layer, token, vocab]."""
    ids = ids_of(prompt) if isinstance(prompt, str) else prompt
    return early_exit_logits(module, ids)[:, 0].double().numpy()


def lens(module: PreTrainedModel, prompt: str | Tensor) -> np.ndarray:
    """The same as log-probabilities."""
    return log_softmax(lens_logits(module, prompt))


def ranks(logprobs: np.ndarray, token: int) -> np.ndarray:
    """How many tokens are more likely than this one, over the last axis."""
    return (logprobs > logprobs[..., [token]]).sum(-1)


def settled(top_ids: np.ndarray, answer: int) -> int:
    """The first index from which `top_ids` [layer] is `answer` and stays; −1 for never."""
    stays = np.logical_and.accumulate((top_ids == answer)[::-1])[::-1]
    return int(stays.argmax()) if stays.any() else -1


def decode(module: PreTrainedModel, vectors: Tensor) -> np.ndarray:
    """Log-probabilities [vector, vocab] of `vectors` [vector, width] in the place of the last block's output."""

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        whole = vectors[:, None].to(torch.float32)
        return whole if isinstance(output, Tensor) else (whole, *output[1:])

    handle = blocks_of(module)[-1].register_forward_hook(replace)
    try:
        return log_softmax(plain_logits(module, torch.full((len(vectors), 1), 7)))[:, 0]
    finally:
        handle.remove()


def seen(module: PreTrainedModel, prompt: str, *paths: str) -> list[tuple[Tensor, Tensor]]:
    """Input and output [token, width] of submodules in one run, copied when they are there."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            made = output if isinstance(output, Tensor) else output[0]
            found[path] = (given[0].clone(), made[0].clone())

        return hook

    with ExitStack() as stack:
        for path in paths:
            handle = module.get_submodule(path).register_forward_hook(note(path), with_kwargs=True)
            stack.callback(handle.remove)
        plain_logits(module, ids_of(prompt))
    return [found[path] for path in paths]


def frozen(norm: nn.Module, at: Tensor, x: Tensor, plus: float = 0.0) -> Tensor:
    """The linear part of a norm as it is at `at` [width], applied to `x` [..., width]; Gemma's scale is 1 + weight."""
    if isinstance(norm, nn.LayerNorm):
        return (x - x.mean(-1, keepdim=True)) / (at.var(unbiased=False) + norm.eps).sqrt() * norm.weight
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return x / (at.pow(2).mean() + eps).sqrt() * (norm.weight + plus)


def direction(module: PreTrainedModel, target: str, against: str | None) -> Tensor:
    """What the unembedding reads for a target and not for another token, or for the mean: [width]."""
    rows = module.get_output_embeddings().weight
    minus = rows.mean(0) if against is None else rows[int(ids_of(against))]
    return rows[int(ids_of(target))] - minus


def shares(
    module: PreTrainedModel, prompt: str, norm: str, parts: Tensor, toward: Tensor, plus: float = 0.0
) -> np.ndarray:
    """What vectors [..., width] that are added to the stream of the last token add to the logit, norm frozen."""
    ((stream, _),) = seen(module, prompt, norm)
    return (frozen(module.get_submodule(norm), stream[-1], parts, plus) @ toward).double().numpy()
