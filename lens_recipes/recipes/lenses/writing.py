"""Text that the model writes to be fitted on, in parts that are kept one by one."""

from __future__ import annotations

import hashlib

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


def written_rows(fit: Fit, state: FitState) -> list[Row]:
    """Return rows that the model writes, after those that it has written before.

    Raises:
        LensError: it cannot write, or not here.
    """
    refuse_elsewhere(fit.request.model)
    starts = range(0, fit.n_rows, ROWS_AT_ONCE)
    sizes = [min(ROWS_AT_ONCE, fit.n_rows - start) for start in starts]
    n_written = 0 if state.samples is None else len(state.samples) // ROWS_AT_ONCE
    if state.samples is not None and len(state.samples) == fit.n_rows:
        n_written = len(sizes)
    waiting = list(range(n_written, len(sizes)))
    waiting_sizes = [sizes[number] for number in waiting]
    with progress(waiting, "fit_lens, writing text", waiting_sizes) as parts:
        for number in parts:
            with exclusive(fit.request.model):
                seed = sample_seed(fit.task.seed, fit.identity["shard"], number)
                rows = write_rows(fit.request.model, sizes[number], fit.row_length, seed)
            state.add_samples(rows)
    assert state.samples is not None  # at least one row is written
    return rows_as_read(fit.request.model, state.samples)


def sample_seed(seed: int, shard: list[int] | None, number: int) -> int:
    """Return the seed of one part of the text, which no other part has."""
    text = f"{seed} {shard} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
