"""Try other kernels than those that are chosen for a device, as the sweep of a benchmark does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lens_recipes.trace.kernels import GROUP_COLUMNS, Kernels

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
