"""A result as a file: versioned `.json` or `.npz`, exact both ways, and never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.errors import LensError
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.files.content import (
    arrays_of,
    check_shape,
    meta_of,
    promised_lengths,
    rebuild,
    stored_axes,
)
from lens_recipes.views.files.plain_file import ArrayArchive, open_plain_file, read_text
from lens_recipes.views.files.schema.kinds import KINDS, Result, kind_of
from lens_recipes.views.files.schema.numbers import array_of_lists
from lens_recipes.views.files.schema.relations import Arrays
from lens_recipes.views.files.strict_json import check_depth, parse_object, to_json

SUFFIXES = (".json", ".npz")


class Content(NamedTuple):
    """What a file holds, unchecked: the arrays, and everything else as JSON."""

    meta: dict[str, Any]
    arrays: Arrays


# -- writing -----------------------------------------------------------


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a result: complete or not at all. See `LensResult.save`."""
    path = Path(path)
    _check_suffix(path)
    with atomic_file(path) as scratch:
        if path.suffix == ".json":
            # Half of a surrogate pair is no UTF-8; JSON can say it as an escape.
            scratch.write_text(as_json(result), encoding="utf-8", errors="backslashreplace")
        else:
            metadata = np.array(json.dumps(meta_of(result), allow_nan=False))
            arrays: dict[str, Any] = {"meta": metadata, **arrays_of(result)}
            with scratch.open("wb") as file:
                np.savez_compressed(file, **arrays)


def as_json(result: Result) -> str:
    """Return the whole result as strict JSON: NaN is null, an infinity is a text."""
    content = meta_of(result)
    arrays = arrays_of(result)
    content["shapes"] = {name: list(array.shape) for name, array in arrays.items()}
    content["arrays"] = {name: to_json(array.tolist()) for name, array in arrays.items()}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


# -- reading -----------------------------------------------------------


def load(path: str | os.PathLike[str], result_class: type) -> Any:
    """Read a `LensResult` or an `Attribution` from its file. See `LensResult.load`."""
    path = Path(path)
    kind = kind_of(result_class)
    content = _read_content(path, kind.description)
    stored_format = content.meta.get("format")
    for other in KINDS:
        if other is not kind and stored_format == other.format:
            raise LensError(
                f"{str(path)!r} is not {kind.description} but {other.description}: read it with "
                f"lr.{other.public_name}.load(path)."
            )
    if stored_format != kind.format:
        raise LensError(
            f"{str(path)!r} is not {kind.description} (its format is {stored_format!r})."
        )
    return _result_of(path, result_class, content)


def load_any(
    path: str | os.PathLike[str],
    result_classes: Iterable[type],
    others: Mapping[str, Callable[[Path], Any]],
) -> Any:
    """Read what `save` wrote, whichever of the classes it is.

    Args:
        path: The file.
        result_classes: Those that are read here.
        others: What reads the files of other formats.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    path = Path(path)
    content = _read_content(path, "a result")
    stored_format = content.meta.get("format")
    read_other = others.get(str(stored_format))
    if read_other is not None:
        return read_other(path)
    for result_class in result_classes:
        if kind_of(result_class).format == stored_format:
            return _result_of(path, result_class, content)
    neither = " nor ".join(kind.description for kind in KINDS)
    raise LensError(f"{str(path)!r} is neither {neither} (its format is {stored_format!r}).")


def _read_content(path: Path, description: str) -> Content:
    """Return what a file holds, unchecked.

    Args:
        path: The file.
        description: What it should hold, for the error.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, or not whole.
    """
    _check_suffix(path)
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        return _read_json(path)
    except LensError:
        raise
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except MemoryError:
        raise LensError(f"{str(path)!r} is too large for the memory of this machine.") from None
    except Exception as error:
        # To a reader, zip, JSON and unicode errors of a broken file are all one thing.
        raise LensError(
            f"{str(path)!r} is not {description}, or not whole: {type(error).__name__}: {error}"
        ) from error


def _read_npz(path: Path) -> Content:
    """Return what an .npz file holds, unchecked but for the shapes of its arrays."""
    arrays: Arrays = {}
    with open_plain_file(path) as file:
        archive = ArrayArchive(file)
        metadata = parse_object(archive.text("meta"))
        check_depth(metadata)
        axes = stored_axes(metadata)
        lengths = promised_lengths(metadata) if axes else {}
        for array_name, axis_names in axes.items():
            if array_name in archive:
                check = partial(check_shape, array_name, axis_names, lengths)
                arrays[array_name] = archive.numbers(array_name, check)
    return Content(metadata, arrays)


def _read_json(path: Path) -> Content:
    """Return what a .json file holds, unchecked but for the shapes of its arrays."""
    metadata = parse_object(read_text(path))
    stored_arrays = metadata.pop("arrays", {})
    check_depth(metadata)
    arrays: Arrays = {}
    for array_name in stored_axes(metadata):
        if array_name in stored_arrays:
            # Nested lists lose an empty axis, so the shape is kept beside them.
            array = array_of_lists(array_name, stored_arrays[array_name])
            arrays[array_name] = array.reshape(metadata["shapes"][array_name])
    return Content(metadata, arrays)


def _result_of(path: Path, result_class: type, content: Content) -> Any:
    """Return the result that a file of the right format holds.

    Raises:
        LensError: the file is of another version, or damaged.
    """
    kind = kind_of(result_class)
    version = content.meta.get("version")
    if version != kind.version:
        raise LensError(
            f"{str(path)!r} is {kind.description} of version {version!r}; this package reads "
            f"{kind.version}."
        )
    try:
        return rebuild(result_class, content.meta, content.arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is {kind.description} but damaged: {type(error).__name__}: {error}"
        ) from error


def _check_suffix(path: Path) -> None:
    """Raise a ValueError unless a name ends in .json or .npz."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a result is a .json or .npz file; received {str(path)!r}.")
