"""Which checkpoint a model's weights are of, and which packages run it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path

from nnsight.intervention.envoy import Envoy

PACKAGES = ("lens-recipes", "nnsight", "torch", "transformers")  # that numbers depend on


def model_name(model: Envoy) -> str:
    """Return a model's hub id; of a local checkpoint the folder alone; of others the class.

    So what is saved tells nothing of the machine.
    """
    module = model._module
    config = getattr(module, "config", None)
    name = getattr(model, "repo_id", None) or getattr(config, "_name_or_path", "")
    return shown_name(name or type(module).__name__)


def model_revision(model: Envoy) -> str | None:
    """Return the revision of the weights that was asked for, else the commit that was loaded."""
    config = getattr(model._module, "config", None)
    return getattr(model, "revision", None) or getattr(config, "_commit_hash", None)


def shown_name(name: str) -> str:
    """Return a hub id as it is, and of a local checkpoint the folder alone."""
    is_folder = os.sep in name and Path(name).exists()
    return Path(name).name if is_folder else name


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    return {package: _version(package) for package in PACKAGES}


@functools.cache
def _version(package: str) -> str:
    """Return the version of a package, looked up once: that reads its files."""
    return importlib.metadata.version(package)
