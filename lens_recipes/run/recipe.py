"""`@recipe`: make a recipe of the function that prepares its run, and perform it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.backends.local import LocalSimulationBackend

from lens_recipes.caller import say
from lens_recipes.models.handle import exclusive
from lens_recipes.models.weights.memory import memory_errors_in_words
from lens_recipes.run.registry import RECIPES, RegisteredRecipe
from lens_recipes.run.remote.wire import send_batches, unpack_arrays
from lens_recipes.run.request.selection import as_argument
from lens_recipes.run.run import Arrays, RecipeRun, run_locally

P = ParamSpec("P")
R = TypeVar("R")
# Arguments that are younger than the format of a job's file, which does not hold them: there, the
# prompts are token ids.
LATER_ARGUMENTS = {"generate_lens": ("add_special_tokens",)}
# Arguments that are younger than some saved jobs and results, which are then as they were without
# them: at these values they are not recorded.
YOUNGER_ARGUMENTS = {
    "lens": None,
    "edits": None,
    "controls": None,
    "layer": None,
    "with_bias": False,
    "images": None,
}
# Of a recipe's arguments.
NOT_RECORDED = ("model", "prompts", "images", "vectors", "remote", "on_step")


def recipe(
    *, narrow: str, narrow_options: str = ""
) -> Callable[[Callable[P, RecipeRun[R]]], Callable[P, R]]:
    """Return a decorator that makes a recipe of the function that prepares its run.

    The recipe is registered under the function's name. `submit` and `estimate` find what prepares
    its run as `recipe.prepare`.

    Args:
        narrow: How a user asks this recipe for less, in words that begin a sentence.
        narrow_options: The same for a user of its command in a shell.
    """

    def decorate(prepare: Callable[P, RecipeRun[R]]) -> Callable[P, R]:
        prepare_recorded = record_arguments(prepare)

        @functools.wraps(prepare)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return perform(prepare_recorded(*args, **kwargs))

        call.prepare = prepare_recorded  # type: ignore[attr-defined]
        RECIPES[prepare.__name__] = RegisteredRecipe(prepare_recorded, narrow, narrow_options)
        return call

    return decorate


def record_arguments(prepare: Callable[P, RecipeRun[R]]) -> Callable[P, RecipeRun[R]]:
    """Return a function that prepares a run and notes by which arguments.

    An argument that can be read only once becomes a list, and a number of numpy or torch Python's.
    """
    signature = inspect.signature(prepare)

    @functools.wraps(prepare)
    def prepare_recorded(*args: P.args, **kwargs: P.kwargs) -> RecipeRun[R]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{prepare.__name__}() {error}") from None
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            arguments[name] = value if name == "model" else as_argument(value)
        run = prepare(**arguments)  # type: ignore[call-arg]
        left_out = (*NOT_RECORDED, *LATER_ARGUMENTS.get(prepare.__name__, ()))
        recorded = {name: value for name, value in arguments.items() if name not in left_out}
        run.arguments = without_younger_defaults(recorded | run.arguments)
        run.recipe = prepare.__name__
        return run

    return prepare_recorded


def without_younger_defaults(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without younger ones that nobody has asked for."""
    asked = {}
    for name, value in arguments.items():
        is_default = name in YOUNGER_ARGUMENTS and value == YOUNGER_ARGUMENTS[name]
        if not is_default:
            asked[name] = value
    return asked


def perform(run: RecipeRun[R]) -> R:
    """Perform a run where it is to run, and return the recipe's result."""
    if run.remote and run.remote != "local":
        # Only now: what it speaks to a server with takes its time to import.
        from lens_recipes.run.remote.jobs.job import Job

        return Job(run).result()
    with memory_errors_in_words(how_to_ask_for_less(run)):
        with exclusive(run.model):
            if run.remote:
                arrays = run_simulated(run)
            elif run.run_here is not None:
                arrays = run.run_here(run)
            else:
                arrays = run_locally(run)
        return run.finish(run, arrays)


def how_to_ask_for_less(run: RecipeRun[Any]) -> str:
    """Return what makes a run need less memory, in words that begin a sentence."""
    registered = RECIPES.get(run.recipe)  # what is made of other runs is not
    narrow = "Pass fewer prompts at once" if registered is None else registered.how_to_narrow
    if "max_bytes" in run.arguments:
        narrow += say(python="; a smaller max_bytes bounds the memory for logits", shell="")
    return narrow


def run_simulated(run: RecipeRun[Any]) -> list[Arrays]:
    """Run all batches in this process, as a server would run them."""
    parts = send_batches(run, range(len(run.batches)), LocalSimulationBackend(run.model))
    arrays = []
    for part, schema in zip(parts, run.schemas, strict=True):
        arrays.append(unpack_arrays(part, schema))
    return arrays
