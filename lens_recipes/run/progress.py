"""Say on a terminal that a run goes on, and how long it may take; nowhere else, and not at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

# Whether a run is part of a longer one that says how far it is.
_is_part: ContextVar[bool] = ContextVar("is_part", default=False)

FIRST_SHOWN_S = 2.0  # a shorter run shows nothing
SHOWN_EVERY_S = 0.5


@contextmanager
def progress(batches: Sequence[T], name: str, sizes: Sequence[float]) -> Iterator[Iterator[T]]:
    """Give the batches, and say while they run which one it is, and how long all may take.

    Args:
        batches: What is run one after the other.
        name: What runs.
        sizes: How much work each batch is, in any unit: the estimate is in proportion.
    """
    if not is_watched() or _is_part.get():
        yield iter(batches)
        return
    display = Display(name, sizes)
    try:
        yield display.through(batches)
    finally:
        display.close()


@contextmanager
def progress_of_items(name: str, n_items: int | None) -> Iterator[Callable[[int], None]]:
    """Say how many items are done, and how long all may take; the runs within say nothing.

    Args:
        name: What runs.
        n_items: How many there are; None where that is not known.

    Yields:
        What is to be told how many more items are done.
    """
    if not is_watched():
        yield lambda n_done: None
        return
    counter = ItemCounter(name, n_items)
    token = _is_part.set(True)
    try:
        yield counter.add
    finally:
        _is_part.reset(token)
        counter.close()


def is_watched() -> bool:
    """Return whether somebody sees stderr as it grows: a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_piped() -> bool:
    """Return whether stderr is neither a terminal nor a notebook: a file, a pipe, nothing."""
    return not is_watched() and not type(sys.stderr).__module__.startswith("ipykernel")


class Display:
    """A line on stderr that is written over again and again, by a thread, until it is closed."""

    def __init__(self, name: str, sizes: Sequence[float]) -> None:
        self.name = name
        self.sizes = list(sizes)
        self.started_at = time.monotonic()
        self.ended_at: list[float] = []  # of each batch that is done
        self.is_over = threading.Event()
        self.n_shown = 0  # characters
        self.thread = threading.Thread(target=self._show, daemon=True)
        self.thread.start()

    def through(self, batches: Sequence[T]) -> Iterator[T]:
        """Yield the batches, and note when each is done."""
        for batch in batches:
            yield batch
            self.ended_at.append(time.monotonic())

    def close(self) -> None:
        """Take the line away."""
        self.is_over.set()
        self.thread.join()

    def words(self, now: float) -> str:
        """Return what is shown at a moment.

        Examples: "logit_lens: 12 s", "logit_lens: batch 3 of 12, 14 s, about 40 s left".
        """
        elapsed_s = now - self.started_at
        if len(self.sizes) < 2:
            return f"{self.name}: {duration(elapsed_s)}"
        n_done = len(self.ended_at)
        number = min(n_done + 1, len(self.sizes))
        words = f"{self.name}: batch {number} of {len(self.sizes)}, {duration(elapsed_s)}"
        if n_done == 0:
            return words
        seconds_per_size = (self.ended_at[-1] - self.started_at) / max(sum(self.sizes[:n_done]), 1)
        total_s = seconds_per_size * sum(self.sizes)
        return f"{words}, about {duration(max(0.0, total_s - elapsed_s))} left"

    def _show(self) -> None:
        """Write the line over itself until the end; runs in a thread of its own."""
        pause_s = FIRST_SHOWN_S
        while not self.is_over.wait(pause_s):
            pause_s = SHOWN_EVERY_S
            self._write(self.words(time.monotonic()))
        if self.n_shown:
            self._write("")

    def _write(self, words: str) -> None:
        """Write a text where the last one was."""
        blanks = " " * max(0, self.n_shown - len(words))
        self.n_shown = len(words)
        try:
            sys.stderr.write(f"\r{words}{blanks}" if words else f"\r{blanks}\r")
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody is there any more
            self.is_over.set()


class ItemCounter(Display):
    """A line on stderr that counts items."""

    def __init__(self, name: str, n_items: int | None) -> None:
        self.n_items = n_items
        self.n_done = 0
        super().__init__(name, [])

    def add(self, n_done: int) -> None:
        """Count more items that are done."""
        self.n_done += n_done

    def words(self, now: float) -> str:
        """Return what is shown at a moment.

        Example: "survey: 512 of 20,000 items, 14 s, about 9 min left".
        """
        elapsed_s = now - self.started_at
        of_all = "" if self.n_items is None else f" of {self.n_items:,}"
        words = f"{self.name}: {self.n_done:,}{of_all} items, {duration(elapsed_s)}"
        if self.n_items is None or not self.n_done:
            return words
        left_s = elapsed_s / self.n_done * max(0, self.n_items - self.n_done)
        return f"{words}, about {duration(left_s)} left"


def duration(seconds: float) -> str:
    """Return a duration as a reader says it.

    >>> duration(12.4), duration(75), duration(7380)
    ('12 s', '1 min 15 s', '2 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def tokens_of(batch: Any) -> int:
    """Return how many tokens a batch runs, padding included; 1 where it is of another sort."""
    inputs = getattr(batch, "inputs", None)
    if not isinstance(inputs, dict) or "input_ids" not in inputs:
        return 1
    return int(inputs["input_ids"].numel())
