"""Our own format: one file of safetensors. The transports, and as text in it all that is known.

    transports.12.weight, transports.12.bias     of the stream after block 12
    sums.…                                       what a fit added up, where it was kept

The metadata of the file has the entry "lens": JSON with the version of the format, the kind, the
record, the quality, the digest, and which transports are residual. A fit adds the entry "fit", by
which it goes on; while it is not finished, its file has no lens.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_recipes.lenses.files.checks import (
    check_fits,
    check_json,
    check_numbers,
    check_shape,
    check_width,
    read_json,
    read_layer,
    shown,
)
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.stored_record import (
    read_kind,
    read_quality,
    read_record,
    write_quality,
)
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files import atomic_file
from lens_recipes.views.files.plain_file import open_plain_file

SUFFIX = ".safetensors"
FORMAT, VERSION = "lens-recipes lens", 1
ENTRY, FIT = "lens", "fit"
TRANSPORTS, SUMS = "transports.", "sums."

HEADER_START = struct.Struct("<Q")  # how long the header is, at the start of the file
MAX_HEADER_BYTES = 2**24

# -- writing -----------------------------------------------------------


def write_own(
    path: Path,
    content: LensContent,
    sums: Mapping[str, Tensor] | None,
    fit: Mapping[str, Any] | None = None,
) -> None:
    """Write a lens: complete or not at all.

    Args:
        path: The file.
        content: The lens, with the digest of its numbers.
        sums: What its fit added up, or None to leave it out.
        fit: What the fit says of itself, or None for nothing.

    Raises:
        LensError: the file cannot be written.
        ValueError: the record holds what JSON cannot, or what no reader takes.
    """
    record = asdict(content.record)
    check_json(record, "the record")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "kind": content.kind,
        "digest": content.digest,
        "residual": [layer for layer, each in content.transports.items() if each.is_residual],
        "record": record,
        "quality": write_quality(content.quality),
    }
    check_readable(metadata)
    tensors: dict[str, Tensor] = {}
    for layer, transport in content.transports.items():
        tensors[f"{TRANSPORTS}{layer}.weight"] = _alone(transport.weight)
        if transport.bias is not None:
            tensors[f"{TRANSPORTS}{layer}.bias"] = _alone(transport.bias)
    for name, total in (sums or {}).items():
        tensors[f"{SUMS}{name}"] = _alone(total)
    entries = {ENTRY: json.dumps(metadata, allow_nan=False)}
    if fit is not None:
        entries[FIT] = json.dumps(fit, allow_nan=False)
    with atomic_file(path) as scratch:
        save_file(tensors, scratch, entries)


def write_again(path: Path, content: LensContent) -> None:
    """Write a lens in the place of itself, with what was measured of it since.

    Its sums, and what its fit says of itself, stay.

    Raises:
        LensError: the file cannot be written.
        OSError, ValueError: another lens is there, or none.
    """
    sums = read_sums(path, content.digest)
    with _opened(path) as file:
        fit = (file.metadata() or {}).get(FIT)
    said = None if fit is None else read_json(fit, "what it says of its fit")
    write_own(path, content, sums or None, said)


def check_readable(metadata: Mapping[str, Any]) -> None:
    """Raise a ValueError if what a file is to say of its lens could not be read again."""
    try:
        stored = read_json(json.dumps(metadata, allow_nan=False), "what it says of its lens")
        read_record(stored["record"])
        read_quality(stored["quality"])
    except ValueError as error:
        raise ValueError(
            f"this lens cannot be saved, because no file can say this: {error}"
        ) from None


def write_unfinished(path: Path, fit: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write how far a fit has come: complete or not at all.

    Args:
        path: The file.
        fit: What the fit says of itself.
        tensors: What it has so far, by names of its own.

    Raises:
        LensError: the file cannot be written.
    """
    alone = {name: _alone(value) for name, value in tensors.items()}
    with atomic_file(path) as scratch:
        save_file(alone, scratch, {FIT: json.dumps(fit, allow_nan=False)})


def _alone(numbers: Tensor) -> Tensor:
    """Return a tensor as a file holds it: on the CPU, in order, and of no other's memory."""
    numbers = numbers.detach().cpu().contiguous()
    is_part = numbers.untyped_storage().nbytes() != numbers.numel() * numbers.itemsize
    return numbers.clone() if is_part else numbers


# -- reading -----------------------------------------------------------


def read_own(path: Path) -> LensContent:
    """Return the lens in a file. Its sums are not read.

    Raises:
        LensError: it is no plain file.
        OSError, ValueError: it is no lens, or not whole.
    """
    with _opened(path) as file:
        metadata = _metadata(file)
        record = read_record(metadata.get("record"))
        transports = _read_transports(file, metadata)
        return LensContent(
            kind=read_kind(metadata.get("kind")),
            transports=transports,
            record=record,
            quality=read_quality(metadata.get("quality")),
            digest=_digest(metadata),
        )


def read_sums(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """Return what the fit of the lens in a file added up; nothing where that was not kept.

    Args:
        path: The file.
        digest: Of the lens that must be in it; None for any.

    Raises:
        LensError: it is no plain file.
        OSError, ValueError: it is no lens, or not whole, or another one.
    """
    sums = {}
    with _opened(path) as file:
        found = _digest(_metadata(file))
        if digest is not None and found != digest:
            raise ValueError(f"another lens is in {str(path)!r} now")
        for name in file.keys():  # noqa: SIM118 - it is no dict
            if name.startswith(SUMS):
                sums[name.removeprefix(SUMS)] = file.get_tensor(name).clone()
    return sums


class FitContent(NamedTuple):
    """What the file of a fit holds beside its lens.

    Attributes:
        fit: What the fit says of itself.
        tensors: Sums and samples of a fit that is not finished; else empty.
        is_finished: Whether there is a lens.
    """

    fit: dict[str, Any]
    tensors: dict[str, Tensor]
    is_finished: bool


def read_fit(path: Path) -> FitContent:
    """Return how far the fit in a file has come.

    Raises:
        LensError: it is no plain file.
        OSError, ValueError: it is no fit, or not whole.
    """
    with _opened(path) as file:
        entries = file.metadata() or {}
        if FIT not in entries:
            raise ValueError("it says nothing of a fit")
        fit = read_json(entries[FIT], "what it says of its fit")
        if not isinstance(fit, dict):
            raise ValueError("what it says of its fit is no JSON object")
        tensors = {}
        if ENTRY not in entries:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensors[name] = file.get_tensor(name).clone()
        return FitContent(fit, tensors, ENTRY in entries)


class _opened:
    """A file of safetensors, opened: `with _opened(path) as file`."""

    def __init__(self, path: Path) -> None:
        with open_plain_file(path) as plain:
            start = plain.read(HEADER_START.size)
            check_fits(os.fstat(plain.fileno()).st_size)
        if len(start) < HEADER_START.size or HEADER_START.unpack(start)[0] > MAX_HEADER_BYTES:
            raise ValueError("it is no file of safetensors")
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise ValueError(f"it is no whole file of safetensors ({error})") from None

    def __enter__(self) -> Any:
        return self._file.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


def _metadata(file: Any) -> dict[str, Any]:
    """Return what the file says of its lens."""
    text = (file.metadata() or {}).get(ENTRY)
    if text is None:
        if FIT in (file.metadata() or {}):
            raise ValueError("it holds a fit that is not finished: go on with it first")
        raise ValueError("it holds tensors, but no lens of this package")
    metadata = read_json(text, "what it says of its lens")
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {shown(metadata.get('format'))}, expected is {FORMAT!r}")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"it is of version {shown(metadata.get('version'))}, and this package reads version "
            f"{VERSION}"
        )
    return metadata


def _digest(metadata: dict[str, Any]) -> str:
    """Return what the file says that its numbers are."""
    digest = metadata.get("digest")
    if not isinstance(digest, str) or not 1 <= len(digest) <= 64:
        raise ValueError("it has no digest of its numbers")
    return digest


def _read_transports(file: Any, metadata: dict[str, Any]) -> dict[int, Affine]:
    """Return the transports, each looked at by its shape before it is read."""
    names = [name for name in file.keys() if not name.startswith(SUMS)]  # noqa: SIM118
    layers: dict[int, set[str]] = {}
    for name in names:
        layer, part = _parse_name(name)
        layers.setdefault(layer, set()).add(part)
    if not layers:
        raise ValueError("it has no transports")
    residual = _residual_layers(metadata.get("residual"), layers)
    first = min(layers)
    width = check_width(_shape(file, first, "weight")[0])
    transports = {}
    for layer in sorted(layers):
        bias = None
        weight = _read(file, layer, "weight", (width, width))
        if "bias" in layers[layer]:
            bias = _read(file, layer, "bias", (width,))
        transports[layer] = Affine(weight, bias, layer in residual)
    return transports


def _residual_layers(stored: Any, layers: Collection[int]) -> list[int]:
    """Return the layers whose transports are residual."""
    is_list = isinstance(stored, list) and all(type(layer) is int for layer in stored)
    if not is_list or not set(stored) <= set(layers):
        raise ValueError("it does not say which of its transports are residual")
    return stored


def _parse_name(name: str) -> tuple[int, str]:
    """Return the layer and the part that a name stands for."""
    written, _, part = name.removeprefix(TRANSPORTS).partition(".")
    if not name.startswith(TRANSPORTS) or part not in ("weight", "bias"):
        raise ValueError(f"it holds {name[:80]!r}, which is no part of a lens")
    layer = read_layer(written)
    if written != str(layer):
        raise ValueError(f"it holds {name[:80]!r}, which is no part of a lens")
    return layer, part


def _shape(file: Any, layer: int, part: str) -> list[int]:
    """Return the shape of a part of a transport, which costs no memory."""
    name = f"{TRANSPORTS}{layer}.{part}"
    if name not in file.keys():  # noqa: SIM118 - it is no dict
        raise ValueError(f"the transport of layer {layer} has no {part}")
    shape = file.get_slice(name).get_shape()
    if not shape:
        raise ValueError(f"{name} is a single number")
    return shape


def _read(file: Any, layer: int, part: str, expected: tuple[int, ...]) -> Tensor:
    """Return a part of a transport."""
    name = f"{TRANSPORTS}{layer}.{part}"
    check_shape(_shape(file, layer, part), expected, name)
    # Copied: what is mapped from a file changes with the file.
    return check_numbers(file.get_tensor(name), name).clone()
