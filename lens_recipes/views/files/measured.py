"""What `dose` and `confirm` measured as a file: versioned strict JSON, checked when it is read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Axes
from lens_recipes.arrays.edits.confirmation import CONFIRMATION_AXES, ConfirmationArrays
from lens_recipes.arrays.edits.dose import DOSE_AXES, DoseArrays
from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.errors import LensError
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.files.content import check_shape
from lens_recipes.views.files.plain_file import read_text
from lens_recipes.views.files.strict_json import check_depth, parse_object, to_json

VERSION = 1


class MeasuredKind(NamedTuple):
    """One kind of measurement, and what its file holds.

    Attributes:
        arrays_class: The class whose fields are stored.
        name: What sentences call it.
        format: What its file says first.
        axes: Its arrays, and the axes of each.
        counted: The field whose entries each axis is counted by.
    """

    arrays_class: type
    name: str
    format: str
    axes: Axes
    counted: dict[str, str]


KINDS = (
    MeasuredKind(
        DoseArrays,
        "a dose",
        "lens-recipes/dose",
        DOSE_AXES,
        {"scale": "scales", "prompt": "prompts", "control": "controls"},
    ),
    MeasuredKind(
        ConfirmationArrays,
        "a confirmation",
        "lens-recipes/confirmation",
        CONFIRMATION_AXES,
        {"part": "parts", "prompt": "prompts", "method": "methods"},
    ),
)

LISTS_OF_TEXTS = ("prompts", "parts", "methods", "left_out")


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
    fields: dict[str, Any] = {}
    known = [field.name for field in dataclasses.fields(kind.arrays_class)]
    unknown = content.keys() - set(known)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are unknown")
    lengths: dict[str, int] = {}
    for axis, counted in kind.counted.items():
        if not isinstance(content[counted], list):
            raise ValueError(f"{counted} is no list")
        lengths[axis] = len(content[counted])
    for name in known:
        value = content[name]
        if name in kind.axes:
            value = np.array(value, dtype=np.float64)
            shape = [lengths.get(axis, 0) for axis in kind.axes[name]]
            if value.size == 0 and 0 in shape:  # nested lists lose what is behind an empty axis
                value = value.reshape(shape)
            check_shape(name, kind.axes[name], lengths, value.shape)
        elif name in LISTS_OF_TEXTS and not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name} is no list of texts")
        elif name == "texts":
            value = {int(token): str(text) for token, text in value.items()}
        elif name == "edit_fields":
            str(edit_from_json(value))
        fields[name] = value
    return fields


def check_suffix(path: Path, kind: MeasuredKind) -> None:
    """Raise a ValueError unless a name ends in .json."""
    if path.suffix != ".json":
        raise ValueError(f"{kind.name} is a .json file; received {str(path)!r}.")
