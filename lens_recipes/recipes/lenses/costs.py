"""How long a fit may take in this process: a little of each part of it is tried."""

from __future__ import annotations

from typing import Any

import torch

from lens_recipes.lenses.solve.linear import Moments, ridge_fit
from lens_recipes.recipes.lenses.estimators.estimator import seconds_of
from lens_recipes.recipes.lenses.prepare import Fit
from lens_recipes.recipes.lenses.quality import measure, tokens_to_read
from lens_recipes.recipes.lenses.text.rows import Row, RowSets
from lens_recipes.recipes.lenses.text.samples import ROWS_AT_ONCE, rows_as_read, write_rows
from lens_recipes.trace.transport import IDENTITY

TRIED_STEPS = 4  # of a text that is written
TRIED_TOKENS = 8  # that are decoded at all layers
LENSES = 4  # the logit lens, the lens and its two halves
SOLUTIONS = 7  # of each layer: some ridges for two halves, and the whole


def seconds_of_fit(fit: Fit, rows: RowSets, batches: list[Any]) -> float:
    """Return about how long a fit takes here, its text and its measure included."""
    seconds = fit.estimator.seconds(batches)
    if fit.writes:
        seconds += seconds_of_writing(fit)
    return seconds + seconds_of_solving(fit) + seconds_of_measuring(fit, rows)


def seconds_of_writing(fit: Fit) -> float:
    """Return how long the model writes its text: a few tokens of a part of it are tried."""
    n_rows = min(ROWS_AT_ONCE, fit.n_rows)

    def write() -> None:
        write_rows(fit.request.model, n_rows, 1 + TRIED_STEPS, seed=0)

    per_token = seconds_of(write) / (n_rows * TRIED_STEPS)
    return per_token * fit.n_rows * fit.row_length


def seconds_of_solving(fit: Fit) -> float:
    """Return how long the closed form takes: one layer is tried."""
    if not fit.estimator.solves:
        return 0.0
    width = fit.request.anatomy.d_model
    matrix = torch.eye(width, dtype=torch.float64)
    moments = Moments(matrix, matrix, 1.0, matrix[0], matrix[0], 1.0)
    return SOLUTIONS * len(fit.task.layers) * 2 * seconds_of(lambda: ridge_fit(moments, 1.0))


def seconds_of_measuring(fit: Fit, rows: RowSets) -> float:
    """Return how long the lens is measured: the logit lens of a few tokens is tried."""
    n_tokens = min(fit.n_measured, sum(len(row.ids) for row in rows.held_out))
    if n_tokens == 0:
        return 0.0
    model, layers = fit.request.model, fit.task.layers
    chosen = tokens_to_read(rows.held_out[:1], 0, TRIED_TOKENS)
    as_it_is = dict.fromkeys(layers, IDENTITY)
    passes = seconds_of(lambda: measure(model, layers, [as_it_is], chosen, "", remote=False))
    return passes * n_tokens / TRIED_TOKENS * LENSES / 2


def stand_ins(fit: Fit) -> list[Row]:
    """Return random rows of the shape of those that the model will write."""
    generator = torch.Generator().manual_seed(0)
    shape = (fit.n_rows, fit.row_length)
    ids = torch.randint(fit.request.anatomy.vocab_size, shape, generator=generator)
    return rows_as_read(fit.request.model, ids)
