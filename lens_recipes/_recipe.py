"""What makes a recipe of the function that prepares its run: the run is performed, here or on a server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .models import exclusive
from .run import Run, in_turn, simulated

P = ParamSpec("P")
R = TypeVar("R")


def recipe(prepare: Callable[P, Run[R]]) -> Callable[P, R]:
    """Make a recipe of the function that prepares its run; `submit` and `estimate` find that as `recipe.prepare`."""

    @functools.wraps(prepare)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = prepare(*args, **kwargs)
        if run.remote and run.remote != "local":
            from .jobs import Job  # only now: what it speaks to a server with takes its time to import

            return Job(run).result()
        with exclusive(run.model):
            found = simulated(run) if run.remote else run.here() if run.here else in_turn(run)
        return run.finish(found)

    call.prepare = prepare  # type: ignore[attr-defined]
    return call
