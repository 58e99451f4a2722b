"""Read one tensor of a running model at the tokens that are asked for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lens_recipes.trace.batch import SentPlaces, TokenPlaces
from lens_recipes.trace.operations import first_of, replay
from lens_recipes.trace.plan import ReadStep


def read(model: Any, step: ReadStep, places: TokenPlaces | SentPlaces) -> Tensor:
    """Read one tensor at the tokens asked for; "values" are read whole.

    The value is a copy: some models write on into their own tensors.
    """
    module = model.get(step.module)
    output = module.input if step.side == "in" else module.output
    if step.role == "attention":
        weights = output[step.output] if isinstance(output, (tuple, list)) else output
        there = places.on(weights.device)
        return weights[there.rows, :, there.columns]
    value = first_of(output)
    if step.role == "values":
        return value.clone()
    there = places.on(value.device)
    value = value.reshape(there.n_rows, -1, value.shape[-1])[there.rows, there.columns]
    return replay(model, step.operations, value)
