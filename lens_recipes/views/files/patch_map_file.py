"""A patch map as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lens_recipes.arrays.edits.patch_map import (
    DIRECTIONS,
    METHODS,
    UNITS,
    LeftOut,
    PatchMapArrays,
    PatchProof,
    Verified,
    is_metric,
)
from lens_recipes.views.files.array_file import (
    ArrayFormat,
    Arrays,
    Fields,
    array_json,
    damage_in_words,
    read_array_file,
    write_array_file,
)
from lens_recipes.views.files.schema.checks import (
    Sizes,
    is_count,
    is_layer,
    is_number,
    read_dict,
    read_list,
    read_texts,
)
from lens_recipes.views.files.schema.provenance import read_provenance
from lens_recipes.views.files.strict_json import from_json, to_json

FORMAT, VERSION = "lens-recipes/patch-map", 1
CELLS, PAIR = ("pair", "row", "column"), ("pair",)
AXES: dict[str, tuple[str, ...]] = {
    "values": CELLS,
    "logit_diffs": CELLS,
    "clean": PAIR,
    "corrupt": PAIR,
    "clean_diffs": PAIR,
    "corrupt_diffs": PAIR,
    "is_causal": ("row", "column"),
}
CHOICES = {"unit": UNITS, "direction": DIRECTIONS, "method": METHODS}
TEXTS_OF_PAIRS = ("clean_prompts", "corrupt_prompts", "targets", "againsts")


# -- writing -----------------------------------------------------------


def save_patch_map(result: PatchMapArrays, path: str | os.PathLike[str]) -> None:
    """Write a map: complete or not at all. See `PatchMap.save`."""
    write_array_file(path, PATCH_MAP, fields_of(result), arrays_of(result))


def patch_map_json(result: PatchMapArrays) -> str:
    """Return the whole map as strict JSON: NaN is null, an infinity is a text."""
    return array_json(PATCH_MAP, fields_of(result), arrays_of(result))


def arrays_of(result: PatchMapArrays) -> Arrays:
    """Return the arrays of a map."""
    return {name: getattr(result, name) for name in AXES}


def fields_of(result: PatchMapArrays) -> Fields:
    """Return all of a map but its arrays, as strict JSON can hold it."""
    fields: Fields = {}
    for name in (
        *CHOICES,
        "metric",
        "layers",
        "columns",
        "column_tokens",
        "pairs",
        *TEXTS_OF_PAIRS,
    ):
        fields[name] = to_json(getattr(result, name))
    fields["left_out"] = [list(item) for item in result.left_out]
    fields["proof"] = None if result.proof is None else to_json(result.proof._asdict())
    fields["verified"] = None if result.verified is None else to_json(result.verified._asdict())
    fields["provenance"] = to_json(result.provenance)
    return fields


# -- reading -----------------------------------------------------------


def load_patch_map(path: str | os.PathLike[str], map_class: type) -> Any:
    """Read a map. See `PatchMap.load`."""
    fields, arrays = read_array_file(path, PATCH_MAP)
    with damage_in_words(Path(path), PATCH_MAP):
        return rebuilt(fields, arrays, map_class)


def lengths_of(fields: dict[str, Any]) -> Sizes:
    """Return the lengths of the axes that the fields of a file name the entries of."""
    sizes: Sizes = {}
    for axis, name in (("pair", "pairs"), ("row", "layers"), ("column", "columns")):
        sizes[axis] = len(read_list(fields[name], sizes))
        if not sizes[axis]:
            raise ValueError(f"{name} is empty")
    return sizes


PATCH_MAP = ArrayFormat(FORMAT, VERSION, "a patch map", AXES, lengths_of, plain=("is_causal",))


def rebuilt(stored: Fields, arrays: Arrays, map_class: type) -> Any:
    """Return the map that a file holds.

    Raises:
        KeyError, TypeError, ValueError: the file is damaged.
    """
    sizes = lengths_of(stored)
    fields: dict[str, Any] = {}
    for name, accepted in CHOICES.items():
        if stored[name] not in accepted:
            raise ValueError(f"{name} is {stored[name]!r:.80}, which is unknown")
        fields[name] = stored[name]
    if not is_metric(stored["metric"]):
        raise ValueError(f"metric is {stored['metric']!r:.80}, which is unknown")
    fields["metric"] = stored["metric"]
    if not all(map(is_layer, stored["layers"])):
        raise ValueError("layers has an entry that is no layer")
    if not all(map(is_count, stored["pairs"])):
        raise ValueError("pairs has an entry that is no number of a pair")
    fields["layers"], fields["pairs"] = stored["layers"], stored["pairs"]
    fields["columns"] = read_texts(stored["columns"], sizes)
    for name in TEXTS_OF_PAIRS:
        fields[name] = read_texts(stored[name], sizes)
        if len(fields[name]) != sizes["pair"]:
            raise ValueError(f"{name} has {len(fields[name])} texts for {sizes['pair']} pairs")
    fields["column_tokens"] = read_column_tokens(stored["column_tokens"], sizes)
    fields["left_out"] = read_left_out(stored["left_out"], sizes)
    fields["proof"] = read_proof(stored["proof"], sizes)
    fields["verified"] = read_verified(stored["verified"], sizes)
    fields["provenance"] = read_provenance(stored["provenance"], sizes)
    for name, array in arrays.items():
        dtype = bool if name == "is_causal" else np.float32
        if name == "is_causal" and array.dtype != bool:
            raise ValueError("is_causal holds no truth values")
        fields[name] = array.astype(dtype)
    for name in ("clean", "corrupt", "clean_diffs", "corrupt_diffs"):
        if not np.isfinite(fields[name]).all():
            raise ValueError(f"{name} holds a number that is not finite")
    return map_class(**fields)


def read_column_tokens(stored: Any, sizes: Sizes) -> list[tuple[str, str]]:
    """Return clean and corrupt text of each column, or nothing at all."""
    if len(read_list(stored, sizes)) not in (0, sizes["column"]):
        raise ValueError("column_tokens has not one entry for each column")
    texts = []
    for pair in stored:
        clean, corrupt = read_texts(pair, sizes)
        texts.append((clean, corrupt))
    return texts


def read_left_out(stored: Any, sizes: Sizes) -> list[LeftOut]:
    """Return the pairs that are not in the map."""
    left_out = []
    for item in read_list(stored, sizes):
        pair, reason = read_list(item, sizes)
        if not is_count(pair) or not isinstance(reason, str):
            raise ValueError(f"left_out has the entry {item!r:.80}")
        left_out.append(LeftOut(pair, reason))
    return left_out


def read_proof(stored: Any, sizes: Sizes) -> PatchProof | None:
    """Return what the map's runs proved."""
    if stored is None:
        return None
    numbers = from_json(read_dict(stored, sizes))
    if numbers.keys() != set(PatchProof._fields) or not all(map(is_number, numbers.values())):
        raise ValueError("proof holds other entries than numbers")
    return PatchProof(**{name: float(number) for name, number in numbers.items()})


def read_verified(stored: Any, sizes: Sizes) -> Verified | None:
    """Return which cells of an approximation were run exactly."""
    if stored is None:
        return None
    entries = from_json(read_dict(stored, sizes))
    cells = []
    for cell in read_list(entries["cells"], sizes):
        row, column = cell
        if not (is_count(row) and is_count(column)):
            raise ValueError("verified has a cell that is none")
        if row >= sizes["row"] or column >= sizes["column"]:
            raise ValueError("verified has a cell that is not in the map")
        cells.append((row, column))
    numbers = {}
    for name in ("exact", "approximate"):
        numbers[name] = [float(number) for number in read_list(entries[name], sizes)]
        if len(numbers[name]) != len(cells):
            raise ValueError(f"verified has {len(numbers[name])} numbers for {len(cells)} cells")
    return Verified(cells, **numbers, correlation=float(entries["correlation"]))
