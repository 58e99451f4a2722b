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
            LensError: the file is that of another fit, or of none.
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
        with uninterrupted():
            self._write({"fit": fit}, {})
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
        tensors = {}
        for layer, transport in lens.transports.items():
            tensors[f"transports.{layer}.weight"] = transport.weight.contiguous()
            if transport.bias is not None:
                tensors[f"transports.{layer}.bias"] = transport.bias.contiguous()
        description = {
            **LENS_FORMAT,
            "kind": lens.kind,
            "digest": lens.digest,
            "residual": [layer for layer, each in lens.transports.items() if each.is_residual],
            "record": asdict(lens.record),
            "quality": None if lens.quality is None else lens.quality.to_json(),
        }
        fit = {"version": FIT_VERSION, "identity": self.identity, "n_done": self.n_done}
        self.samples = None  # they have served, and anyone can write them again
        with uninterrupted():
            self._write({"lens": description, "fit": fit}, tensors)

    def _write(self, descriptions: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the file."""
        assert self.path is not None  # the callers have seen to it
        for name, value in self.sums.items():
            tensors[f"sums.{name}"] = value.contiguous()
        if self.samples is not None:
            tensors[SAMPLES] = self.samples
        metadata = {name: json.dumps(value) for name, value in descriptions.items()}
        with atomic_file(self.path) as scratch:
            save_file(tensors, scratch, metadata)

    def _load(self, path: Path) -> None:
        """Take over what a file holds.

        Raises:
            LensError: the file is that of another fit, or of none.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                fit = json.loads(metadata["fit"])
                if fit["version"] != FIT_VERSION:
                    raise ValueError("it is of another version")
                identity, n_done = fit["identity"], int(fit["n_done"])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                lens_text = metadata.get("lens")
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise LensError(
                f"{str(path)!r} is no file of a fit ({type(error).__name__}: {error}). "
                + say(python="Name another path=.", shell="Name another file with --output.")
            ) from None
        self._check_identity(path, identity)
        self.n_done = n_done
        self.samples = tensors.get(SAMPLES)
        for name, value in tensors.items():
            if name.startswith("sums."):
                self.sums[name.removeprefix("sums.")] = value
        if lens_text is not None:
            self.lens = read_lens(json.loads(lens_text), tensors, self.sums, str(path))

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


def read_lens(
    description: dict[str, Any],
    tensors: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    path: str,
) -> Lens:
    """Return the lens that `FitState.finish` wrote."""
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
        sums=sums,
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
