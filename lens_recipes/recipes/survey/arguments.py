"""Check the arguments of a survey, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.statistics.resampling import Resampling
from lens_recipes.arrays.survey.arrays import CONTROLS, Shown
from lens_recipes.arrays.survey.curves import Draws
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.caller import argument
from lens_recipes.run.request.prompts import is_token_id, shortened

MAX_RESAMPLES = 10**7
MAX_SEED = 2**63 - 1  # as files hold it
MAX_CONFIDENCE = 0.999999  # more, and rounding decides


def check_model(model: Any) -> None:
    """Raise a ValueError unless this is a model."""
    if model is None:
        raise ValueError("survey needs a model: what load() returns.")
    if not isinstance(model, Envoy):
        raise ValueError(
            f"received {shortened(model)} as a model; accepted is what load() returns."
        )


def checked_draws(bootstrap: Any, confidence: Any, seed: Any) -> Draws:
    """Return how intervals are made.

    Raises:
        ValueError: a number that cannot be used, said before anything runs.
    """
    for name, value in (("bootstrap", bootstrap), ("seed", seed)):
        is_whole = is_token_id(value) and int(value) >= 0
        if not is_whole:
            raise ValueError(f"{argument(name, value)} must be a whole number from 0.")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise ValueError(
            f"{argument('confidence', confidence)} must be a number between 0 and 1, such as 0.95."
        )
    Resampling(1, n_resamples=int(bootstrap), confidence=confidence)
    for name, value, most in (
        ("bootstrap", bootstrap, MAX_RESAMPLES),
        ("seed", seed, MAX_SEED),
        ("confidence", confidence, MAX_CONFIDENCE),
    ):
        if value > most:
            raise ValueError(f"{argument(name, value)} must be at most {most}.")
    return Draws(int(bootstrap), float(confidence), int(seed))


def checked_views(metrics: Any, control: Any) -> Shown:
    """Return what views show unless they are asked otherwise.

    Raises:
        ValueError: an unknown metric or control, said before anything runs.
    """
    is_known = isinstance(control, str) and control in CONTROLS
    if control is not None and not is_known:
        known = ", ".join(map(repr, CONTROLS))
        raise ValueError(f"{argument('control', control)} is unknown: accepted are {known}, None.")
    if metrics is None:
        return Shown(None, control)
    several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    names = tuple(metrics) if several else (metrics,)
    for name in names:
        find_name(name, parameter="metrics")
    if not names:
        raise ValueError("metrics is empty: name one or more, or leave it out for all.")
    return Shown(names, control)


def position_of_all(positions: Any) -> int:
    """Return where answers are looked for in items that do not say.

    Raises:
        ValueError: neither "answer" nor a position.
    """
    if isinstance(positions, str) and positions == "answer":
        return -1
    if type(positions) is not int:
        raise ValueError(
            f'{argument("positions", positions)} must be "answer", for the last token, or one '
            "whole number; items may name another."
        )
    return positions


def as_shard(shard: Any) -> tuple[int, int]:
    """Return which part of how many is asked for.

    Raises:
        ValueError: it is no such pair.
    """
    numbers = list(shard) if isinstance(shard, tuple | list) else []
    are_whole = all(type(number) is int for number in numbers)
    if len(numbers) != 2 or not are_whole or not 1 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f"{argument('shard', shard)} must be two whole numbers i and n with i from 1 to n: "
            "(3, 16) is the third of sixteen parts."
        )
    return numbers[0], numbers[1]
