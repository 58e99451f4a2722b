"""Strict JSON, which has no NaN and no infinities; and JSON of others, read with care."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64  # lists and objects within each other; what this package writes has fewer than 10

TOO_DEEP = "lists or objects are nested too deeply"

SPECIAL_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Any) -> Any:
    """Return a value as strict JSON can hold it: NaN as null, infinities as texts."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


def from_json(value: Any) -> Any:
    """Return what `to_json` was given, where numbers are expected."""
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if value is None:
        return math.nan
    if isinstance(value, str):
        return SPECIAL_NUMBERS.get(value, value)
    return value


def parse_json(text: str) -> Any:
    """Return what a JSON text of unknown origin holds.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def parse_object(text: str) -> dict[str, Any]:
    """Return the object that a JSON text of unknown origin holds.

    Raises:
        ValueError: it is no JSON, something else than an object, or nested too deeply.
    """
    parsed = parse_json(text)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    return parsed


def check_depth(value: Any) -> None:
    """Raise a ValueError if lists and objects are nested too deeply to be walked through."""
    level = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        if not deeper:
            return
        level = deeper
    raise ValueError(TOO_DEEP)
