"""A checkpoint's tokenizer, with the chat template of its processor where it has none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.loading.reading import read_settings, read_tokenizer
from lens_recipes.terminal import one_line

# What a folder has that has a tokenizer.
TOKENIZER_FILES = (
    "*tokenizer*.json",
    "*.model",
    "*.model.v*",
    "*.tiktoken",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)

# The ends of the files that another package reads, and how it is had. Of a folder with a
# tokenizer.json, transformers reads that one.
READERS = {
    ".model": ("sentencepiece", "sentencepiece protobuf"),
    ".tiktoken": ("tiktoken", "tiktoken"),
    "tekken.json": ("mistral_common", "mistral-common"),
}

# The files of a processor in which a template may be; chat_template.jinja is found by a tokenizer.
TEMPLATE_FILES = ("chat_template.json", "processor_config.json")

# What is passed on to find a file; the rest is for what is made of it.
FILE_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
)


def load_tokenizer(source: str, shared: dict[str, Any]) -> Any | None:
    """Return a checkpoint's tokenizer; None for a bare folder, whose prompts are token ids.

    Raises:
        LensError: there are files of a tokenizer, and they cannot be read.
    """
    try:
        tokenizer = read_tokenizer(source, shared)
    except LensError:
        raise
    except Exception as error:  # from transformers, tokenizers, the hub, or a package to read files
        files = tokenizer_files(source, shared)
        if Path(source).is_dir() and not files:
            return None
        raise unreadable(source, files, error) from error
    if not getattr(tokenizer, "chat_template", None):
        template = processor_template(source, shared)
        if template is not None:
            tokenizer.chat_template = template
    return tokenizer


def tokenizer_files(source: str, shared: dict[str, Any]) -> list[str]:
    """Return the names of a folder's files that make a tokenizer."""
    folder = Path(source) / shared.get("subfolder", "")
    names: set[str] = set()
    for pattern in TOKENIZER_FILES:
        names.update(path.name for path in folder.glob(pattern))
    return sorted(names)


def unreadable(source: str, files: list[str], error: Exception) -> LensError:
    """Return the error about a tokenizer that cannot be read, with the package that reads it."""
    where = f" ({', '.join(files)})" if files else ""
    advice = say(
        python="Pass another one: load(..., tokenizer=...).",
        shell="Put another one into its folder.",
    )
    for end, (module, packages) in READERS.items():
        is_missing = importlib.util.find_spec(module) is None
        if is_missing and any(file.endswith(end) for file in files):
            other = f"{advice[0].lower()}{advice[1:]}"
            advice = f"What reads it is not installed: pip install {packages}. Or {other}"
    reason = one_line(str(error), 300)
    return LensError(
        f"the tokenizer of {source!r}{where} cannot be read. {advice} "
        f"The reason given is {type(error).__name__}: {reason}"
    )


def processor_template(source: str, shared: dict[str, Any]) -> Any | None:
    """Return the chat template that a checkpoint keeps with its processor, if it does.

    Raises:
        LensError: the file is no JSON.
    """
    arguments = {name: shared[name] for name in FILE_ARGUMENTS if name in shared}
    for name in TEMPLATE_FILES:
        path = cached_file(
            source,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **arguments,
        )
        if path is None:
            continue
        settings = read_settings(path)
        if settings.get("chat_template"):
            return settings["chat_template"]
    return None
