"""Positions by what they are of an image: its patches, the text, or what is under a box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.caller import argument
from lens_recipes.run.provenance import POSITION_WORDS


def image_positions(positions: Any, places: list[list[ImagePlace]], n_prompts: int) -> Any:
    """Return positions as numbers, where they are words or a box.

    Args:
        positions: As a caller gives them: one selection, or a list with one for each prompt.
        places: Where each token is, `[prompt][position]`; empty without images.
        n_prompts: How many prompts there are.

    Raises:
        ValueError: there are no images, nothing is selected, or it is no box.
    """
    if _is_of_images(positions):
        selections = [positions] * n_prompts
    elif isinstance(positions, list | tuple) and any(_is_of_images(each) for each in positions):
        selections = list(positions)
    else:
        return positions
    if not places:
        raise ValueError(
            f"{argument('positions', positions)}: these prompts have no images. Pass images= to "
            "the recipe, or positions as numbers."
        )
    if len(selections) != n_prompts:
        raise ValueError(
            f"received positions for {len(selections)} prompts, but there are {n_prompts}."
        )
    chosen = []
    for number, selection in enumerate(selections):
        if _is_of_images(selection):
            selection = selected(selection, places[number], number)
        chosen.append(selection)
    return chosen


def _is_of_images(selection: Any) -> bool:
    """Tell whether a selection speaks of images."""
    return (
        selection in POSITION_WORDS
        if isinstance(selection, str)
        else isinstance(selection, Mapping)
    )


def selected(selection: Any, places: list[ImagePlace], number: int) -> list[int]:
    """Return the positions of one prompt that a selection means.

    Raises:
        ValueError: there are none, or it is no box.
    """
    if selection == "image":
        found = [at for at, place in enumerate(places) if place.image >= 0]
    elif selection == "text":
        found = [at for at, place in enumerate(places) if place.image < 0]
    else:
        left, top, right, bottom, image = box_of(selection)
        found = []
        for at, place in enumerate(places):
            is_under = place.left < right and place.right > left
            is_under &= place.top < bottom and place.bottom > top
            if place.image == image and place.row >= 0 and is_under:
                found.append(at)
    if not found:
        raise ValueError(
            f"{argument('positions', selection)} selects nothing of prompt {number}: no token of "
            "it is there."
        )
    return found


def box_of(selection: Mapping[str, Any]) -> tuple[float, float, float, float, int]:
    """Return the edges of a box, and of which image it is.

    Raises:
        ValueError: it is no box.
    """
    box, image = selection.get("box"), selection.get("image", 0)
    numbers = list(box) if isinstance(box, list | tuple) else []
    are_numbers = all(isinstance(edge, int | float) for edge in numbers)
    has_others = set(selection) - {"box", "image"}
    if len(numbers) != 4 or not are_numbers or has_others or type(image) is not int:
        raise ValueError(
            f'{argument("positions", dict(selection))} is no box: it is {{"box": (left, top, '
            'right, bottom)}} in pixels, and perhaps "image" with the number of the image.'
        )
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise ValueError(
            f"{argument('positions', dict(selection))}: left must be below right, and top above "
            "bottom."
        )
    return left, top, right, bottom, image
