"""Positions by what they are of an image: its patches, the text, or what is under a box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.caller import argument, say
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
            f"{as_written(positions)}: these prompts have no images. "
            + say(
                python="Pass images= to the recipe, or positions as numbers.",
                shell="Give one with --image, or positions as numbers.",
            )
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
    if isinstance(selection, str):
        return selection in POSITION_WORDS
    return isinstance(selection, Mapping)


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
            f"{as_written(selection)} selects nothing of prompt {number}: no token of it is there."
        )
    return found


def box_of(selection: Mapping[str, Any]) -> tuple[float, float, float, float, int]:
    """Return the edges of a box, and of which image it is.

    Raises:
        ValueError: it is no box.
    """
    image = selection.get("image", 0)
    if isinstance(image, np.integer):
        image = int(image)
    numbers = edges_of(selection.get("box"))
    are_numbers = all(isinstance(edge, int | float) for edge in numbers)
    has_others = set(selection) - {"box", "image"}
    if len(numbers) != 4 or not are_numbers or has_others or type(image) is not int:
        raise ValueError(
            f"{as_written(selection)} is no box: "
            + say(
                python='it is {"box": (left, top, right, bottom)} in pixels, and perhaps "image" '
                "with the number of the image.",
                shell="it is box:LEFT,TOP,RIGHT,BOTTOM in pixels, and perhaps @ and the number of "
                "the image.",
            )
        )
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise ValueError(
            f"{as_written(selection)}: left must be below right, and top above bottom."
        )
    return left, top, right, bottom, image


def edges_of(box: Any) -> list[Any]:
    """Return what a box holds, as a list; nothing where it is of another sort.

    A row of `result.tokens.box` is a box, too. In a file, an edge that has no end is a text.
    """
    if isinstance(box, np.ndarray | torch.Tensor):
        box = box.tolist()
    if not isinstance(box, list | tuple):
        return []
    edges: list[Any] = []
    for edge in box:
        if isinstance(edge, np.generic):
            edge = edge.item()
        edges.append(float(edge) if edge in ("Infinity", "-Infinity") else edge)
    return edges


def as_written(selection: Any) -> str:
    """Return positions as the caller writes them.

    >>> as_written({"box": (0, 0, 56, 56)})
    "positions={'box': (0, 0, 56, 56)}"
    """
    if not isinstance(selection, Mapping):
        return argument("positions", selection)
    edges, image = edges_of(selection.get("box")), selection.get("image", 0)
    if not edges:
        return argument("positions", dict(selection))
    box = "box:" + ",".join(f"{edge:g}" for edge in edges if isinstance(edge, float))
    return say(
        python=argument("positions", dict(selection)),
        shell=argument("positions", f"{box}@{image}" if image else box),
    )
