"""Where a result comes from: which model, which versions, which arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.handle import running_dtype
from lens_recipes.models.weights.origin import model_name, model_revision, versions

SLICED_ARGUMENTS = ("layers", "positions", "heads")  # where "2:5" in JSON is a slice
POSITION_WORDS = ("image", "text")  # positions that are named by a word


def provenance(
    model: Envoy,
    recipe: str,
    arguments: dict[str, Any],
    vocab_size: int,
    remote: bool | str,
    seconds: float,
) -> dict[str, Any]:
    """Return a record that JSON can hold.

    A local checkpoint is named by its folder alone: a result tells nothing of the machine.
    """
    return {
        "model": model_name(model),
        "revision": model_revision(model),
        "architecture": type(model._module).__name__,
        "dtype": str(running_dtype(model)).removeprefix("torch."),
        "vocab_size": vocab_size,
        "recipe": recipe,
        "arguments": {key: to_json(value) for key, value in arguments.items()},
        "remote": bool(remote),
        "versions": versions(),
        "seconds": round(seconds, 3),
    }


def to_json(value: Any) -> Any:
    """Return an argument as JSON can hold it; a slice becomes text such as "2:5"."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, slice):
        return slice_text(value)
    if isinstance(value, dict):
        return dict_to_json(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value


def slice_text(value: slice) -> str:
    """Return a slice as it is written between brackets."""
    bounds = [value.start, value.stop]
    if value.step is not None:
        bounds.append(value.step)
    return ":".join("" if bound is None else str(bound) for bound in bounds)


def dict_to_json(value: dict[Any, Any]) -> dict[str, Any] | list[list[Any]]:
    """Return a dict as one, or as pairs where its keys are no text.

    A `sequence_bias` has such keys; `generate()` takes it as pairs, too.
    """
    if all(isinstance(key, str) for key in value):
        return {key: to_json(item) for key, item in value.items()}
    return [[to_json(key), to_json(item)] for key, item in value.items()]


def restore_arguments(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's arguments as it takes them, with slices, from what `to_json` made of them.

    Raises:
        TypeError, ValueError: they are not what `to_json` makes.
    """
    arguments = dict(stored)
    for argument in SLICED_ARGUMENTS:
        if argument in arguments:
            arguments[argument] = _restore_slices(arguments[argument])
    return arguments


def _restore_slices(value: Any) -> Any:
    """Return an argument in which each string is a slice again, in lists too."""
    if isinstance(value, list):
        return [_restore_slices(item) for item in value]
    if isinstance(value, str) and value not in POSITION_WORDS:
        bounds = [int(bound) if bound else None for bound in value.split(":")]
        return slice(*bounds)
    return value
