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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_recipes.arrays.text import counted
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.lenses.files.own import SUMS, read_fit, write_own, write_unfinished
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.load import load_lens, load_sums

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
        if self.path is not None and os.path.exists(self.path):  # a name too long is not there
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
        tensors = {f"{SUMS}{name}": value for name, value in self.sums.items()}
        if self.samples is not None:
            tensors[SAMPLES] = self.samples
        with uninterrupted():
            write_unfinished(self.path, self.description, tensors)
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
        self.samples = None  # they have served, and anyone can write them again
        with uninterrupted():
            write_own(self.path, lens.content, lens.sums, self.description)

    @property
    def progress(self) -> str:
        """How far the fit has come, in words."""
        if self.n_done:
            return f"the sums of {counted(self.n_done, 'batch', 'batches')}"
        if self.samples is not None:
            return f"{counted(len(self.samples), 'row')} that the model has written"
        return "nothing of it yet"

    @property
    def description(self) -> dict[str, Any]:
        """What the file says of the fit."""
        return {"version": FIT_VERSION, "identity": self.identity, "n_done": self.n_done}

    def _load(self, path: Path) -> None:
        """Take over what a file holds.

        Raises:
            LensError: the file is that of another fit, or of none.
        """
        try:
            content = read_fit(path)
        except (ValueError, OSError) as error:
            raise not_a_fit(path, str(error)) from None
        fit = content.fit
        if fit.get("version") != FIT_VERSION:
            raise not_a_fit(path, f"its version is {fit.get('version')!r}")
        if not content.tensors and not content.is_finished:  # it was only begun
            return
        self._check_identity(path, fit.get("identity"))
        if content.is_finished:
            self.lens = replace(load_lens(path), sums=load_sums(path))
            return
        n_done = fit.get("n_done")
        if type(n_done) is not int or n_done < 0:
            raise not_a_fit(path, f"it has added up {n_done!r} batches")
        self.n_done = n_done
        self.samples = content.tensors.get(SAMPLES)
        for name, value in content.tensors.items():
            if name.startswith(SUMS):
                self.sums[name.removeprefix(SUMS)] = value

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


def not_a_fit(path: Path, reason: str) -> LensError:
    """Return the error for a file that is none of a fit."""
    return LensError(
        f"{str(path)!r} is no file of a fit ({reason}). "
        + say(python="Name another path.", shell="Name another file.")
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
