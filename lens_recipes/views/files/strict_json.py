"""Numbers in strict JSON, which has no NaN and no infinities."""

from __future__ import annotations

import math
from typing import Any

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
