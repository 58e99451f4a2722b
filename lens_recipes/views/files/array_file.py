"""A file of fields and arrays: versioned `.json` or `.npz`, exact both ways, and never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes
from lens_recipes.errors import LensError
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.files.content import check_shape
from lens_recipes.views.files.plain_file import ArrayArchive, open_plain_file, read_text
from lens_recipes.views.files.schema.checks import Sizes
from lens_recipes.views.files.schema.numbers import array_of_lists
from lens_recipes.views.files.strict_json import check_depth, parse_object, to_json

SUFFIXES = (".json", ".npz")

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


class ArrayFormat(NamedTuple):
    """One kind of such files.

    Attributes:
        name, version: What a file says first.
        description: What sentences call it, such as "a patch map".
        axes: Its arrays, and the axes of each.
        lengths: From the fields of a file to the lengths of the axes whose entries they name. It
            raises ValueError where they are damaged.
        plain: Arrays of truth values or whole numbers, which JSON holds as they are.
    """

    name: str
    version: int
    description: str
    axes: Axes
    lengths: Callable[[Fields], Sizes]
    plain: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """Return the description without its article."""
        return self.description.partition(" ")[2]


def write_array_file(
    path: str | os.PathLike[str], kind: ArrayFormat, fields: Fields, arrays: Arrays
) -> None:
    """Write a file: complete or not at all.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    with atomic_file(path) as scratch:
        if path.suffix == ".json":
            text = array_json(kind, fields, arrays)
            scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            metadata = np.array(json.dumps(with_format(kind, fields), allow_nan=False))
            stored: dict[str, Any] = {"meta": metadata, **arrays}
            with scratch.open("wb") as file:
                np.savez_compressed(file, **stored)


def array_json(kind: ArrayFormat, fields: Fields, arrays: Arrays) -> str:
    """Return fields and arrays as strict JSON: NaN is null, an infinity is a text."""
    lists = {name: to_json(array.tolist()) for name, array in arrays.items()}
    content = with_format(kind, fields) | {"arrays": lists}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def with_format(kind: ArrayFormat, fields: Fields) -> Fields:
    """Return the fields of a file, what it is first."""
    return {"format": kind.name, "version": kind.version} | fields


def read_array_file(path: str | os.PathLike[str], kind: ArrayFormat) -> tuple[Fields, Arrays]:
    """Return fields and arrays of a file, unchecked but for the shapes of its arrays.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    path = Path(path)
    check_suffix(path)
    with damage_in_words(path, kind):
        return _read_npz(path, kind) if path.suffix == ".npz" else _read_json(path, kind)


@contextmanager
def damage_in_words(path: Path, kind: ArrayFormat) -> Iterator[None]:
    """Have whatever is wrong with a file told as a LensError."""
    try:
        yield
    except LensError:
        raise
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except MemoryError:
        raise LensError(f"{str(path)!r} is too large for the memory of this machine.") from None
    except Exception as error:  # of zip, JSON, unicode: the file is broken, whatever broke it
        raise LensError(
            f"{str(path)!r} is no {kind.noun}, or damaged: {type(error).__name__}: {error}"
        ) from error


def _read_npz(path: Path, kind: ArrayFormat) -> tuple[Fields, Arrays]:
    """Return fields and arrays of an .npz file."""
    with open_plain_file(path) as file:
        archive = ArrayArchive(file)
        fields = parse_object(archive.text("meta"))
        check_depth(fields)
        _check_format(path, kind, fields)
        lengths = kind.lengths(fields)
        arrays = {}
        for name, axes in kind.axes.items():
            arrays[name] = archive.numbers(name, partial(check_shape, name, axes, lengths))
    return fields, arrays


def _read_json(path: Path, kind: ArrayFormat) -> tuple[Fields, Arrays]:
    """Return fields and arrays of a .json file."""
    fields = parse_object(read_text(path))
    stored = fields.pop("arrays", {})
    check_depth(fields)
    _check_format(path, kind, fields)
    lengths = kind.lengths(fields)
    arrays = {}
    for name, axes in kind.axes.items():
        is_plain = name in kind.plain
        array = np.array(stored[name]) if is_plain else array_of_lists(name, stored[name])
        if array.size == 0:  # nested lists lose an empty axis
            array = array.reshape([lengths.get(axis, 0) for axis in axes])
        check_shape(name, axes, lengths, array.shape)
        arrays[name] = array
    return fields, arrays


def _check_format(path: Path, kind: ArrayFormat, fields: Fields) -> None:
    """Raise LensError unless a file says that it is of this kind and version."""
    if fields.get("format") != kind.name:
        raise LensError(
            f"{str(path)!r} is not {kind.description} (its format is {fields.get('format')!r})."
        )
    if fields.get("version") != kind.version:
        raise LensError(
            f"{str(path)!r} is {kind.description} of version {fields.get('version')!r}; this "
            f"package reads {kind.version}."
        )


def check_suffix(path: Path) -> None:
    """Raise a ValueError unless a name ends in .json or .npz."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a result is a .json or .npz file; received {str(path)!r}.")
