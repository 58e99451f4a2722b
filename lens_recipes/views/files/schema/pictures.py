"""The images of a file: small pictures as base64, and where in them each image token is."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Tokens
from lens_recipes.arrays.images import ImagePlace, Picture, picture_header
from lens_recipes.views.files.schema.checks import Sizes, read_dict, read_list, read_text

IMAGE_COLUMNS = ImagePlace._fields

# Far above what there is. A figure has a cell for each row and column of a tile.
MAX_SIDE = 10_000_000  # pixels of the original
MAX_GRID = 100_000
MAX_IMAGES = 10_000  # of a prompt, and tiles of an image


def write_pictures(pictures: list[list[Picture]]) -> list[list[dict[str, Any]]]:
    """Return what the file holds of the pictures of each prompt."""
    written = []
    for of_prompt in pictures:
        entries = []
        for picture in of_prompt:
            data = base64.b64encode(picture.data).decode()
            entries.append({**picture._asdict(), "data": data})
        written.append(entries)
    return written


def read_pictures(stored: Any, sizes: Sizes) -> list[list[Picture]]:
    """Return the pictures of each prompt, `[prompt][image]`, or nothing at all."""
    if len(read_list(stored, sizes)) not in (0, sizes["prompt"]):
        raise ValueError(f"there are those of {len(stored)} prompts, expected is each, or none")
    pictures = []
    for of_prompt in stored:
        if len(read_list(of_prompt, sizes)) > MAX_IMAGES:
            raise ValueError(f"a prompt has {len(of_prompt):,} images")
        pictures.append([_read_picture(entry, sizes) for entry in of_prompt])
    return pictures


def _read_picture(stored: Any, sizes: Sizes) -> Picture:
    """Return a picture whose bytes are those of a PNG or JPEG."""
    if set(read_dict(stored, sizes)) != set(Picture._fields):
        raise ValueError(f"a picture has the fields {list(Picture._fields)}, and no others")
    for name in ("width", "height"):
        if type(stored[name]) is not int or not 0 < stored[name] < MAX_SIDE:
            raise ValueError(f"{stored[name]!r:.80} is no {name} of an image")
    try:
        data = base64.b64decode(read_text(stored["data"], sizes), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture is no base64: {error}") from None
    picture_header(data)
    name = read_text(stored["name"], sizes)
    return Picture(name, stored["width"], stored["height"], data)


def check_places(tokens: Tokens, pictures: list[list[Picture]]) -> None:
    """Check that tokens are in images that there are, and that each place is one.

    Raises:
        ValueError: they are not.
    """
    if tokens.image is None or tokens.tile is None or tokens.row is None or tokens.column is None:
        return
    for name, column, limit in (
        ("image", tokens.image, MAX_IMAGES),
        ("tile", tokens.tile, MAX_IMAGES),
        ("row", tokens.row, MAX_GRID),
        ("column", tokens.column, MAX_GRID),
    ):
        if column.min(initial=-1) < -1 or column.max(initial=-1) >= limit:
            raise ValueError(f"token_{name} holds numbers that are of no {name}")
    if pictures:
        n_images = np.array([len(of_prompt) for of_prompt in pictures])
        if (tokens.image >= n_images[tokens.prompt]).any():
            raise ValueError("token_image: a token is in an image that its prompt does not have")
    has_place = tokens.has_place
    if (has_place != (tokens.column >= 0)).any() or (has_place & ~tokens.is_image).any():
        raise ValueError("token_row: a token has a row and no column, or no image")
    _check_boxes(tokens.box, has_place)


def _check_boxes(box: NDArray[np.float32], has_place: NDArray[np.bool_]) -> None:
    """Check that each token with a place has a box, and no other has."""
    if np.isfinite(box[~has_place]).any():
        raise ValueError("token_left: a token without a place has a box")
    left, top, right, bottom = box[has_place].T
    if not np.isfinite(box[has_place]).all() or (np.abs(box[has_place]) > MAX_SIDE).any():
        raise ValueError("token_left: a token with a place has no box in its image")
    if (left >= right).any() or (top >= bottom).any():
        raise ValueError("token_right: a box ends before it begins")
