"""`@recipe`: make a recipe of the function that prepares its run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.backends.local import LocalSimulationBackend

from lens_recipes.models.handle import exclusive
from lens_recipes.run.remote.wire import send_batches, unpack_arrays
from lens_recipes.run.request.selection import as_list
from lens_recipes.run.run import Arrays, RecipeRun, run_locally

P = ParamSpec("P")
R = TypeVar("R")
NOT_RECORDED = ("model", "prompts", "vectors", "remote", "on_step")  # of a recipe's arguments


def recipe(prepare: Callable[P, RecipeRun[R]]) -> Callable[P, R]:
    """Make a recipe of the function that prepares its run; the recipe performs it, here or there.

    `submit` and `estimate` find the prepared run as `recipe.prepare`.
    """
    signature = inspect.signature(prepare)

    @functools.wraps(prepare)
    def prepare_recorded(*args: P.args, **kwargs: P.kwargs) -> RecipeRun[R]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{prepare.__name__}(): {error}") from None
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            arguments[name] = value if name == "model" else as_list(value)
        run = prepare(**arguments)  # type: ignore[call-arg]
        recorded = {name: value for name, value in arguments.items() if name not in NOT_RECORDED}
        run.arguments = recorded | run.arguments
        run.recipe = prepare.__name__
        return run

    @functools.wraps(prepare)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = prepare_recorded(*args, **kwargs)
        if run.remote and run.remote != "local":
            from lens_recipes.run.remote.jobs import Job  # takes its time to import

            return Job(run).result()
        with exclusive(run.model):
            if run.remote:
                arrays = run_simulated(run)
            elif run.run_here:
                arrays = run.run_here(run)
            else:
                arrays = run_locally(run)
        return run.finish(run, arrays)

    call.prepare = prepare_recorded  # type: ignore[attr-defined]
    return call


def run_simulated(run: RecipeRun[Any]) -> list[Arrays]:
    """Run all batches in this process, as a server would run them."""
    parts = send_batches(run, range(len(run.batches)), LocalSimulationBackend(run.model))
    arrays = []
    for part, schema in zip(parts, run.schemas, strict=True):
        arrays.append(unpack_arrays(part, schema))
    return arrays
