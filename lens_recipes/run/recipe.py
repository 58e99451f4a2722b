"""The decorator that makes a recipe of the function that prepares its run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.backends.local import LocalSimulationBackend

from lens_recipes.models.handle import exclusive
from lens_recipes.run.registry import RECIPES, RegisteredRecipe
from lens_recipes.run.remote.wire import send_batches, unpack_arrays
from lens_recipes.run.run import Arrays, RecipeRun, run_locally

P = ParamSpec("P")

R = TypeVar("R")


def recipe(*, narrow: str) -> Callable[[Callable[P, RecipeRun[R]]], Callable[P, R]]:
    """Return a decorator that makes a recipe of the function that prepares its run.

    The recipe is registered under the function's name. `submit` and `estimate` find the function
    itself as `recipe.prepare`.

    Args:
        narrow: How a user asks this recipe for less, in words that begin a sentence.
    """

    def decorate(prepare: Callable[P, RecipeRun[R]]) -> Callable[P, R]:
        @functools.wraps(prepare)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return perform(prepare(*args, **kwargs))

        call.prepare = prepare  # type: ignore[attr-defined]
        RECIPES[prepare.__name__] = RegisteredRecipe(prepare, narrow)
        return call

    return decorate


def perform(run: RecipeRun[R]) -> R:
    """Perform a run where it is to run, and return the recipe's result."""
    if run.remote and run.remote != "local":
        # Only now: what it speaks to a server with takes its time to import.
        from lens_recipes.run.remote.jobs.job import Job

        return Job(run).result()
    with exclusive(run.model):
        if run.remote:
            found = run_simulated(run)
        elif run.here is not None:
            found = run.here()
        else:
            found = run_locally(run)
    return run.finish(found)


def run_simulated(run: RecipeRun[Any]) -> list[Arrays]:
    """All batches in this process, as a server would run them."""
    found = send_batches(run, range(len(run.batches)), LocalSimulationBackend(run.model))
    return [unpack_arrays(part, schema) for part, schema in zip(found, run.schemas, strict=True)]
