"""The images of a prompt on the page of a report: each once, with the boxes of its patches."""

from __future__ import annotations

import numpy as np

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.views.figures.images.patches import finest, picture_name
from lens_recipes.views.pages.report_fields import PageData, PageImage


def page_images(single: LensArrays, start: int) -> list[PageImage]:
    """Return the images of one prompt, each with the patches of its finest grid.

    Args:
        single: A result of one prompt.
        start: Index of its first token among the tokens of the page.
    """
    tokens = single.tokens
    if tokens.image is None or not tokens.is_image.any():
        return []
    pictures = single.pictures[0] if single.pictures else []
    images = []
    for number in range(max(len(pictures), int(tokens.image.max()) + 1)):
        placed = np.flatnonzero(tokens.has_place & (tokens.image == number))
        note = "its tokens have no place in it"
        if len(placed):
            placed, note = finest(single, placed)
        boxes = np.round(tokens.box[placed].astype(np.float64), 2)
        name, address = f"image {number}", ""
        width, height = np.ceil(boxes[:, 2:].max(axis=0, initial=1)).astype(int).tolist()
        if number < len(pictures):
            picture = pictures[number]
            name = picture_name(picture, number)
            width, height = picture.width, picture.height
            address = picture.address
        patches = (start + placed).tolist()
        images.append(PageImage(name, width, height, address, note, patches, boxes.tolist()))
    return images


def drop_pictures(data: PageData) -> int:
    """Take the pictures out of the data of a page, and return how many there were."""
    n_dropped = 0
    for prompt in data.prompts:
        for image in prompt.images:
            n_dropped += bool(image.address)
            image.address = ""
    return n_dropped
