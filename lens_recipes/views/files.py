"""A result as a file: versioned `.json` or `.npz`, exact both ways, complete or absent, never a pickle."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.attribution import AXES as ATTRIBUTION_AXES
from lens_recipes.arrays.attribution import UNITS, AttributionArrays
from lens_recipes.arrays.axes import Part, Response, Site, Tokens
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.lens import AXES, LensArrays
from lens_recipes.errors import LensError


class _Kind(NamedTuple):
    """What one sort of result has in its file beside tokens, prompts, texts, certificate and provenance.

    `rows` is the field that names the entries of `axis`, each of them a `row`; `plain` are the fields that are JSON
    already, with their types.
    """

    result: type
    public_name: str
    name: str
    format: str
    version: int
    axes: dict[str, tuple[str, ...]]
    rows: str
    axis: str
    row: type
    plain: dict[str, type]


_KINDS = (
    _Kind(
        LensArrays,
        "LensResult",
        "a lens result",
        "lens-recipes/result",
        1,
        AXES,
        "sites",
        "site",
        Site,
        {"responses": list},
    ),
    _Kind(
        AttributionArrays,
        "Attribution",
        "an attribution",
        "lens-recipes/attribution",
        1,
        ATTRIBUTION_AXES,
        "parts",
        "part",
        Part,
        {"unit": str, "at_layer": int, "against": str, "sources": list},
    ),
)

_TOKEN_COLUMNS = {
    "prompt": np.int32,
    "position": np.int32,
    "id": np.int32,
    "next_id": np.int32,
    "generated": np.bool_,
    "next_logprob": np.float32,
    "sampler_logprob": np.float32,
}

_OF_GENERATION = ("next_logprob", "sampler_logprob")  # columns that other results do not have


def save(result: LensArrays | AttributionArrays, path: str | os.PathLike[str]) -> None:
    """See `LensResult.save`."""
    path = Path(path)
    _suffix(path)
    with atomic_file(path) as scratch:
        if path.suffix == ".json":
            scratch.write_text(as_json(result), encoding="utf-8")
        else:
            with scratch.open("wb") as file:
                np.savez_compressed(
                    file,
                    meta=np.array(json.dumps(_meta(result), allow_nan=False)),
                    **_arrays(result),
                )


def as_json(result: LensArrays | AttributionArrays) -> str:
    """The whole result as strict JSON: NaN is null, an infinity is a string."""
    arrays = _arrays(result)
    lists = {name: _jsonable(array.tolist()) for name, array in arrays.items()}
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    return json.dumps(
        {**_meta(result), "shapes": shapes, "arrays": lists}, ensure_ascii=False, allow_nan=False
    )


def _kind(result: type) -> _Kind:
    return next(kind for kind in _KINDS if issubclass(result, kind.result))


def _meta(result: LensArrays | AttributionArrays) -> dict[str, Any]:
    kind = _kind(type(result))
    return _jsonable(
        {
            "format": kind.format,
            "version": kind.version,
            **{name: getattr(result, name) for name in kind.plain},
            kind.rows: [list(row) for row in getattr(result, kind.rows)],
            "prompts": result.prompts,
            "token_text": result.tokens.text,
            "texts": {str(i): text for i, text in result.texts.items()},
            "certificate": None if result.certificate is None else _proof(result.certificate),
            "provenance": result.provenance,
        }
    )


def _arrays(result: LensArrays | AttributionArrays) -> dict[str, Any]:
    columns = {f"token_{name}": getattr(result.tokens, name) for name in _TOKEN_COLUMNS}
    there = {name: column for name, column in columns.items() if column is not None}
    return {name: getattr(result, name) for name in _kind(type(result)).axes} | there


def load(path: str | os.PathLike[str], result: type) -> Any:
    """A `result` (`LensResult` or `Attribution`) from its file. See `LensResult.load`."""
    path, kind = Path(path), _kind(result)
    meta, arrays = _content(path, kind.name)
    for other in _KINDS:
        if other is not kind and meta.get("format") == other.format:
            reader = f"{other.public_name}.load"
            raise LensError(
                f"{str(path)!r} is not {kind.name} but {other.name}: read it with lr.{reader}(path)."
            )
    if meta.get("format") != kind.format:
        raise LensError(f"{str(path)!r} is not {kind.name} (its format is {meta.get('format')!r}).")
    return _result(path, result, kind, meta, arrays)


def load_any(path: str | os.PathLike[str], results: Iterable[type]) -> Any:
    """What `save` wrote, whichever of `results` it is.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    path = Path(path)
    meta, arrays = _content(path, "a result")
    for result in results:
        kind = _kind(result)
        if meta.get("format") == kind.format:
            return _result(path, result, kind, meta, arrays)
    neither = " nor ".join(kind.name for kind in _KINDS)
    raise LensError(f"{str(path)!r} is neither {neither} (its format is {meta.get('format')!r}).")


def _content(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in a file that should hold `name`, unchecked."""
    _suffix(path)
    try:
        return _read(path)
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    except (
        Exception
    ) as error:  # zip, JSON and unicode errors of a broken file are all one thing to a reader
        raise LensError(
            f"{str(path)!r} is not {name}, or not whole: {type(error).__name__}: {error}"
        ) from error


def _result(
    path: Path, result: type, kind: _Kind, meta: dict[str, Any], arrays: dict[str, Any]
) -> Any:
    if meta.get("version") != kind.version:
        raise LensError(
            f"{str(path)!r} is {kind.name} of version {meta.get('version')!r}; this package reads {kind.version}."
        )
    try:
        return _rebuild(result, kind, meta, arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is {kind.name} but damaged: {type(error).__name__}: {error}"
        ) from error


def _dtype(name: str) -> type:
    return np.int32 if name.endswith(("_ids", "_ranks")) else np.float32


def _suffix(path: Path) -> None:
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"a result is a .json or .npz file; received {str(path)!r}.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return _object(str(file["meta"])), {
                name: file[name] for name in file.files if name != "meta"
            }
    meta = _object(path.read_text(encoding="utf-8"))
    arrays: dict[str, np.ndarray] = {}
    for name, value in meta.pop("arrays", {}).items():
        column = _TOKEN_COLUMNS.get(name.removeprefix("token_"))
        dtype = column if name.startswith("token_") and column else _dtype(name)
        arrays[name] = np.array(_floats(value) if dtype is np.float32 else value, dtype=dtype)
        arrays[name] = arrays[name].reshape(
            meta["shapes"][name]
        )  # an empty axis is lost in nested lists
    return meta, arrays


def _object(text: str) -> dict[str, Any]:
    meta = json.loads(text)
    if not isinstance(meta, dict):
        raise ValueError("not a JSON object")
    return meta


def _rebuild(result: type, kind: _Kind, meta: dict[str, Any], arrays: dict[str, Any]) -> Any:
    there = {
        name: f"token_{name}"
        for name in _TOKEN_COLUMNS
        if name not in _OF_GENERATION or f"token_{name}" in arrays
    }
    columns = {name: arrays[stored].astype(_TOKEN_COLUMNS[name]) for name, stored in there.items()}
    rows = [_row(kind, row) for row in meta[kind.rows]]
    sizes = {kind.axis: len(rows), "token": len(columns["id"]), "prompt": len(meta["prompts"])}
    fields = {}
    for name, axes in kind.axes.items():
        array = arrays[name]
        expected = tuple(
            sizes.setdefault(axis, n) for axis, n in zip(axes, array.shape, strict=True)
        )
        if array.shape != expected:
            raise ValueError(
                f"{name} has the shape {list(array.shape)}, expected {list(expected)} for {list(axes)}"
            )
        fields[name] = array.astype(_dtype(name))
    for name, column in (*columns.items(), ("text", meta["token_text"])):
        if len(column) != sizes["token"]:
            raise ValueError(
                f"the tokens have {len(column)} entries for {name!r}, expected {sizes['token']}"
            )
    if not all(0 <= prompt < sizes["prompt"] for prompt in columns["prompt"]):
        raise ValueError(
            f"a token belongs to a prompt that is not among the {sizes['prompt']}, expected"
        )
    if kind.result is LensArrays:
        responses = meta.get("responses", [])  # a file may be older than the field
        meta["responses"] = [Response(*map(_text, response)) for response in responses]
    plain = {name: meta[name] for name in kind.plain}
    if len(plain.get("responses", [])) not in (0, sizes["prompt"]):
        raise ValueError(
            f"there are {len(plain['responses'])} responses, expected one for each prompt or none"
        )
    for name, value in plain.items():
        if not isinstance(value, kind.plain[name]):
            raise ValueError(f"{name} is {value!r}, expected: {kind.plain[name].__name__}")
    if plain.get("unit", UNITS[0]) not in UNITS:
        raise ValueError(
            f"unit is {plain['unit']!r}, expected is one of {', '.join(map(repr, UNITS))}"
        )
    sources = plain.get("sources", [])
    if len(sources) not in (0, sizes["prompt"]) or not all(
        isinstance(texts, list) for texts in sources
    ):
        raise ValueError(
            f"sources are not {sizes['prompt']} lists, expected is one for each prompt"
        )
    texts = [
        *meta["prompts"],
        *meta["token_text"],
        *meta["texts"].values(),
        *itertools.chain(*sources),
    ]
    if not all(isinstance(text, str) for text in texts) or not isinstance(meta["provenance"], dict):
        raise ValueError("texts or provenance are not what is expected")
    certificate = meta["certificate"]
    return result(
        **{kind.rows: rows},
        tokens=Tokens(**columns, text=meta["token_text"]),
        prompts=meta["prompts"],
        texts={int(i): text for i, text in meta["texts"].items()},
        certificate=None if certificate is None else _certificate(certificate),
        provenance=meta["provenance"],
        **plain,
        **fields,
    )


def _text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise ValueError(f"{stored!r} is no text, expected in a response")
    return stored


def _row(kind: _Kind, stored: Any) -> Any:
    row = kind.row(*stored)
    for name, value in row._asdict().items():
        if not (
            isinstance(value, str)
            if name == "component"
            else value is None or isinstance(value, int)
        ):
            raise ValueError(f"{stored!r} is no {kind.axis}: its {name} is not what is expected")
    return row


def _proof(certificate: Certificate) -> dict[str, Any]:
    """A certificate for a file. In an optional field null says "not measured", so a NaN there is written as a word."""
    stored = {**dataclasses.asdict(certificate), "passed": certificate.passed}
    for name in _optional():
        if isinstance(stored[name], float) and math.isnan(stored[name]):
            stored[name] = "NaN"
    return stored


def _certificate(stored: dict[str, Any]) -> Certificate:
    optional = _optional()
    fields: dict[str, Any] = {
        name: stored.get(name) for name in optional
    }  # a file may be older than the field
    measured = [
        field.name
        for field in dataclasses.fields(Certificate)
        if fields.get(field.name, 0) is not None
    ]
    return Certificate(**fields | {name: _floats(stored[name]) for name in measured})


def _optional() -> list[str]:
    return [field.name for field in dataclasses.fields(Certificate) if field.default is None]


_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _jsonable(value: Any) -> Any:
    """Strict JSON: NaN as null, infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _floats(value: Any) -> Any:
    """The inverse of `_jsonable` where numbers are expected."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if value is None:
        return math.nan
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


class atomic_file:
    """A file that is complete or absent: `with written(path) as scratch:` fills `scratch`, then it takes its place.

    Raises:
        LensError: the folder does not exist or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()  # through a link, to what it names

    def __enter__(self) -> Path:
        try:
            handle, name = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.name}-", suffix=self.path.suffix
            )
        except OSError as error:
            raise LensError(
                f"cannot write {str(self.path)!r}: {error.strerror or error}."
            ) from error
        os.close(handle)
        self.scratch = Path(name)
        return self.scratch

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if isinstance(error, OSError):
                raise error  # a full disk, for one
            if kind is None:
                umask = os.umask(0)
                os.umask(umask)
                self.scratch.chmod(0o666 & ~umask)  # mkstemp's 0600 is not what a written file has
                self.scratch.replace(self.path)
        except OSError as failure:
            raise LensError(
                f"cannot write {str(self.path)!r}: {failure.strerror or failure}."
            ) from failure
        finally:
            self.scratch.unlink(missing_ok=True)
