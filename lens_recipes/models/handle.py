"""Ask a loaded model: its tokenizer, its config, where it runs, whether it is free."""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.modeling.mixins.remotable import Remotable

from lens_recipes.errors import LensError

_locks: weakref.WeakKeyDictionary[torch.nn.Module, threading.RLock] = weakref.WeakKeyDictionary()

# How a model that `load` built is to be run when a recipe is not told: False, True or a server's address.
_remote_by_default: weakref.WeakKeyDictionary[Envoy, bool | str] = weakref.WeakKeyDictionary()

_load_seconds: weakref.WeakKeyDictionary[Envoy, float] = weakref.WeakKeyDictionary()


def load_seconds(model: Envoy) -> float | None:
    """How long `load` took, or None where it was given a model that was there already."""
    return _load_seconds.get(model)


def resolve_remote(model: Envoy, remote: bool | str | None) -> bool | str:
    """Where a recipe runs: what the caller said, else how the model was loaded.

    Raises:
        LensError: the run would be local, but the weights are not loaded. (A trace would fetch them, all of
            them, without asking.)
    """
    if not isinstance(model, Envoy):
        raise LensError(
            f"the model is a {type(model).__name__}; recipes take what load() returns: model = lens_recipes.load(...)"
        )
    chosen = _remote_by_default.get(model, False) if remote is None else remote
    if chosen in (False, "local") and on_meta(model):
        raise LensError(
            "this model has no weights here (it is on the meta device) and would have to be downloaded to run "
            "locally. Pass remote=True to run it on a server, or load it with its weights: load(source)."
        )
    if chosen == "local" and not isinstance(model, Remotable):
        raise LensError(
            "a model without a tokenizer cannot be sent anywhere, so there is no rehearsal of it: load it with "
            "load(..., tokenizer=...)."
        )
    if chosen and chosen != "local" and not _has_hub_id(model):
        raise LensError(
            "a server finds a model by its hub id, and this one has none: load it with load(hub_id, remote=True)."
        )
    return chosen


def refuse_training(model: Envoy, where: bool | str) -> None:
    """Raise LensError if a run here would differ each time."""
    if model._module.training and not where:
        raise LensError(
            "the model is in training mode, where dropout makes every run different: call model.eval()."
        )


def _has_hub_id(model: Envoy) -> bool:
    name = getattr(model, "repo_id", None)
    return (
        isinstance(model, Remotable)
        and name is not None
        and (name in _ID_CACHE or not Path(name).is_dir())
    )


def on_meta(model: Envoy) -> bool:
    """Whether the weights are not loaded: a skeleton on torch's meta device."""
    if not getattr(model, "dispatched", True):
        return True
    first = next(model._module.parameters(), None)
    return first is not None and first.device.type == "meta"


def tokenizer_of(model: Envoy) -> Any | None:
    """The model's tokenizer, or None where prompts are token ids."""
    return getattr(model, "tokenizer", None)


def text_config(model: Envoy) -> Any:
    """The config of the text decoder, also inside a multimodal checkpoint."""
    config = getattr(model._module, "config", None)
    return config.get_text_config(decoder=True) if config is not None else None


def dtype_of(model: Envoy) -> torch.dtype:
    """The dtype of the weights: that of the first one which is not quantised to whole numbers."""
    dtypes = (parameter.dtype for parameter in model._module.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


_running: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


@contextlib.contextmanager
def exclusive(model: Envoy) -> Iterator[None]:
    """One run at a time: a traced model is not to be used from two threads at once.

    Raises:
        LensError: this thread is in the middle of a run of this model already (a recipe called by `on_step`).
    """
    module = model._module
    with _locks.setdefault(module, threading.RLock()):
        if module in _running:
            raise LensError(
                "this model is in the middle of a run, and another cannot begin before that has ended: on_step may "
                "look at what it is given, or use another model. Collect the parts, and run the recipe afterwards."
            )
        _running.add(module)
        try:
            yield
        finally:
            _running.discard(module)


def context_length(model: Envoy) -> int | None:
    """How many tokens a prompt may have; None where the model has no bound (state space, ALiBi)."""
    names = (
        "max_position_embeddings",
        "max_seq_len",
    )  # not `context_length`: a recurrent model reads on beyond it
    return next(
        (value for name in names if (value := getattr(text_config(model), name, None))), None
    )


def envoy_path(path: str) -> str:
    """Where nnsight keeps a submodule: one named like a value that every module serves (`output`) has moved."""
    served = (inspect.isdatadescriptor(getattr(Envoy, name, None)) for name in path.split("."))
    parts = zip(path.split("."), served, strict=True)
    return ".".join(f"{Envoy.OVERLOAD_PREFIX}{name}" if moved else name for name, moved in parts)
