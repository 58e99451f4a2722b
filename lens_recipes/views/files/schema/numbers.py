"""The arrays of a file: their type, and the range that their numbers can have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import TOKEN_DTYPES, Axes

TOKEN_AXES: Axes = {f"token_{column_name}": ("token",) for column_name in TOKEN_DTYPES}

# What rounding may add to a probability of 1, or take from a distance of 0, in nats.
ROUNDING = 0.1


class Range(NamedTuple):
    """What the numbers of an array can be. NaN is in every range, and says "not known"."""

    low: float = -math.inf
    high: float = math.inf


FROM_ZERO = Range(low=0)
FROM_MINUS_ONE = Range(low=-1)  # −1 says "none"
LOGPROBS = Range(high=ROUNDING)
NATS = Range(low=-ROUNDING)

RANGES = {
    "top_ids": FROM_ZERO,
    "target_ids": FROM_ZERO,
    "token_prompt": FROM_ZERO,
    "token_position": FROM_ZERO,
    "error": FROM_ZERO,
    "entropy": NATS,
    "model_entropy": NATS,
    "kl_to_final": NATS,
    "effect_kl": NATS,
    "effect_top_ids": FROM_ZERO,
    "effect_outside": FROM_ZERO,
}


def range_of(array_name: str) -> Range:
    """Return what the numbers of an array can be, by its name in the file."""
    if array_name in RANGES:
        return RANGES[array_name]
    if array_name.endswith(("_ids", "_id", "_ranks")):
        return FROM_MINUS_ONE
    if array_name.endswith(("_logprobs", "_logprob")):
        return LOGPROBS
    return Range()


def dtype_of(array_name: str) -> type[np.generic]:
    """Return the type of the numbers of an array, by its name in the file."""
    column_name = array_name.removeprefix("token_")
    if array_name.startswith("token_") and column_name in TOKEN_DTYPES:
        return TOKEN_DTYPES[column_name]
    if array_name.endswith(("_ids", "_ranks")):
        return np.int32
    return np.bool_ if array_name == "readable" else np.float32


def array_of_lists(array_name: str, stored: Any) -> NDArray[Any]:
    """Return what a list of lists holds: null is NaN, and the word for an infinity an infinity.

    Args:
        array_name: Its name in the file.
        stored: Lists within lists, all of one length, of numbers.

    Raises:
        TypeError, ValueError: it is something else, or a number is too large for float32.
    """
    if dtype_of(array_name) is not np.float32:
        return np.array(stored)  # of its own type: none is rounded before it is looked at
    with _too_large_is_told(array_name):
        return np.array(stored, dtype=np.float32)


def read_numbers(array_name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of an array in the type of its own, all of them in their range.

    Raises:
        ValueError: they are of another sort, too large for the type, or out of range.
    """
    dtype = dtype_of(array_name)
    if dtype is np.float32:
        with _too_large_is_told(array_name):
            numbers = array.astype(np.float32, copy=False)
    else:
        numbers = _read_whole_numbers(array_name, array, dtype)
    _check_range(array_name, numbers)
    return numbers


@contextmanager
def _too_large_is_told(array_name: str) -> Iterator[None]:
    """Raise a ValueError where a number is too large for float32, which would make it infinite."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError:
        raise ValueError(f"{array_name} holds numbers that are too large for float32") from None


def _read_whole_numbers(
    array_name: str, array: NDArray[Any], dtype: type[np.generic]
) -> NDArray[Any]:
    """Return whole numbers or truth values, none of which another type has rounded."""
    if array.size == 0:  # lists without entries have no type
        return array.astype(dtype)
    kinds, expected = ("iu", "whole numbers")
    if dtype is np.bool_:
        kinds, expected = ("b", "truth values")
    if array.dtype.kind not in kinds:
        raise ValueError(f"{array_name} does not hold {expected}")
    if dtype is not np.bool_:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"{array_name} holds numbers that are too large for a token or a rank")
    return array.astype(dtype, copy=False)


def _check_range(array_name: str, array: NDArray[Any]) -> None:
    """Raise a ValueError if a number is out of range."""
    low, high = range_of(array_name)
    for is_wrong, bound, words in (
        (np.less, low, "at least"),
        (np.greater, high, "at most"),
    ):
        if math.isinf(bound):
            continue
        wrong = is_wrong(array, bound)
        if wrong.any():
            raise ValueError(
                f"{array_name} holds {array[wrong][0]}, expected are numbers of {words} {bound:g}"
            )
