"""From a module in memory to an nnsight model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from torch import nn

from lens_recipes.errors import LensError
from lens_recipes.models.weights.offload import OffloadedModel, OffloadedNNsight, is_offloaded
from lens_recipes.models.weights.sharded import refuse_sharded


def wrap(module: Any, tokenizer: Any, revision: str | None = None) -> Envoy:
    """Return an nnsight model around a module; it stays on its devices.

    Args:
        module: Any that has a config. What Hugging Face did not build is traced as it is, with
            token ids; a tokenizer is then only for texts.
        tokenizer: Its own, or None. nnsight sets how it pads.
        revision: Which revision of a checkpoint it is.

    Raises:
        LensError: it puts vectors before the prompt that are no tokens, or holds but a part of its
            weights.
    """
    _refuse_virtual_tokens(module)
    refuse_sharded(module)
    elsewhere = is_offloaded(module)
    if tokenizer is None or not _is_for_pipelines(module):
        model = OffloadedNNsight(module) if elsewhere else NNsight(module)
        if tokenizer is not None:
            model.tokenizer = tokenizer
        return model
    model_class = OffloadedModel if elsewhere else TransformersModel
    with _device_map_without_disks(module):
        placement = {}
        if getattr(module, "hf_device_map", None) is None:
            # The pipeline inside would move the module to the first GPU.
            placement["device"] = module.device
        return model_class(module, tokenizer=tokenizer, revision=revision, **placement)


def _is_for_pipelines(module: Any) -> bool:
    """Return whether a module is Hugging Face's, or answers for one, as a `PeftModel` does.

    And whether it can generate: a pipeline is for nothing else.
    """
    if not hasattr(module, "can_generate") or not hasattr(module, "device"):
        return False
    return bool(module.can_generate())


def _refuse_virtual_tokens(module: nn.Module) -> None:
    """Raise LensError for a `PeftModel` that puts vectors of its own before the prompt."""
    settings = getattr(module, "active_peft_config", None)
    if getattr(settings, "is_prompt_learning", False):
        raise LensError(
            f"the adapter of this {type(module).__name__} puts vectors before the prompt that are "
            "no tokens: a lens has no word for them. Load the model without it."
        )


@contextlib.contextmanager
def _device_map_without_disks(module: Any) -> Iterator[None]:
    """Hide a map that begins with a disk: a pipeline takes its first entry for a device."""
    device_map = getattr(module, "hf_device_map", None)
    if not device_map or next(iter(device_map.values())) != "disk":
        yield
        return
    module.hf_device_map = None
    try:
        yield
    finally:
        module.hf_device_map = device_map
