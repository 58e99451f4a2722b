"""The checks of single fields of a file: what is stored becomes the value, or a ValueError.

Each `read_…` takes what the file holds for a field and the sizes of the axes. It returns the value
of the field. A `write_…` returns what the file holds for a value, where that is not the value
itself.
"""

from __future__ import annotations

import sys
from typing import Any

from lens_recipes.arrays.attribution import UNITS
from lens_recipes.arrays.axes import FINISH_REASONS, Inputs, Response
from lens_recipes.arrays.images import NOWHERE, ImagePlace

Sizes = dict[str, int]  # how long each axis is

MAX_LAYERS = 10_000  # far more than a model has

# -- numbers -----------------------------------------------------------


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that Python can compute with as a float."""
    if isinstance(value, float):
        return True
    return type(value) is int and abs(value) <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Tell whether a value counts something."""
    return type(value) is int and 0 <= value < 2**63


def is_layer(value: Any) -> bool:
    """Tell whether a value is the number of a layer."""
    return type(value) is int and 0 <= value < MAX_LAYERS


def read_layer(stored: Any, sizes: Sizes) -> int:
    """Return the number of a layer."""
    if not is_layer(stored):
        raise ValueError(f"{stored!r:.80} is no layer, expected is a whole number from 0")
    return stored


# -- texts, lists, objects ---------------------------------------------


def read_text(stored: Any, sizes: Sizes) -> str:
    """Return a text."""
    if not isinstance(stored, str):
        raise ValueError(f"{stored!r:.80} is no text")
    return stored


def read_list(stored: Any, sizes: Sizes) -> list[Any]:
    """Return a list."""
    if not isinstance(stored, list):
        raise ValueError(f"{stored!r:.80} is no list")
    return stored


def read_dict(stored: Any, sizes: Sizes) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(stored, dict):
        raise ValueError(f"{stored!r:.80} is no JSON object")
    return stored


def read_texts(stored: Any, sizes: Sizes) -> list[str]:
    """Return a list of texts."""
    for text in read_list(stored, sizes):
        if not isinstance(text, str):
            raise ValueError(f"the texts hold {text!r:.80}, which is no text")
    return stored


# -- fields ------------------------------------------------------------


def read_prompts(stored: Any, sizes: Sizes) -> list[str]:
    """Return the texts of the prompts, of which there is at least one."""
    if not read_texts(stored, sizes):
        raise ValueError("there are none, expected is at least one")
    return stored


def read_token_texts(stored: Any, sizes: Sizes) -> list[str]:
    """Return the texts of the tokens."""
    if len(read_texts(stored, sizes)) != sizes["token"]:
        raise ValueError(f"there are {len(stored)} texts, expected {sizes['token']}")
    return stored


def read_texts_of_ids(stored: Any, sizes: Sizes) -> dict[int, str]:
    """Return id → text. JSON has texts in place of the ids."""
    read_texts(list(read_dict(stored, sizes).values()), sizes)
    texts = {}
    for written_id, text in stored.items():
        if not (written_id.isdecimal() and written_id.isascii() and len(written_id) < 20):
            raise ValueError(f"{written_id!r:.80} is no id of a token")
        texts[int(written_id)] = text
    return texts


def write_texts_of_ids(texts: dict[int, str]) -> dict[str, str]:
    """Return text of the id → text."""
    return {str(token): text for token, text in texts.items()}


def read_unit(stored: Any, sizes: Sizes) -> str:
    """Return the unit of an attribution."""
    if stored not in UNITS:
        accepted = ", ".join(map(repr, UNITS))
        raise ValueError(f"{stored!r:.80} is unknown, expected is one of {accepted}")
    return stored


def read_sources(stored: Any, sizes: Sizes) -> list[list[str]]:
    """Return the texts that heads read from: a list for each prompt, or nothing at all."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    return [read_texts(texts, sizes) for texts in stored]


def read_inputs(stored: Any, sizes: Sizes) -> list[Inputs]:
    """Return what the model was given of each prompt, or nothing at all, as in older files."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    for inputs in stored:
        if "input_ids" not in read_dict(inputs, sizes):
            raise ValueError("there are no input_ids")
        n_positions = len(read_list(inputs["input_ids"], sizes))
        for name, row in inputs.items():
            if set(map(type, read_list(row, sizes))) != {int} or max(map(abs, row)) >= 2**63:
                raise ValueError(f"{name} has an entry that is no whole number, or none at all")
            if len(row) != n_positions:
                raise ValueError(f"{name} has {len(row)} entries for {n_positions} positions")
        if min(inputs["input_ids"]) < 0:
            raise ValueError("input_ids has an entry below 0")
    return stored


def read_places(stored: Any, sizes: Sizes) -> list[list[ImagePlace]]:
    """Return where each token is in the images of its prompt, or nothing at all."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    places = []
    for of_prompt in stored:
        places.append([_read_place(place, sizes) for place in read_list(of_prompt, sizes)])
    return places


def _read_place(stored: Any, sizes: Sizes) -> ImagePlace:
    """Return where one token is; null stands for "nowhere"."""
    numbers = read_list(stored, sizes)
    if len(numbers) != len(ImagePlace._fields):
        raise ValueError(f"{numbers!r:.80} is no place, expected are {list(ImagePlace._fields)}")
    whole, edges = numbers[:4], numbers[4:]
    if any(type(number) is not int or not -1 <= number < 2**31 for number in whole):
        raise ValueError(f"{numbers!r:.80} is no place: it begins with four whole numbers from -1")
    read = []
    for edge in edges:
        is_number = type(edge) in (int, float) and abs(edge) < 2**31
        if edge is not None and not is_number:
            raise ValueError(f"{numbers!r:.80} is no place: it ends with the edges of a box")
        read.append(NOWHERE if edge is None else float(edge))
    return ImagePlace(*whole, *read)


def write_places(places: list[list[ImagePlace]]) -> list[list[list[Any]]]:
    """Return places as lists."""
    return [[list(place) for place in of_prompt] for of_prompt in places]


def read_responses(stored: Any, sizes: Sizes) -> list[Response]:
    """Return what was written: a response to each prompt, or nothing at all."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    responses = [Response(*read_texts(response, sizes)) for response in stored]
    for response in responses:
        if response.finish not in FINISH_REASONS:
            accepted = ", ".join(map(repr, FINISH_REASONS))
            raise ValueError(
                f"a text ended because of {response.finish!r:.80}, expected is one of {accepted}"
            )
    return responses


def _check_one_for_each_prompt(stored: list[Any], sizes: Sizes) -> None:
    """Raise a ValueError if a list has entries, but not one for each prompt."""
    if len(stored) not in (0, sizes["prompt"]):
        raise ValueError(f"there are {len(stored)}, expected is one for each prompt, or none")
