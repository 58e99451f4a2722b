"""The file of a fit: what was added up so far, so that it can be stopped at any moment.

It is a file of safetensors. While a fit goes on it holds the sums and, as text, what is fitted; at
the end also the lens, in the layout of saved lenses.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens, LensRecord
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files.atomic import atomic_file

LENS_FORMAT = {"format": "lens-recipes lens", "version": 1}
FIT_VERSION = 1
SAVED_EVERY_S = 60.0  # a fit that takes less is saved when it is done
SAMPLES = "samples"

# What a fit is, for messages: the names in its identity in words.
WORDS = {
    "kind": "kind of lens",
    "model": "model",
    "weights": "weights",
    "layers": "layers",
    "tokens": "number of tokens",
    "seed": "seed",
    "shard": "shard",
    "row_length": "length of a row",
    "texts": "text",
    "settings": "settings",
}


class FitState:
    """How far a fit has come.

    Attributes:
        path: Its file, or None for none.
        identity: What is fitted, as JSON can hold it.
        samples: The rows that the model has written so far, `[row, position]`; None where it
            writes none.
        n_done: How many batches have been added up.
        sums: What they came to.
        lens: The lens, where the fit is finished.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        """Begin, or go on from what the file holds.

        Raises:
            LensError: the file is that of another fit, or of none, or cannot be written.
        """
        self.path = None if path is None else Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.samples: Tensor | None = None
        self.n_done = 0
        self.sums: dict[str, Tensor] = {}
        self.lens: Lens | None = None
        self.saved_at = time.monotonic()
        if self.path is not None and self.path.exists():
            self._load(self.path)
        else:
            self.save()  # so that a path that cannot be written is found out now

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of one more batch, in float64 and all of them or none."""
        with uninterrupted():
            for name, value in sums.items():
                more = value.double() if value.is_floating_point() else value
                if name in self.sums:
                    self.sums[name] += more
                else:
                    self.sums[name] = more.clone()
            self.n_done += 1
        self.save_if_due()

    def add_samples(self, rows: Tensor) -> None:
        """Add rows that the model has written."""
        rows = rows.to(torch.int32)
        self.samples = rows if self.samples is None else torch.cat([self.samples, rows])
        self.save_if_due()

    def save_if_due(self) -> None:
        """Save what there is, if the last time was a while ago."""
        if time.monotonic() - self.saved_at >= SAVED_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write what there is, whole or not at all.

        Raises:
            LensError: it cannot be written.
        """
        if self.path is None:
            return
        fit = {"version": FIT_VERSION, "identity": self.identity, "n_done": self.n_done}
        tensors = {f"sums.{name}": value for name, value in self.sums.items()}
        if self.samples is not None:
            tensors[SAMPLES] = self.samples
        with uninterrupted():
            write_tensors(self.path, tensors, {"fit": fit})
        self.saved_at = time.monotonic()

    def finish(self, lens: Lens) -> None:
        """Keep the lens, and write it with its sums.

        Raises:
            LensError: it cannot be written.
        """
        self.lens = lens
        self.sums = dict(lens.sums or {})
        if self.path is None:
            return
        fit = {"version": FIT_VERSION, "identity": self.identity, "n_done": self.n_done}
        self.samples = None  # they have served, and anyone can write them again
        with uninterrupted():
            write_fit(self.path, lens, {"fit": fit})

    def _load(self, path: Path) -> None:
        """Take over what a file holds.

        Raises:
            LensError: the file is that of another fit, or of none.
        """
        metadata, tensors = read_tensors(path, "fit")
        fit = metadata["fit"]
        if fit.get("version") != FIT_VERSION:
            raise not_a_fit(path, f"its version is {fit.get('version')!r}")
        if not tensors:  # it was only begun
            return
        self._check_identity(path, fit.get("identity"))
        self.n_done = int(fit["n_done"])
        self.samples = tensors.get(SAMPLES)
        self.sums = sums_among(tensors)
        if "lens" in metadata:
            self.lens = read_lens(metadata["lens"], tensors, str(path))

    def _check_identity(self, path: Path, identity: Any) -> None:
        """Raise LensError if a file is about something else."""
        if identity == self.identity:
            return
        differences = []
        for name, asked in self.identity.items():
            found = identity.get(name) if isinstance(identity, dict) else None
            if found != asked:
                differences.append(f"{WORDS.get(name, name)} {found!r} there, {asked!r} here")
        raise LensError(
            f"{str(path)!r} holds another fit: {'; '.join(differences)}. "
            + say(
                python="Name another path=, or ask for the same fit to go on with it.",
                shell="Name another file with --output, or ask for the same fit to go on with it.",
            )
        )


# -- files -------------------------------------------------------------


def load_fit(path: str | os.PathLike[str]) -> Lens:
    """Return the lens of a finished fit, with its sums.

    Raises:
        LensError: the file holds none.
    """
    path = Path(path)
    metadata, tensors = read_tensors(path, None)
    if "lens" not in metadata:
        raise LensError(
            f"{str(path)!r} holds a fit that is not finished, and no lens: go on with it first."
        )
    return read_lens(metadata["lens"], tensors, str(path))


def write_fit(
    path: str | os.PathLike[str], lens: Lens, more: Mapping[str, Any] | None = None
) -> None:
    """Write a lens with its sums, whole or not at all, in the layout of saved lenses.

    Args:
        path: The file.
        lens: The lens.
        more: What else the file says, by name, as JSON can hold it.

    Raises:
        LensError: it cannot be written.
    """
    tensors = {f"sums.{name}": value for name, value in (lens.sums or {}).items()}
    for layer, transport in lens.transports.items():
        tensors[f"transports.{layer}.weight"] = transport.weight
        if transport.bias is not None:
            tensors[f"transports.{layer}.bias"] = transport.bias
    description = {
        **LENS_FORMAT,
        "kind": lens.kind,
        "digest": lens.digest,
        "residual": [layer for layer, each in lens.transports.items() if each.is_residual],
        "record": asdict(lens.record),
        "quality": None if lens.quality is None else lens.quality.to_json(),
    }
    write_tensors(Path(path), tensors, {"lens": description, **(more or {})})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a file of safetensors, whole or not at all."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    with atomic_file(path) as scratch:
        save_file(whole, scratch, texts)


def read_tensors(path: Path, needed: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a file says, and its tensors.

    Args:
        path: The file.
        needed: What it must say something of; None for a fit or a lens.

    Raises:
        LensError: it is no such file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            texts = file.metadata() or {}
            metadata = {name: json.loads(texts[name]) for name in ("fit", "lens") if name in texts}
            if not metadata or needed not in (None, *metadata):
                raise ValueError("it says nothing of a fit")
            # Copied: what is mapped from a file changes with the file.
            return metadata, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise not_a_fit(path, f"{type(error).__name__}: {error}") from None


def not_a_fit(path: Path, reason: str) -> LensError:
    """Return the error for a file that is none of a fit."""
    return LensError(
        f"{str(path)!r} is no file of a fit ({reason}). "
        + say(python="Name another path.", shell="Name another file.")
    )


def sums_among(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of a fit, by their own names."""
    sums = {}
    for name, value in tensors.items():
        if name.startswith("sums."):
            sums[name.removeprefix("sums.")] = value
    return sums


def read_lens(description: dict[str, Any], tensors: Mapping[str, Tensor], path: str) -> Lens:
    """Return the lens that `write_fit` wrote."""
    transports = {}
    for name, weight in tensors.items():
        if name.startswith("transports.") and name.endswith(".weight"):
            layer = int(name.split(".")[1])
            bias = tensors.get(f"transports.{layer}.bias")
            transports[layer] = Affine(weight, bias, layer in description["residual"])
    quality = description["quality"]
    return Lens(
        kind=description["kind"],
        transports=dict(sorted(transports.items())),
        record=LensRecord(**description["record"]),
        quality=LensQuality(**quality) if quality else None,
        source=path,
        sums=sums_among(tensors),
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done, so that nothing is left half changed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
