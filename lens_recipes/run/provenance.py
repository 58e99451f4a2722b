"""Where a result comes from: which model, which versions, which arguments."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.handle import dtype_of


def provenance(
    model: Envoy,
    recipe: str,
    arguments: dict[str, Any],
    vocab_size: int,
    remote: bool | str,
    seconds: float,
) -> dict[str, Any]:
    """A JSON-ready record. A local checkpoint is named by its folder alone: a result tells nothing of the machine."""
    config = getattr(model._module, "config", None)
    name = (
        getattr(model, "repo_id", None)
        or getattr(config, "_name_or_path", "")
        or type(model._module).__name__
    )
    return {
        "model": shown_name(name),
        "revision": getattr(model, "revision", None) or getattr(config, "_commit_hash", None),
        "architecture": type(model._module).__name__,
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "vocab_size": vocab_size,
        "recipe": recipe,
        "arguments": {key: to_json(value) for key, value in arguments.items()},
        "remote": bool(remote),
        "versions": versions(),
        "seconds": round(seconds, 3),
    }


def shown_name(name: str) -> str:
    """A hub id, or the folder alone of a local checkpoint."""
    return Path(name).name if os.sep in name and Path(name).exists() else name


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    packages = ("lens-recipes", "nnsight", "torch", "transformers")
    return {package: importlib.metadata.version(package) for package in packages}


def to_json(value: Any) -> Any:
    """An argument as JSON can hold it."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, slice):
        bounds = [value.start, value.stop] + ([] if value.step is None else [value.step])
        return ":".join("" if bound is None else str(bound) for bound in bounds)
    if isinstance(value, dict):
        if not all(
            isinstance(key, str) for key in value
        ):  # a `sequence_bias`, which generate() takes as pairs, too
            return [[to_json(key), to_json(item)] for key, item in value.items()]
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value
