"""What every reader of a lens checks: numbers, layers, counts and texts that others wrote.

Each check returns the value, or raises a ValueError whose text ends a sentence about the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files import check_depth, parse_object

MAX_LAYERS = 10_000  # far more blocks than a model has
MAX_WIDTH = 2**20  # far wider than a stream is
MAX_COUNT = 2**62
MAX_TEXT = 1000  # characters of a name, or of words about a text
MAX_SETTINGS = 200

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shown(value: Any) -> str:
    """Return a value of others for a sentence: cut, and of lists and objects the type alone."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if type(value) is int and abs(value) < MAX_COUNT:
        return repr(value)
    return f"of the type {type(value).__name__}"


# -- single values -----------------------------------------------------


def read_text(stored: Any, name: str) -> str | None:
    """Return a text that may be missing."""
    if stored is None:
        return None
    if not isinstance(stored, str) or len(stored) > MAX_TEXT:
        raise ValueError(f"{name} is {shown(stored)}, which is no text of at most {MAX_TEXT}")
    return stored


def read_count(stored: Any, name: str, most: int = MAX_COUNT) -> int | None:
    """Return a whole number from 0 that may be missing."""
    if stored is None:
        return None
    if type(stored) is not int or not 0 <= stored <= most:
        raise ValueError(f"{name} is {shown(stored)}, expected is a whole number from 0 to {most}")
    return stored


def read_flag(stored: Any, name: str) -> bool | None:
    """Return true or false, or None where it is missing."""
    if stored is None or isinstance(stored, bool):
        return stored
    raise ValueError(f"{name} is {shown(stored)}, expected is true or false")


def read_layer(stored: Any) -> int:
    """Return the number of a stream that may have a transport, also where it is written as text."""
    number = stored
    if isinstance(stored, str) and len(stored) < 8 and stored.removeprefix("-").isdecimal():
        number = int(stored)
    if type(number) is not int or not EMBEDDING <= number < MAX_LAYERS:
        raise ValueError(
            f"it has a transport for the layer {shown(stored)}, expected is a whole number from "
            f"{EMBEDDING} to {MAX_LAYERS - 1}"
        )
    return number


def plain_settings(stored: Any) -> dict[str, Any]:
    """Return the single values of what another tool noted; lists and objects are left out."""
    settings: dict[str, Any] = {}
    if not isinstance(stored, dict):
        return settings
    for name, value in stored.items():
        is_short = isinstance(value, str) and len(value) <= MAX_TEXT
        is_plain = value is None or isinstance(value, bool | float) or is_short
        is_plain = is_plain or (type(value) is int and abs(value) <= MAX_COUNT)
        if isinstance(name, str) and len(name) <= MAX_TEXT and is_plain:
            settings[name] = value
        if len(settings) == MAX_SETTINGS:
            break
    return settings


def read_json(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object that others wrote."""
    try:
        parsed = parse_object(text)
        check_depth(parsed)
    except ValueError as error:
        raise ValueError(f"{what} is no JSON object ({error})") from None
    return parsed


def check_json(value: Any, name: str) -> None:
    """Raise a ValueError if something cannot be written as strict JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of the lens cannot be written as JSON: {error}") from None


def check_fits(n_bytes: int) -> None:
    """Raise a ValueError if numbers are more than this machine has memory for."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return
    if 0 < memory < n_bytes:
        raise ValueError(
            f"its numbers are {n_bytes / 2**30:,.1f} GiB, and this machine has "
            f"{memory / 2**30:,.1f} GiB of memory"
        )


# -- transports --------------------------------------------------------


def check_width(d_model: Any) -> int:
    """Return how wide the vectors are."""
    if type(d_model) is not int or not 1 <= d_model <= MAX_WIDTH:
        raise ValueError(f"its width is {shown(d_model)}, as no model's is")
    return d_model


def check_numbers(numbers: Tensor, name: str) -> Tensor:
    """Return a tensor in which every number is finite, of a floating dtype."""
    if numbers.dtype not in FLOATS:
        raise ValueError(f"{name} has the dtype {numbers.dtype}, which no lens has")
    if not bool(torch.isfinite(numbers).all()):
        raise ValueError(f"{name} has numbers that are NaN or infinite")
    return numbers


def check_shape(shape: Iterable[int], expected: tuple[int, ...], name: str) -> None:
    """Raise a ValueError if a tensor has another shape."""
    if tuple(shape) != expected:
        raise ValueError(f"{name} has the shape {list(shape)}, expected is {list(expected)}")


def is_identity(transport: Affine) -> bool:
    """Return whether a transport leaves every vector exactly as it is."""
    weight, bias, is_residual = transport
    if bias is not None and bool(bias.any()):
        return False
    if weight.shape[0] != weight.shape[1] or bool(weight.diagonal().ne(not is_residual).any()):
        return False
    return int(weight.count_nonzero()) == (0 if is_residual else weight.shape[0])
