"""Running out of memory: a sentence that says what to ask for less of."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from lens_recipes.errors import LensError

# How torch, the system, Python and CUDA say that there is no more memory.
WORDS = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "MemoryError",
    "CUDA out of memory",
)
ASKED_FOR = (
    re.compile(r"Tried to allocate ([\d.]+ [KMGT]iB)"),  # torch on a GPU
    re.compile(r"Unable to allocate ([\d.]+ [KMGT]iB)"),  # numpy
    re.compile(r"allocate (\d+) bytes"),  # torch on the CPU
)


class OutOfMemory(LensError):
    """Memory ran out while a model was loaded, or ran."""


@contextlib.contextmanager
def memory_errors_in_words(narrow: str) -> Iterator[None]:
    """Turn an error of memory that ran out into a sentence.

    Args:
        narrow: How a user asks for less, in words that begin a sentence.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, LensError) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"memory ran out{asked_for(error)}. {narrow}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no more memory.

    It may be another library's error that holds the text of the first one.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in WORDS)


def asked_for(error: BaseException) -> str:
    """Return how much was asked for, as part of a sentence; empty where the error does not say."""
    for pattern in ASKED_FOR:
        found = pattern.search(str(error))
        if found is None:
            continue
        amount = found[1]
        if amount.isdigit():
            amount = f"{int(amount) / 2**20:,.0f} MiB"
        return f", when {amount} more were asked for"
    return ""
