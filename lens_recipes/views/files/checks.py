"""The checks of single fields of a file: what is stored becomes the value, or a ValueError.

Each `read_…` takes what the file holds for a field and the sizes of the axes. It returns the value
of the field. A `write_…` returns what the file holds for a value, where that is not the value
itself.
"""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.attribution import UNITS
from lens_recipes.arrays.axes import Inputs, Part, Response, Site

Sizes = dict[str, int]  # how long each axis is


def read_text(stored: Any, sizes: Sizes) -> str:
    """Return a text."""
    if not isinstance(stored, str):
        raise ValueError(f"{stored!r} is no text")
    return stored


def read_whole_number(stored: Any, sizes: Sizes) -> int:
    """Return a whole number."""
    if not isinstance(stored, int):
        raise ValueError(f"{stored!r} is no whole number")
    return stored


def read_list(stored: Any, sizes: Sizes) -> list[Any]:
    """Return a list."""
    if not isinstance(stored, list):
        raise ValueError(f"{stored!r} is no list")
    return stored


def read_dict(stored: Any, sizes: Sizes) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(stored, dict):
        raise ValueError(f"{stored!r} is no JSON object")
    return stored


def read_texts(stored: Any, sizes: Sizes) -> list[str]:
    """Return a list of texts."""
    for text in read_list(stored, sizes):
        if not isinstance(text, str):
            raise ValueError(f"the texts hold {text!r}, which is no text")
    return stored


def read_token_texts(stored: Any, sizes: Sizes) -> list[str]:
    """Return the texts of the tokens."""
    if len(read_texts(stored, sizes)) != sizes["token"]:
        raise ValueError(f"there are {len(stored)} texts, expected {sizes['token']}")
    return stored


def read_texts_of_ids(stored: Any, sizes: Sizes) -> dict[int, str]:
    """Return id → text. JSON has texts in place of the ids."""
    read_texts(list(read_dict(stored, sizes).values()), sizes)
    return {int(token): text for token, text in stored.items()}


def write_texts_of_ids(texts: dict[int, str]) -> dict[str, str]:
    """Return text of the id → text."""
    return {str(token): text for token, text in texts.items()}


def read_unit(stored: Any, sizes: Sizes) -> str:
    """Return the unit of an attribution."""
    if stored not in UNITS:
        raise ValueError(f"{stored!r} is unknown, expected is one of {', '.join(map(repr, UNITS))}")
    return stored


def read_sources(stored: Any, sizes: Sizes) -> list[list[str]]:
    """Return the texts that heads read from: a list for each prompt, or nothing at all."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    return [read_texts(texts, sizes) for texts in stored]


def read_inputs(stored: Any, sizes: Sizes) -> list[Inputs]:
    """Return what the model was given of each prompt, or nothing at all, as in older files."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    for inputs in stored:
        for name, row in read_dict(inputs, sizes).items():
            if not all(type(value) is int for value in read_list(row, sizes)):
                raise ValueError(f"{name} has an entry that is no whole number")
    return stored


def read_responses(stored: Any, sizes: Sizes) -> list[Response]:
    """Return what was written: a response to each prompt, or nothing at all."""
    _check_one_for_each_prompt(read_list(stored, sizes), sizes)
    return [Response(*read_texts(response, sizes)) for response in stored]


def _check_one_for_each_prompt(stored: list[Any], sizes: Sizes) -> None:
    """Raise a ValueError if a list has entries, but not one for each prompt."""
    if len(stored) not in (0, sizes["prompt"]):
        raise ValueError(f"there are {len(stored)}, expected is one for each prompt, or none")


def read_sites(stored: Any, sizes: Sizes) -> list[Site]:
    """Return the sites of a lens result."""
    sites = [Site(*entry) for entry in read_list(stored, sizes)]
    for site in sites:
        _check_row(site, "site")
    return sites


def read_parts(stored: Any, sizes: Sizes) -> list[Part]:
    """Return the parts of an attribution."""
    parts = [Part(*entry) for entry in read_list(stored, sizes)]
    for part in parts:
        _check_row(part, "part")
    return parts


def _check_row(row: Site | Part, axis: str) -> None:
    """Raise a ValueError if a field of a site or a part is not what it can hold."""
    for name, value in row._asdict().items():
        if name == "component":
            is_valid = isinstance(value, str)
        else:
            is_valid = value is None or isinstance(value, int)
        if not is_valid:
            raise ValueError(f"{list(row)!r} is no {axis}: its {name} is not what is expected")
