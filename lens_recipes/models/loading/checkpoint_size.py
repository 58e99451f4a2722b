"""Refuse a config that describes a far larger model than its checkpoint holds.

transformers makes room for every tensor of the config before it compares shapes: a vocabulary of
40 million where the file has 320 takes ten gigabytes, and is refused only then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_recipes.errors import LensError

# No weight is stored in less than a bit; what is more has to be made up.
MOST_PARAMETERS_PER_BYTE = 8

WEIGHT_FILES = (".safetensors", ".bin", ".gguf", ".pt", ".pth")

# What no model has, wherever its weights are: of one matrix, and of blocks.
MOST_PARAMETERS = 2**40
MOST_LAYERS = 10_000


def refuse_impossible_size(source: str, config: Any, stored_bytes: int | None = None) -> None:
    """Raise LensError if a config describes a model that nobody has, or not in these files.

    Args:
        source: The hub id or folder, for messages.
        config: Its config.
        stored_bytes: How large its files of weights are, or None where they are not here.
    """
    text_config = config.get_text_config(decoder=True)
    hidden_size = _size(text_config, "hidden_size")
    limit = MOST_PARAMETERS
    if stored_bytes is not None:
        limit = min(limit, MOST_PARAMETERS_PER_BYTE * stored_bytes)
    for name in ("vocab_size", "intermediate_size", "num_hidden_layers"):
        size = _size(text_config, name)
        has_too_many = name == "num_hidden_layers" and size > MOST_LAYERS
        if has_too_many or hidden_size * size > limit:
            raise LensError(
                f"the config of {source!r} says hidden_size={hidden_size} and {name}={size}, which "
                "is more than its files hold, or than any model has. No memory is taken for it: "
                "the config is damaged, or is not that of these weights."
            )


def bytes_of_weights(source: str) -> int | None:
    """Return how large a folder's files of weights are; None where there are none, or no folder."""
    n_bytes = 0
    if Path(source).is_dir():
        for path in Path(source).rglob("*"):
            if path.suffix in WEIGHT_FILES and path.is_file():
                n_bytes += path.stat().st_size
    return n_bytes or None


def _size(config: Any, name: str) -> int:
    """Return a size that a config gives as a whole number, or 1 where it does not."""
    value = getattr(config, name, None)
    return value if type(value) is int and value > 0 else 1
