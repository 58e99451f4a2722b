"""Adapters (LoRA and its kin): a folder with the changes to a model that lies elsewhere."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

from transformers.utils import find_adapter_config_file

from lens_recipes.errors import LensError
from lens_recipes.models.loading.reading import read_settings

# What is the adapter's in what it is loaded with, and not its model's.
OF_THE_ADAPTER = ("revision", "code_revision", "subfolder", "gguf_file")

# Adapters that put vectors before the prompt, where nobody could say which token they are.
VIRTUAL_TOKENS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")


class Adapter(NamedTuple):
    """An adapter, and the model that it changes.

    Attributes:
        source: Its folder or hub id.
        base: The folder or hub id of the model.
        base_revision: Which of its revisions; None for the newest.
    """

    source: str
    base: str
    base_revision: str | None

    def base_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return what the model is loaded with, of what the adapter was to be loaded with."""
        chosen = {name: arguments[name] for name in arguments if name not in OF_THE_ADAPTER}
        if self.base_revision is not None:
            chosen["revision"] = self.base_revision
        return chosen


def find_adapter(source: str, shared: dict[str, Any]) -> Adapter | None:
    """Return the adapter that a folder or hub id holds, or None where it holds none.

    Raises:
        LensError: it cannot be attached to a model.
    """
    arguments = {}
    for name in ("cache_dir", "force_download", "local_files_only", "revision", "token"):
        if name in shared:
            arguments[name] = shared[name]
    try:
        path = find_adapter_config_file(source, **arguments)
    except OSError:  # no hub
        return None
    if path is None:
        return None
    settings = read_settings(path)
    kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    if kind in VIRTUAL_TOKENS:
        raise LensError(
            f"{source!r} is an adapter of the kind {kind}, which puts vectors before the prompt "
            "that are no tokens: a lens has no word for them. Load its model alone, "
            f"load({base!r})."
        )
    if not base:
        raise LensError(
            f"{source!r} is an adapter that does not name its model: load the model, put the "
            "adapter on it with peft, and pass that to load()."
        )
    if importlib.util.find_spec("peft") is None:
        raise LensError(
            f"{source!r} is an adapter, and what attaches it is not installed: pip install peft."
        )
    given = [name for name in OF_THE_ADAPTER if shared.get(name) is not None]
    if given:
        raise LensError(
            f"{source!r} is an adapter, and {', '.join(given)} cannot be chosen for one: download "
            "it, and pass its folder."
        )
    return Adapter(source, base, settings.get("revision"))
