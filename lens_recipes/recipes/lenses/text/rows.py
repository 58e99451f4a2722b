"""Rows of token ids: which of them are fitted, which measure the fit, and which go to whom.

What becomes of a row is decided by its own ids alone. So it does not depend on how the text was
shared out, and fits on parts of a text come together to the fit on all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

HELD_OUT_OF = 16  # one row in so many measures the lens, and is not fitted on
ROW_LENGTH = 128  # tokens at most


class Shard(NamedTuple):
    """One of several parts of a text: the part `number` of 1…`n_shards`."""

    number: int
    n_shards: int


class Row(NamedTuple):
    """Some tokens that the model reads by themselves.

    Attributes:
        ids: `[position]`.
        key: What tells it from other rows: a hash of its ids.
    """

    ids: Tensor
    key: int

    @property
    def is_held_out(self) -> bool:
        """Whether it measures the lens."""
        return self.key % HELD_OUT_OF == 0

    @property
    def half(self) -> str:
        """Which half of the text it belongs to: "a" or "b"."""
        return "b" if self.key // HELD_OUT_OF % 2 else "a"

    def is_in(self, shard: Shard | None) -> bool:
        """Return whether it belongs to a part of the text."""
        if shard is None:
            return True
        return self.key // (2 * HELD_OUT_OF) % shard.n_shards == shard.number - 1


class RowSets(NamedTuple):
    """Rows by what they are for.

    Attributes:
        a, b: The two halves that are fitted on.
        held_out: Those that measure the fit.
    """

    a: list[Row]
    b: list[Row]
    held_out: list[Row]

    @property
    def fitted(self) -> list[Row]:
        """The rows that are fitted on."""
        return self.a + self.b


def make_row(ids: Iterable[int] | Tensor) -> Row:
    """Return some ids as a row."""
    tensor = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int32)
    digest = hashlib.sha256(tensor.numpy().tobytes()).digest()
    return Row(tensor, int.from_bytes(digest[:8], "big") >> 1)


def distinct(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each row once: what is said again teaches nothing, and shards are to be disjoint."""
    seen = set()
    for row in rows:
        if row.key not in seen:
            seen.add(row.key)
            yield row


def take_tokens(rows: Iterable[Row], n_tokens: int) -> list[Row]:
    """Return the first rows, up to at least so many tokens, or all that there are."""
    taken = []
    total = 0
    for row in rows:
        taken.append(row)
        total += len(row.ids)
        if total >= n_tokens:
            break
    return taken


def split_rows(rows: list[Row], *, is_whole: bool = True) -> RowSets:
    """Return rows by what they are for.

    Args:
        rows: All rows.
        is_whole: Whether they are a text by itself. A short one may have no row that is held out:
            the one with the smallest key is then. Of a part of a text none is, or the parts would
            not come together to the fit on the whole.
    """
    held_out = [row for row in rows if row.is_held_out]
    if not held_out and is_whole and len(rows) > 3:
        held_out = [min(rows, key=lambda row: row.key)]
    if len(held_out) == len(rows):  # one short text is better fitted than measured
        held_out = []
    held_keys = {row.key for row in held_out}
    fitted = [row for row in rows if row.key not in held_keys]
    return RowSets(
        [row for row in fitted if row.half == "a"],
        [row for row in fitted if row.half == "b"],
        held_out,
    )


def keys_of(rows: Iterable[Row]) -> Tensor:
    """Return the keys of rows, `[row]`."""
    return torch.tensor([row.key for row in rows], dtype=torch.int64)


def digest_of(rows: Iterable[Row]) -> str:
    """Return what tells some rows from any others."""
    return hashlib.sha256(keys_of(rows).numpy().tobytes()).hexdigest()[:16]
