"""A table as JSON: a list with an object for each row, under the names of the columns of "tsv"."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.views.tables.programs.columns import columns
from lens_recipes.views.tables.selection import Selection


@np.errstate(over="ignore")  # a probability that overflows is null
def json_table(result: LensArrays | AttributionArrays, selection: Selection) -> str:
    """Return a table as JSON, a row on each line.

    Texts are as they are, also spaces and line breaks; what is no number, or not known, is null.
    """
    header, rows = columns(result, selection)
    lines = []
    for row in rows:
        values = [_json_value(value) for value in row]
        record = dict(zip(header, values, strict=True))
        lines.append(json.dumps(record, ensure_ascii=True, allow_nan=False))
    return "[" + ",\n".join(lines) + "]"


def _json_value(value: Any) -> Any:
    """Return a field as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return str(value)
    return value
