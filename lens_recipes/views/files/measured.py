"""What `dose` and `confirm` measured as a file: versioned strict JSON, checked when it is read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes
from lens_recipes.arrays.edits.confirmation import CONFIRMATION_AXES, ConfirmationArrays
from lens_recipes.arrays.edits.dose import DOSE_AXES, DoseArrays
from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.errors import LensError
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.files.content import check_shape
from lens_recipes.views.files.plain_file import read_text
from lens_recipes.views.files.schema.checks import (
    Sizes,
    is_count,
    is_number,
    read_dict,
    read_list,
    read_prompts,
    read_texts,
    read_texts_of_ids,
)
from lens_recipes.views.files.schema.checks import read_text as read_text_field
from lens_recipes.views.files.strict_json import check_depth, from_json, parse_object, to_json

VERSION = 1


class MeasuredKind(NamedTuple):
    """One kind of measurement, and what its file holds.

    Attributes:
        arrays_class: The class whose fields are stored.
        name: What sentences call it.
        format: What its file says first.
        axes: Its arrays, and the axes of each.
        counted: The field whose entries each axis is counted by.
        readers: Of its fields that are read otherwise than `READERS` says.
    """

    arrays_class: type
    name: str
    format: str
    axes: Axes
    counted: dict[str, str]
    readers: dict[str, Callable[[Any, Sizes], Any]]


def kind_of(measured_class: type) -> MeasuredKind:
    """Return the kind of a class of measurements."""
    return next(kind for kind in KINDS if issubclass(measured_class, kind.arrays_class))


def save_measured(measured: Any, path: str | os.PathLike[str]) -> None:
    """Write a measurement, complete or not at all.

    Raises:
        ValueError: a name that does not end in .json.
        LensError: the file cannot be written.
    """
    path = Path(path)
    kind = kind_of(type(measured))
    check_suffix(path, kind)
    content: dict[str, Any] = {"format": kind.format, "version": VERSION}
    for field in dataclasses.fields(kind.arrays_class):
        value = getattr(measured, field.name)
        if field.name in kind.axes:
            value = value.tolist()
        elif field.name == "texts":
            value = {str(token): text for token, text in value.items()}
        content[field.name] = to_json(value)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def load_measured(path: str | os.PathLike[str], measured_class: type) -> Any:
    """Read what `save_measured` wrote.

    Raises:
        ValueError: a name that does not end in .json.
        LensError: the file is missing, damaged, or something else.
    """
    path = Path(path)
    kind = kind_of(measured_class)
    check_suffix(path, kind)
    try:
        content = parse_object(read_text(path))
        check_depth(content)
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except (OSError, ValueError) as error:
        raise LensError(f"{str(path)!r} is not {kind.name}, or not whole: {error}") from error
    stored = (content.pop("format", None), content.pop("version", None))
    if stored != (kind.format, VERSION):
        raise LensError(
            f"{str(path)!r} is not {kind.name} of version {VERSION} (its format is {stored[0]!r}, "
            f"version {stored[1]!r})."
        )
    try:
        return measured_class(**read_fields(content, kind))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is {kind.name} but damaged: {type(error).__name__}: {error}"
        ) from error


def read_fields(content: dict[str, Any], kind: MeasuredKind) -> dict[str, Any]:
    """Return the checked fields of a measurement.

    Raises:
        KeyError, TypeError, ValueError: they are not what one can hold.
    """
    known = [field.name for field in dataclasses.fields(kind.arrays_class)]
    unknown = content.keys() - set(known)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are unknown")
    sizes: Sizes = {}
    for axis, counted in kind.counted.items():
        sizes[axis] = len(read_list(content[counted], sizes))
    fields: dict[str, Any] = {}
    for name in known:
        if name in kind.axes:
            fields[name] = read_array(name, content[name], kind.axes[name], sizes)
    for name in known:
        if name in kind.axes:
            continue
        read = kind.readers.get(name, READERS.get(name))
        assert read is not None  # each field has one
        try:
            fields[name] = read(content[name], sizes)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return fields


def read_array(name: str, stored: Any, axes: tuple[str, ...], sizes: Sizes) -> NDArray[np.float64]:
    """Return an array of numbers; null is NaN."""
    array = np.array(from_json(stored), dtype=np.float64)
    shape = [sizes.get(axis, 0) for axis in axes]
    if array.size == 0 and 0 in shape:  # nested lists lose what is behind an empty axis
        array = array.reshape(shape)
    check_shape(name, axes, sizes, array.shape)
    return array


def read_scales(stored: Any, sizes: Sizes) -> list[float]:
    """Return scales: one or more finite numbers."""
    scales = read_list(stored, sizes)
    if not scales or not all(is_number(scale) and math.isfinite(scale) for scale in scales):
        raise ValueError(f"{stored!r:.80} is no list of finite numbers")
    return scales


def read_dose_unit(stored: Any, sizes: Sizes) -> str:
    """Return what a scale of a dose is."""
    if stored not in ("scale", "share"):
        raise ValueError(f"{stored!r:.80} is neither 'scale' nor 'share'")
    return str(stored)


def read_n_sites(stored: Any, sizes: Sizes) -> int | None:
    """Return from how many sites random ones were drawn, or None."""
    if stored is not None and not is_count(stored):
        raise ValueError(f"{stored!r:.80} is no number of sites")
    return stored


def read_ids_of_prompts(stored: Any, sizes: Sizes) -> list[list[int]]:
    """Return the ids of the targets, `[prompt][target]`."""
    rows = read_list(stored, sizes)
    for row in rows:
        if len(read_list(row, sizes)) != sizes["target"] or not all(map(is_count, row)):
            raise ValueError(f"{row!r:.80} is no list of {sizes['target']} ids")
    if len(rows) != sizes["prompt"]:
        raise ValueError(f"there are {len(rows)} lists for {sizes['prompt']} prompts")
    return rows


def read_controls_of_parts(stored: Any, sizes: Sizes) -> list[list[str]]:
    """Return the names of the controls, `[part][control]`."""
    rows = [read_texts(row, sizes) for row in read_list(stored, sizes)]
    if len(rows) != sizes["part"]:
        raise ValueError(f"there are {len(rows)} lists for {sizes['part']} parts")
    return rows


def read_edit(stored: Any, sizes: Sizes) -> dict[str, Any]:
    """Return the fields of an edit."""
    str(edit_from_json(stored))
    return read_dict(stored, sizes)


READERS: dict[str, Callable[[Any, Sizes], Any]] = {
    "scales": read_scales,
    "unit": read_dose_unit,
    "n_sites": read_n_sites,
    "target_ids": read_ids_of_prompts,
    "texts": read_texts_of_ids,
    "edit_fields": read_edit,
    "prompts": read_prompts,
    "parts": read_prompts,
    "methods": read_prompts,
    "left_out": read_texts,
    "controls": read_texts,
    "target": read_text_field,
    "where": read_text_field,
    "missing": read_text_field,
    "provenance": read_dict,
}


def check_suffix(path: Path, kind: MeasuredKind) -> None:
    """Raise a ValueError unless a name ends in .json."""
    if path.suffix != ".json":
        raise ValueError(f"{kind.name} is a .json file; received {str(path)!r}.")


KINDS = (
    MeasuredKind(
        DoseArrays,
        "a dose",
        "lens-recipes/dose",
        DOSE_AXES,
        {"scale": "scales", "prompt": "prompts", "control": "controls"},
        {},
    ),
    MeasuredKind(
        ConfirmationArrays,
        "a confirmation",
        "lens-recipes/confirmation",
        CONFIRMATION_AXES,
        {"part": "parts", "prompt": "prompts", "method": "methods"},
        {"controls": read_controls_of_parts},
    ),
)
