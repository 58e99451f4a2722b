"""Check what a file says of a lens's alignment, before any view shows it."""

from __future__ import annotations

import math
from typing import Any

from lens_recipes.arrays.lens_alignment import KINDS, MEAN, LensAlignment
from lens_recipes.arrays.streams import EMBEDDING

MAX_COUNT = 2**53
MAX_LAYERS = 10_001
MAX_NATS = 1e6
MAX_TEXT = 64
ROUNDING = 1e-3  # by which a cosine may be beyond 1


def read_alignment(stored: Any) -> LensAlignment | None:
    """Return the alignment that a file holds, or None where it has none.

    Raises:
        ValueError: names what is wrong, as the end of a sentence about the file.
    """
    if stored is None:
        return None
    if not isinstance(stored, dict):
        raise ValueError("its alignment is no object")
    n_layers = len(_layers(stored.get("layers")))
    for name in ("alignment", "control"):
        by_kind = stored.get(name)
        if not isinstance(by_kind, dict) or set(by_kind) != {*KINDS, MEAN}:
            raise ValueError(f"the {name} of its alignment has not {', '.join(KINDS)} and {MEAN}")
        for kind, spread in by_kind.items():
            _check_spread(spread, n_layers, f"{name} by {kind}", 1 + ROUNDING)
    for name in ("drop", "drop_control"):
        _check_spread(stored.get(name), n_layers, name, MAX_NATS)
    for name in ("n_stimuli", "n_prompts", "n_tokens"):
        count = stored.get(name, 0)
        if type(count) is not int or not 0 <= count <= MAX_COUNT:
            raise ValueError(f"{name} of its alignment is no whole number from 0")
    for name in ("kind", "digest"):
        text = stored.get(name, "")
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ValueError(f"{name} of its alignment is no text of at most {MAX_TEXT}")
    _check_settings(stored)
    return LensAlignment.from_json(stored)


def _check_settings(stored: dict[str, Any]) -> None:
    """Raise a ValueError unless scale and answer are what a measurement can have."""
    scale, answer = stored.get("scale", 0.0), stored.get("answer", "model")
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not 0 <= scale <= MAX_NATS:
        raise ValueError("scale of its alignment is no number from 0")
    if answer != "model" and (type(answer) is not int or not 1 <= answer <= MAX_COUNT):
        raise ValueError("answer of its alignment is neither 'model' nor a number of tokens")


def _layers(stored: Any) -> list[int]:
    """Return the layers of an alignment."""
    if not isinstance(stored, list) or len(stored) > MAX_LAYERS:
        raise ValueError("its alignment has no layers")
    for layer in stored:
        if type(layer) is not int or not EMBEDDING <= layer < MAX_LAYERS:
            raise ValueError("the layers of its alignment are no numbers of layers")
    if len(set(stored)) != len(stored):
        raise ValueError("a layer of its alignment is there twice")
    return stored


def _check_spread(stored: Any, n_layers: int, name: str, most: float) -> None:
    """Raise a ValueError unless there are means and intervals, a number for each layer."""
    if not isinstance(stored, dict):
        raise ValueError(f"{name} of its alignment has no means")
    for part in ("mean", "low", "high"):
        numbers = stored.get(part)
        if not isinstance(numbers, list) or len(numbers) != n_layers:
            raise ValueError(
                f"{part} of {name} of its alignment has not one number for each of {n_layers} "
                "layers"
            )
        for number in numbers:
            if number is None or (number in ("Infinity", "-Infinity") and most >= MAX_NATS):
                continue
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and (math.isnan(number) or abs(number) <= most):
                continue
            raise ValueError(f"{part} of {name} of its alignment has what is no such number")
