"""The lens in a file's provenance: what it is called, where it is from, and what it was measured.

It is a claim of the file, as all of it: the checks see to it that every view can say it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lens_recipes.arrays.stored_alignment import read_alignment
from lens_recipes.arrays.used_lens import EMBEDDING, LENS_NAMES
from lens_recipes.views.files.schema.checks import is_count, is_layer, is_number
from lens_recipes.views.files.schema.numbers import ROUNDING

MAX_TEXT = 4096  # characters of a path, a digest, or the name of a text
MAX_NATS = 1e6  # far more than any two distributions are apart
MAX_REFITS = 16
SPECIAL = (None, "Infinity")  # how a file says NaN and an infinity
ALL_FIELDS = ("layers", "kl", "agreement", "logit_kl", "logit_agreement")  # of what was measured


def is_short_text(value: Any) -> bool:
    """Tell whether a value is a text that a line has room for."""
    return isinstance(value, str) and len(value) <= MAX_TEXT


def are_streams(value: Any) -> bool:
    """Tell whether a value lists different streams: numbers of blocks, and −1 for the embedding."""
    if not isinstance(value, list):
        return False
    if not all(is_layer(stream) or _is_embedding(stream) for stream in value):
        return False
    return len(set(value)) == len(value)


def _is_embedding(value: Any) -> bool:
    """Tell whether a value stands for the stream before block 0."""
    return type(value) is int and value == EMBEDDING


def are_distances(value: Any) -> bool:
    """Tell whether a value is a list of distances, in nats; rounding may make 0 negative.

    A distance may be infinite, where a lens rules out what the model says, or not be known.
    """
    if not isinstance(value, list):
        return False
    return _are_numbers([each for each in value if each not in SPECIAL], -ROUNDING, MAX_NATS)


def are_shares(value: Any) -> bool:
    """Tell whether a value is a list of numbers from 0 to 1."""
    return _are_numbers(value, 0.0, 1.0)


def _are_numbers(value: Any, least: float, most: float) -> bool:
    """Tell whether a value is a list of finite numbers from `least` to `most`."""
    if not isinstance(value, list):
        return False
    return all(
        is_number(number) and math.isfinite(number) and least <= number <= most for number in value
    )


def are_refits(value: Any) -> bool:
    """Tell whether a value is a list of lists of distances, one for each of a few fits."""
    return isinstance(value, list) and len(value) <= MAX_REFITS and all(map(are_distances, value))


def is_kind(value: Any) -> bool:
    """Tell whether a value is a kind of lens."""
    return isinstance(value, str) and value in LENS_NAMES


def is_measurement(value: Any) -> bool:
    """Tell whether a value is a JSON object, or null for a lens that was not measured."""
    return value is None or isinstance(value, dict)


Checks = dict[str, tuple[Callable[[Any], bool], str]]

KINDS = ", ".join(map(repr, LENS_NAMES))
STREAMS = "a list of different whole numbers from -1"
DISTANCES = f'a list of numbers from 0 to {MAX_NATS:g}, null or "Infinity"'
SHARES = "a list of numbers from 0 to 1"
SHORT_TEXT = f"a text of at most {MAX_TEXT} characters"
COUNT = "a whole number from 0"

LENS_CHECKS: Checks = {
    "kind": (is_kind, f"one of {KINDS}"),
    "source": (is_short_text, SHORT_TEXT),
    "digest": (is_short_text, SHORT_TEXT),
    "layers": (are_streams, STREAMS),
    "first_position": (is_count, COUNT),
    "quality": (is_measurement, "a JSON object, or null"),
}

QUALITY_CHECKS: Checks = {
    "layers": (are_streams, STREAMS),
    "kl": (are_distances, DISTANCES),
    "agreement": (are_shares, SHARES),
    "logit_kl": (are_distances, DISTANCES),
    "logit_agreement": (are_shares, SHARES),
    "refit_kl": (are_refits, f"a list of at most {MAX_REFITS} lists of numbers from 0"),
    "n_tokens": (is_count, COUNT),
    "text": (is_short_text, SHORT_TEXT),
}


def check_used_lens(stored: dict[str, Any]) -> None:
    """Check the lens that a result says it was read with. It may have other keys.

    Raises:
        ValueError: the message names what is wrong.
    """
    if not stored:
        return
    _check_fields(stored, LENS_CHECKS, "lens")
    quality = stored.get("quality")
    if quality is None:
        return
    missing = [name for name in ALL_FIELDS if name not in quality]
    if missing:
        raise ValueError(f"the quality of its lens has no {missing[0]!r}")
    _check_fields(quality, QUALITY_CHECKS, "lens's quality")
    n_layers = len(quality["layers"])
    columns = [quality[name] for name in ALL_FIELDS] + quality.get("refit_kl", [])
    if any(len(column) != n_layers for column in columns):
        raise ValueError(
            f"the quality of its lens has lists of different lengths, expected is {n_layers} each, "
            "a number for each layer"
        )
    read_alignment(quality.get("alignment"))


def _check_fields(stored: dict[str, Any], checks: Checks, owner: str) -> None:
    """Raise a ValueError if a field that is there is not what a run writes."""
    for name, (is_valid, expected) in checks.items():
        if name in stored and not is_valid(stored[name]):
            raise ValueError(
                f"the {name!r} of its {owner} is {stored[name]!r:.80}, expected is {expected}"
            )
