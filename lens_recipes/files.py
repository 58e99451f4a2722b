"""A result as a file: versioned `.json` or `.npz`, exact both ways, complete or absent, never a pickle."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .certificate import Certificate
from .errors import LensError
from .result import AXES, LensResult, Site, Tokens

FORMAT, VERSION = "lens-recipes/result", 1

_TOKEN_COLUMNS = {
    "prompt": np.int32,
    "position": np.int32,
    "id": np.int32,
    "next_id": np.int32,
    "generated": np.bool_,
}


def save(result: LensResult, path: str | os.PathLike[str]) -> None:
    """See `LensResult.save`."""
    path = Path(path)
    _suffix(path)
    with written(path) as scratch:
        if path.suffix == ".json":
            scratch.write_text(as_json(result), encoding="utf-8")
        else:
            with scratch.open("wb") as file:
                np.savez_compressed(file, meta=np.array(json.dumps(_meta(result), allow_nan=False)), **_arrays(result))


def as_json(result: LensResult) -> str:
    """The whole result as strict JSON: NaN is null, an infinity is a string."""
    arrays = _arrays(result)
    lists = {name: _jsonable(array.tolist()) for name, array in arrays.items()}
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    return json.dumps({**_meta(result), "shapes": shapes, "arrays": lists}, ensure_ascii=False, allow_nan=False)


def _meta(result: LensResult) -> dict[str, Any]:
    proof = result.certificate
    return _jsonable(
        {
            "format": FORMAT,
            "version": VERSION,
            "sites": [list(site) for site in result.sites],
            "prompts": result.prompts,
            "token_text": result.tokens.text,
            "texts": {str(i): text for i, text in result.texts.items()},
            "certificate": None if proof is None else {**dataclasses.asdict(proof), "passed": proof.passed},
            "provenance": result.provenance,
        }
    )


def _arrays(result: LensResult) -> dict[str, Any]:
    columns = {f"token_{name}": getattr(result.tokens, name) for name in _TOKEN_COLUMNS}
    return {name: getattr(result, name) for name in AXES} | columns


def load(path: str | os.PathLike[str]) -> LensResult:
    """See `LensResult.load`."""
    path = Path(path)
    _suffix(path)
    try:
        meta, arrays = _read(path)
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except Exception as error:  # zip, JSON and unicode errors of a broken file are all one thing to a reader
        raise LensError(f"{str(path)!r} is not a whole lens result: {type(error).__name__}: {error}") from error
    if meta.get("format") != FORMAT:
        raise LensError(f"{str(path)!r} is not a lens result (its format is {meta.get('format')!r}).")
    if meta.get("version") != VERSION:
        raise LensError(
            f"{str(path)!r} is a lens result of version {meta.get('version')!r}; this package reads {VERSION}."
        )
    try:
        return _rebuild(meta, arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise LensError(f"{str(path)!r} is a damaged lens result: {type(error).__name__}: {error}") from error


def _dtype(name: str) -> type:
    return np.int32 if name.endswith(("_ids", "_ranks")) else np.float32


def _suffix(path: Path) -> None:
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"a result is a .json or .npz file; received {str(path)!r}.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return _object(str(file["meta"])), {name: file[name] for name in file.files if name != "meta"}
    meta = _object(path.read_text(encoding="utf-8"))
    arrays: dict[str, np.ndarray] = {}
    for name, value in meta.pop("arrays", {}).items():
        column = _TOKEN_COLUMNS.get(name.removeprefix("token_"))
        dtype = column if name.startswith("token_") and column else _dtype(name)
        arrays[name] = np.array(_floats(value) if dtype is np.float32 else value, dtype=dtype)
        arrays[name] = arrays[name].reshape(meta["shapes"][name])  # an empty axis is lost in nested lists
    return meta, arrays


def _object(text: str) -> dict[str, Any]:
    meta = json.loads(text)
    if not isinstance(meta, dict):
        raise ValueError("not a JSON object")
    return meta


def _rebuild(meta: dict[str, Any], arrays: dict[str, Any]) -> LensResult:
    columns = {name: arrays[f"token_{name}"].astype(dtype) for name, dtype in _TOKEN_COLUMNS.items()}
    sizes = {"site": len(meta["sites"]), "token": len(columns["id"]), "prompt": len(meta["prompts"])}
    fields = {}
    for name, axes in AXES.items():
        array = arrays[name]
        expected = tuple(sizes.setdefault(axis, n) for axis, n in zip(axes, array.shape, strict=True))
        if array.shape != expected:
            raise ValueError(f"{name} has the shape {list(array.shape)}, expected {list(expected)} for {list(axes)}")
        fields[name] = array.astype(_dtype(name))
    for name, column in (*columns.items(), ("text", meta["token_text"])):
        if len(column) != sizes["token"]:
            raise ValueError(f"the tokens have {len(column)} entries for {name!r}, expected {sizes['token']}")
    if not all(0 <= prompt < sizes["prompt"] for prompt in columns["prompt"]):
        raise ValueError(f"a token belongs to a prompt that is not among the {sizes['prompt']}, expected")
    texts = (*meta["prompts"], *meta["token_text"], *meta["texts"].values())
    if not all(isinstance(text, str) for text in texts) or not isinstance(meta["provenance"], dict):
        raise ValueError("texts or provenance are not what is expected")
    certificate = meta["certificate"]
    return LensResult(
        sites=[Site(*site) for site in meta["sites"]],
        tokens=Tokens(**columns, text=meta["token_text"]),
        prompts=meta["prompts"],
        texts={int(i): text for i, text in meta["texts"].items()},
        certificate=None if certificate is None else _certificate(certificate),
        provenance=meta["provenance"],
        **fields,
    )


def _certificate(stored: dict[str, Any]) -> Certificate:
    return Certificate(**{field.name: _floats(stored[field.name]) for field in dataclasses.fields(Certificate)})


_SPECIAL = {"Infinity": math.inf, "-Infinity": -math.inf}


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


class written:
    """A file that is complete or absent: `with written(path) as scratch:` fills `scratch`, then it takes its place.

    Raises:
        LensError: the folder does not exist or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()  # through a link, to what it names

    def __enter__(self) -> Path:
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-", suffix=self.path.suffix)
        except OSError as error:
            raise LensError(f"cannot write {str(self.path)!r}: {error.strerror or error}.") from error
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
            raise LensError(f"cannot write {str(self.path)!r}: {failure.strerror or failure}.") from failure
        finally:
            self.scratch.unlink(missing_ok=True)
