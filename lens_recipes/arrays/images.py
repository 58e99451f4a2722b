"""The images of a prompt, and where in them each image token is."""

from __future__ import annotations

from typing import NamedTuple

NOWHERE = float("nan")


class Picture(NamedTuple):
    """An image of a prompt, as a view shows it.

    Attributes:
        name: What it is called: the name of its file, or "image 0".
        width, height: Of the original, in pixels; boxes are in these.
        data: The bytes of a PNG or JPEG of it, which may be smaller.
    """

    name: str
    width: int
    height: int
    data: bytes


class ImagePlace(NamedTuple):
    """Where an image token is: in which image of its prompt, and where in it.

    Attributes:
        image: Number of the image in its prompt; −1 for a token of no image.
        tile: Number of the tile of an image that is cut into several, −1 for the whole image.
        row, column: Of the patch in its tile's grid; −1 for a token without a place, such as a
            line's end, or one that looks at the whole image.
        left, top, right, bottom: The box of the patch in pixels of the original; NaN without a
            place.
    """

    image: int = -1
    tile: int = -1
    row: int = -1
    column: int = -1
    left: float = NOWHERE
    top: float = NOWHERE
    right: float = NOWHERE
    bottom: float = NOWHERE


NO_PLACE = ImagePlace()
