"""What makes a recipe of the function that prepares its run: the run is performed, here or on a server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.backends.local import LocalSimulationBackend

from lens_recipes.models.handle import exclusive
from lens_recipes.run.remote.wire import send_batches, unpack_arrays
from lens_recipes.run.run import Arrays, RecipeRun, run_locally

P = ParamSpec("P")

R = TypeVar("R")


def recipe(prepare: Callable[P, RecipeRun[R]]) -> Callable[P, R]:
    """Make a recipe of the function that prepares its run; `submit` and `estimate` find that as `recipe.prepare`."""

    @functools.wraps(prepare)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = prepare(*args, **kwargs)
        if run.remote and run.remote != "local":
            from lens_recipes.run.remote.jobs import (
                Job,  # only now: what it speaks to a server with takes its time to import
            )

            return Job(run).result()
        with exclusive(run.model):
            found = (
                run_simulated(run) if run.remote else run.here() if run.here else run_locally(run)
            )
        return run.finish(found)

    call.prepare = prepare  # type: ignore[attr-defined]
    return call


def run_simulated(run: RecipeRun[Any]) -> list[Arrays]:
    """All batches in this process, as a server would run them."""
    found = send_batches(run, range(len(run.batches)), LocalSimulationBackend(run.model))
    return [unpack_arrays(part, schema) for part, schema in zip(found, run.schemas, strict=True)]
