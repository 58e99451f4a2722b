"""Which images go with which prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lens_recipes.arrays.text import counted
from lens_recipes.caller import parameter, say
from lens_recipes.run.request.images.opened import is_image
from lens_recipes.run.request.prompts import shortened


def images_of_prompts(images: Any, n_prompts: int) -> list[list[Any]]:
    """Return the images of each prompt.

    Args:
        images: Of one prompt: an image or a list of them. Of several: a list with an entry for
            each, an image, a list or None. None where there are none, or chats hold their own.
        n_prompts: How many prompts there are.

    Raises:
        ValueError: not one entry for each prompt.
    """
    if images is None:
        return [[] for _ in range(n_prompts)]
    entries = [images] if is_image(images) else listed(images)
    if n_prompts == 1 and all(is_image(entry) for entry in entries):
        return [entries]
    if len(entries) != n_prompts:
        raise ValueError(
            f"received images for {counted(len(entries), 'prompt')}, but there "
            f"{'is' if n_prompts == 1 else 'are'} {n_prompts}: "
            + say(
                python="pass a list with an image, a list of images or None for each prompt.",
                shell="give one prompt with its images.",
            )
        )
    of_each: list[list[Any]] = []
    for entry in entries:
        if entry is None:
            of_each.append([])
        else:
            of_each.append([entry] if is_image(entry) else listed(entry))
    return of_each


def listed(images: Any) -> list[Any]:
    """Return several images as a list.

    Raises:
        ValueError: they are nothing that has several.
    """
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return list(images)
    raise ValueError(
        f"received {shortened(images)} as {parameter('images')}; accepted are a path, a PIL image "
        "or an array of uint8, or lists of them, one for each prompt."
    )
