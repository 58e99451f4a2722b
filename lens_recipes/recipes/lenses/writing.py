"""Text that the model writes to be fitted on, in parts that are kept one by one."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from lens_recipes.models.handle import exclusive
from lens_recipes.recipes.lenses.prepare import Fit
from lens_recipes.recipes.lenses.state import FitState
from lens_recipes.recipes.lenses.text.rows import Row
from lens_recipes.recipes.lenses.text.samples import (
    ROWS_AT_ONCE,
    refuse_elsewhere,
    rows_as_read,
    write_rows,
)
from lens_recipes.run.progress import progress


class Part(NamedTuple):
    """Some rows that are written side by side.

    Attributes:
        number: Which part it is; its seed follows from it.
        n_rows: How many rows.
        end: How many rows there are with it.
    """

    number: int
    n_rows: int
    end: int


def written_rows(fit: Fit, state: FitState) -> list[Row]:
    """Return rows that the model writes, after those that it has written before.

    Raises:
        LensError: it cannot write, or not here.
    """
    refuse_elsewhere(fit.request.model)
    n_written = 0 if state.samples is None else len(state.samples)
    waiting = [part for part in parts_of(fit.n_rows) if part.end > n_written]
    sizes = [part.n_rows for part in waiting]
    with progress(waiting, "fit_lens, writing text", sizes) as parts:
        for part in parts:
            seed = sample_seed(fit.task.seed, fit.identity["shard"], part.number)
            with exclusive(fit.request.model):
                rows = write_rows(fit.request.model, part.n_rows, fit.row_length, seed)
            state.add_samples(rows)
    assert state.samples is not None  # at least one row is written
    return rows_as_read(fit.request.model, state.samples)


def parts_of(n_rows: int) -> list[Part]:
    """Return rows in parts that are as large as may be, and about equal."""
    n_parts = -(-n_rows // ROWS_AT_ONCE)
    parts = []
    end = 0
    for number in range(n_parts):
        size = n_rows // n_parts + (number < n_rows % n_parts)
        end += size
        parts.append(Part(number, size, end))
    return parts


def sample_seed(seed: int, shard: list[int] | None, number: int) -> int:
    """Return the seed of one part of the text, which no other part has."""
    text = f"{seed} {shard} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
