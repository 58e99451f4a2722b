"""Which kernels a run will have, and others to try, as the sweep of a benchmark does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.handle import dtype_of, on_meta
from lens_recipes.trace.kernels import ACCELERATOR, GROUP_COLUMNS, PROCESSOR, Kernels, kernels_for

FLOAT32_BYTES = 4
_asked: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@contextmanager
def with_kernels(kernels: Kernels) -> Iterator[None]:
    """Have the lenses that are asked for within this block read with these kernels.

    Other threads, and what is asked for afterwards, go on as before. They travel with a run's plan.

    Raises:
        ValueError: a tile would cut a group of columns in two.
    """
    if kernels.tile_columns < 1 or kernels.tile_columns % GROUP_COLUMNS:
        raise ValueError(
            f"tile_columns is {kernels.tile_columns}; accepted are multiples of {GROUP_COLUMNS}, "
            "the columns that share a maximum."
        )
    token = _asked.set(kernels)
    try:
        yield
    finally:
        _asked.reset(token)


def kernels_asked() -> Kernels | None:
    """Return the kernels of `with_kernels`; None outside of it, for those of the device."""
    return _asked.get()


def expected_kernels(model: Envoy) -> Kernels:
    """Return the kernels that an estimate expects: those of the device of a model's weights.

    Without weights here nobody knows where it will run; half precision is what accelerators run.
    """
    if not on_meta(model):
        return kernels_for(torch.device(model.device))
    return PROCESSOR if dtype_of(model).itemsize >= FLOAT32_BYTES else ACCELERATOR
