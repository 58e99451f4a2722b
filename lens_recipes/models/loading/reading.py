"""The only calls of transformers that read a checkpoint, and who decides about the code in it.

A config, a tokenizer or a processor may name Python files of its checkpoint in an `auto_map`. A
caller who has not said what to do with them is asked by transformers on stdin, and whatever stands
there is taken for the answer. Nobody is asked here: the code runs where the user said
`trust_remote_code=True`, and is refused everywhere else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from nnsight.modeling.transformers import TransformersModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

from lens_recipes.caller import say
from lens_recipes.errors import LensError

# Arguments that say where a checkpoint's files are, and which of them.
PLACE_ARGUMENTS = ("cache_dir", "revision", "subfolder", "token")

CONFIG_FILE = "config.json"

TOKENIZER_FILE = "tokenizer_config.json"

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def trusts_code(arguments: Mapping[str, Any]) -> bool:
    """Return whether the user said that a checkpoint's own code may run.

    Raises:
        ValueError: `trust_remote_code` is neither True nor False ("false" would pass for true).
    """
    said = arguments.get("trust_remote_code")
    if said not in (None, True, False):
        raise ValueError(f"trust_remote_code={said!r} must be True or False.")
    return bool(said)


def read_config(source: str, arguments: Mapping[str, Any]) -> Any:
    """Return a checkpoint's config.

    Raises:
        LensError: it needs code of the checkpoint, and the user did not say that it may run. So do
            the other functions here.
    """
    with _refused_code(source, [CONFIG_FILE], arguments):
        return transformers.AutoConfig.from_pretrained(source, **_decided(arguments))


def read_tokenizer(source: str, arguments: Mapping[str, Any]) -> Any:
    """Return a checkpoint's tokenizer."""
    with _refused_code(source, [TOKENIZER_FILE, CONFIG_FILE], arguments):
        return transformers.AutoTokenizer.from_pretrained(source, **_decided(arguments))


def read_processor(auto_class: Any, source: str, arguments: Mapping[str, Any]) -> Any:
    """Return a checkpoint's processor, or its image processor."""
    with _refused_code(source, [*PROCESSOR_FILES, TOKENIZER_FILE, CONFIG_FILE], arguments):
        return auto_class.from_pretrained(source, **_decided(arguments))


def read_generation_config(source: str, revision: str) -> Any:
    """Return what a checkpoint says about generation. It names no code."""
    return transformers.GenerationConfig.from_pretrained(source, revision=revision)


def read_module(auto_class: Any, source: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Return a checkpoint's model as a module, with its weights."""
    with _refused_code(source, [CONFIG_FILE], arguments):
        return auto_class.from_pretrained(source, **_decided(arguments))


def read_traceable(source: str, arguments: Mapping[str, Any]) -> TransformersModel:
    """Return a checkpoint's model as nnsight reads it."""
    files = [CONFIG_FILE, *PROCESSOR_FILES, TOKENIZER_FILE]
    with _refused_code(source, files, arguments):
        return TransformersModel(source, **_decided(arguments))


def build_module(
    auto_class: Any, source: str, config: Any, arguments: Mapping[str, Any]
) -> torch.nn.Module:
    """Return a model without weights, on the meta device."""
    with _refused_code(source, [CONFIG_FILE], arguments), torch.device("meta"):
        return auto_class.from_config(config, trust_remote_code=trusts_code(arguments))


def refuse_code_of_tokenizer(source: str, arguments: Mapping[str, Any]) -> None:
    """Raise LensError where a checkpoint's tokenizer needs code that may not run.

    For one who will have another program read the tokenizer: transformers would ask there.
    """
    place = {name: arguments[name] for name in PLACE_ARGUMENTS if name in arguments}
    if "auto_map" not in get_tokenizer_config(source, **place):
        return
    with contextlib.suppress(OSError, ValueError, KeyError):  # one that nobody can read
        read_tokenizer(source, arguments)


def read_settings(path: str) -> Any:
    """Return what a JSON file of a checkpoint holds.

    Raises:
        LensError: it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise LensError(f"{path!r} is no JSON: {error}") from error


def _decided(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for transformers that leave nothing to be asked."""
    return {**arguments, "trust_remote_code": trusts_code(arguments)}


@contextlib.contextmanager
def _refused_code(
    source: str, files: Sequence[str], arguments: Mapping[str, Any]
) -> Iterator[None]:
    """Say of code that was refused which of a checkpoint's files asks for it."""
    trusted = trusts_code(arguments)
    try:
        yield
    except Exception as error:  # nnsight raises its own, with what transformers said in it
        if trusted or "trust_remote_code=True" not in str(error):
            raise
        place = {name: arguments[name] for name in PLACE_ARGUMENTS if name in arguments}
        name, classes = _asking_file(source, files, place)
        raise LensError(
            f"{f'{source}/{name}'!r} asks for Python code that comes with the checkpoint"
            f"{classes}, and such code is not run unasked. If you trust it, "
            + say(
                python=f"pass trust_remote_code=True: load({source!r}, trust_remote_code=True).",
                shell=f"use Python: load({source!r}, trust_remote_code=True). No option runs it.",
            )
        ) from error


def _asking_file(source: str, files: Sequence[str], place: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first file with an `auto_map`, and the classes that it names, as an aside."""
    for name in files:
        try:
            path = cached_file(source, name, local_files_only=True, **place)
            settings = json.loads(Path(path or "").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it has no such file, or none that is JSON
        named = settings.get("auto_map") if isinstance(settings, dict) else None
        if named:
            return name, f" ({json.dumps(named)[:200]})"
    return files[0], ""
