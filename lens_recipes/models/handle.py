"""Ask a loaded model: its tokenizer, its config, where it runs, whether it is free."""

from __future__ import annotations

import inspect
import threading
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.modeling.mixins.remotable import Remotable

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.weights.offload import lacks_weights
from lens_recipes.trace.operations import autocast_dtype

# -- how a model was loaded --------------------------------------------

# Where a model that `load` built runs when a recipe is not told: False, True or a server's address.
_default_remotes: weakref.WeakKeyDictionary[Envoy, bool | str] = weakref.WeakKeyDictionary()

# Models that are looked at for an estimate, and never run: they need neither weights nor a name.
_on_paper: weakref.WeakSet[Envoy] = weakref.WeakSet()

_load_seconds: weakref.WeakKeyDictionary[Envoy, float] = weakref.WeakKeyDictionary()


def set_default_remote(model: Envoy, remote: bool | str) -> None:
    """Remember where a model runs when a recipe is not told."""
    _default_remotes[model] = remote


def put_on_paper(model: Envoy) -> None:
    """Let a model be taken for one that runs, wherever it is said to: nothing of it ever does."""
    _on_paper.add(model)


def set_load_seconds(model: Envoy, seconds: float) -> None:
    """Remember how long `load` took."""
    _load_seconds[model] = seconds


def load_seconds(model: Envoy) -> float | None:
    """Return how long `load` took, or None where it was given a model that existed already."""
    return _load_seconds.get(model)


# -- where it runs -----------------------------------------------------


def resolve_remote(model: Envoy, remote: bool | str | None) -> bool | str:
    """Return where a recipe runs: as the caller asks, else as the model was loaded.

    Raises:
        LensError: the run would be local, but the weights are not loaded. (A trace would fetch
            them, all of them, without asking.) Or the run cannot be sent: a server would not find
            the model.
    """
    if not isinstance(model, Envoy):
        raise LensError(
            f"the model is a {type(model).__name__}; recipes take what load() returns: "
            "model = lens_recipes.load(...)"
        )
    chosen = _default_remotes.get(model, False) if remote is None else remote
    if model in _on_paper:
        return chosen
    if chosen in (False, "local") and on_meta(model):
        advice = say(
            python="Pass remote=True to run it on a server, or load it with its weights: "
            "load(source)",
            shell="Give --remote to run it on a server",
        )
        if not getattr(model, "dispatched", True):
            advice += ". model.dispatch() loads them into this one"
        raise LensError(
            "this model has no weights here (it is on the meta device) and would have to be "
            f"downloaded to run locally. {advice}."
        )
    if chosen == "local" and not isinstance(model, Remotable):
        raise LensError(
            "a model without a tokenizer cannot be sent anywhere, so there is no rehearsal of it: "
            "load it with load(..., tokenizer=...)."
        )
    if chosen and chosen != "local" and not has_hub_id(model):
        raise LensError(
            "a server finds a model by its hub id, and this one has none: "
            + say(python="load it with load(hub_id, remote=True).", shell="give it as --model.")
        )
    return chosen


def has_hub_id(model: Envoy) -> bool:
    """Return whether a server can find a model by its name: it is no local folder."""
    if not isinstance(model, Remotable):
        return False
    repository = getattr(model, "repo_id", None)
    if repository is None:
        return False
    return repository in _ID_CACHE or not Path(repository).is_dir()


def refuse_training(model: Envoy, where: bool | str) -> None:
    """Raise LensError if a run in this process would differ each time."""
    if model._module.training and not where:
        raise LensError(
            "the model is in training mode, where dropout makes every run different: "
            "call model.eval()."
        )


def refuse_inside_trace(model: Envoy) -> None:
    """Raise LensError within the body of a trace of this model, where it is already running."""
    if model.interleaver.interleaving:
        raise LensError(
            "this model is in the middle of a trace (`with model.trace(…)`), and a recipe opens "
            "one of its own: leave the trace, and run the recipe before or after it."
        )


def on_meta(model: Envoy) -> bool:
    """Return whether the weights are not loaded: a skeleton on torch's meta device."""
    return not getattr(model, "dispatched", True) or lacks_weights(model._module)


# Guards each model against two runs at once.
_locks: weakref.WeakKeyDictionary[torch.nn.Module, threading.RLock] = weakref.WeakKeyDictionary()


def exclusive(model: Envoy) -> AbstractContextManager[Any]:
    """Return the lock of a model, which one run at a time holds: two threads must not trace it.

    The lock itself knows who holds it. Nothing else is kept that Ctrl-C could leave behind, and
    entering and leaving a lock are no Python code that it could come in between.

    Raises:
        LensError: this thread is in the middle of a run of this model already (a recipe called by
            `on_step`).
    """
    lock = _locks.setdefault(model._module, threading.RLock())
    # As `threading.Condition` asks it; there is no public way.
    if lock._is_owned():  # type: ignore[attr-defined]
        raise LensError(
            "this model is in the middle of a run, and another cannot begin before that has "
            "ended: on_step may look at what it is given, or use another model. Collect the "
            "parts, and run the recipe afterwards."
        )
    return lock


# -- what it is --------------------------------------------------------


def tokenizer_of(model: Envoy) -> Any | None:
    """Return the model's tokenizer, or None where prompts are token ids."""
    return getattr(model, "tokenizer", None)


def text_config(model: Envoy) -> Any:
    """Return the config of the text decoder, also inside a multimodal checkpoint."""
    config = getattr(model._module, "config", None)
    if config is None:
        return None
    return config.get_text_config(decoder=True)


def configs_of(module: torch.nn.Module) -> list[Any]:
    """Return every config in a model, each once."""
    configs: dict[int, Any] = {}
    for child in module.modules():
        config = getattr(child, "config", None)
        if config is not None:
            configs[id(config)] = config
    return list(configs.values())


class AttentionConfig(NamedTuple):
    """A config that chooses an implementation of attention, and which one."""

    config: Any
    implementation: str


def attention_configs(module: torch.nn.Module) -> list[AttentionConfig]:
    """Return every config in a model that chooses an implementation of attention."""
    choices = []
    for config in configs_of(module):
        implementation = getattr(config, "_attn_implementation", None)
        if implementation is not None:
            choices.append(AttentionConfig(config, implementation))
    return choices


def dtype_of(model: Envoy) -> torch.dtype:
    """Return the dtype of the first weights that are not quantised to whole numbers."""
    for parameter in model._module.parameters():
        if parameter.dtype.is_floating_point:
            return parameter.dtype
    return torch.float32


def running_dtype(model: Envoy) -> torch.dtype:
    """Return the dtype in which the model computes here: its weights', or autocast's if coarser."""
    weights = dtype_of(model)
    first = next(model._module.parameters(), None)
    cast = None if first is None else autocast_dtype(first.device)
    if cast is None or torch.finfo(cast).eps <= torch.finfo(weights).eps:
        return weights
    return cast


def context_length(model: Envoy) -> int | None:
    """Return how many tokens the config says that a model is made for.

    None for a model that reads on (state space, ALiBi), or whose rotations grow with the text
    (dynamic rope). `Anatomy.n_positions` is what it can hold.
    """
    config = text_config(model)
    length = configured_positions(config)
    rope = getattr(config, "rope_parameters", None)
    if length is None or not isinstance(rope, dict):
        return length
    if rope.get("rope_type") == "dynamic":
        return None
    factor = rope.get("factor")
    original = rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float):
        return length
    return max(length, int(factor * (original or length)))


def configured_positions(config: Any) -> int | None:
    """Return the number of positions in a config; None where it has none."""
    # Not `context_length`: a recurrent model reads on beyond it.
    for setting in ("max_position_embeddings", "max_seq_len"):
        length = getattr(config, setting, None)
        if length is not None:
            return length
    return None


def envoy_path(path: str) -> str:
    """Return where nnsight keeps a submodule.

    One that is named like a value that every module serves (`output`) has moved.
    """
    names = []
    for attribute in path.split("."):
        is_served = inspect.isdatadescriptor(getattr(Envoy, attribute, None))
        names.append(f"{Envoy.OVERLOAD_PREFIX}{attribute}" if is_served else attribute)
    return ".".join(names)
