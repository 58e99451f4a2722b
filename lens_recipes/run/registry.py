"""The recipes by name, for what cannot import them: a job's file, an estimate, an error message.

`@recipe` registers a function here when its module is imported. `lens_recipes.recipes.remote`
imports all of those modules, and whoever needs the whole list comes through there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from lens_recipes.caller import say
from lens_recipes.run.run import RecipeRun

P = ParamSpec("P")

R = TypeVar("R")


@dataclass(frozen=True)
class RegisteredRecipe:
    """A recipe as it was registered.

    Attributes:
        prepare: The function that reads the recipe's arguments and returns its run.
        narrow: How a user asks this recipe for less, in words that begin a sentence.
        narrow_options: The same for a user of its command in a shell; empty where it has none.
    """

    prepare: Callable[..., RecipeRun[Any]]
    narrow: str
    narrow_options: str = ""

    @property
    def how_to_narrow(self) -> str:
        """How the caller asks for less, in Python or in a shell."""
        return say(python=self.narrow, shell=self.narrow_options or self.narrow)


RECIPES: dict[str, RegisteredRecipe] = {}  # by their public names


def prepare_run(recipe: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> RecipeRun[R]:
    """Return the run of a recipe with these arguments, which is ready and not begun.

    Raises:
        ValueError: it is no recipe.
    """
    prepare = getattr(recipe, "prepare", None)
    if prepare is None:
        *others, last = sorted(RECIPES)
        raise ValueError(
            f"received {recipe!r} as the recipe; accepted are the functions {', '.join(others)} "
            f"and {last} themselves, and their arguments after them, as in "
            "submit(logit_lens, model, prompts)."
        )
    run: RecipeRun[R] = prepare(*args, **kwargs)
    return run
