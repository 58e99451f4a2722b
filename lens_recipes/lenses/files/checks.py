"""What every reader of a lens checks: numbers, layers, counts and texts that others wrote.

Each check returns the value, or raises a ValueError whose text ends a sentence about the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lens_recipes.arrays.used_lens import EMBEDDING, LENS_NAMES
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files import check_depth, parse_object

KINDS = tuple(kind for kind in LENS_NAMES if kind != "logit")  # the logit lens has no transports
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


def is_finite(transport: Affine) -> bool:
    """Return whether every number of a transport is finite."""
    weight, bias, _ = transport
    if bias is not None and not bool(torch.isfinite(bias).all()):
        return False
    return bool(torch.isfinite(weight).all())


def check_made_up(kind: Any, transports: Any) -> None:
    """Raise a ValueError unless these are the kind and the transports of a lens.

    Files are checked as they are read; a lens may also be made up in Python.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind is {shown(kind)}; lenses are {', '.join(KINDS)}.")
    if not isinstance(transports, Mapping) or not transports:
        raise ValueError(
            f"transports is {shown(transports)}; a lens has a mapping with an Affine for each "
            "layer, and at least one."
        )
    for layer, transport in transports.items():
        if type(layer) is not int:
            raise ValueError(f"a transport is for the layer {shown(layer)}: name it by an int.")
        read_layer(layer)
        _check_affine(layer, transport)


def _check_affine(layer: int, transport: Any) -> None:
    """Raise a ValueError unless this is an affine map of vectors."""
    if not isinstance(transport, Affine):
        raise ValueError(
            f"the transport of layer {layer} is {shown(transport)}, expected is an Affine."
        )
    weight, bias, _ = transport
    if not _is_matrix(weight, 2):
        raise ValueError(
            f"the weight of layer {layer} is {_shape_in_words(weight)}, expected is a dense "
            "matrix of floating numbers, [d_out, d_in]."
        )
    if bias is None:
        return
    if not _is_matrix(bias, 1) or bias.shape[0] != weight.shape[0]:
        raise ValueError(
            f"the bias of layer {layer} is {_shape_in_words(bias)}, expected are "
            f"{weight.shape[0]} floating numbers."
        )


def _is_matrix(numbers: Any, n_axes: int) -> bool:
    """Return whether something is a dense tensor of floats, here, with so many axes."""
    if not isinstance(numbers, Tensor) or numbers.ndim != n_axes:
        return False
    is_here = numbers.layout == torch.strided and not numbers.is_meta
    return is_here and numbers.dtype in FLOATS


def _shape_in_words(numbers: Any) -> str:
    """Return what something is: of a tensor its shape and dtype."""
    if not isinstance(numbers, Tensor):
        return shown(numbers)
    layout = "" if numbers.layout == torch.strided else f" ({numbers.layout})"
    where = " on the device meta" if numbers.is_meta else ""
    return f"a tensor {list(numbers.shape)} of {numbers.dtype}{layout}{where}"


def is_identity(transport: Affine) -> bool:
    """Return whether a transport leaves every vector exactly as it is."""
    weight, bias, is_residual = transport
    if bias is not None and bool(bias.any()):
        return False
    if weight.shape[0] != weight.shape[1] or bool(weight.diagonal().ne(not is_residual).any()):
        return False
    return int(weight.count_nonzero()) == (0 if is_residual else weight.shape[0])
