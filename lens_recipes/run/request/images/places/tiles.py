"""Tiles that each have a grid of their own: InternVL, Aya Vision, Idefics 3 and SmolVLM."""

from __future__ import annotations

import math
import re
import sys

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.run.request.images.places.encoded import Seen
from lens_recipes.run.request.images.places.grids import Canvas, check_even, grid, whole

TILE_NAME = re.compile(r"<row_(\d+)_col_(\d+)>")
WHOLE_NAME = "<global-img>"


def tiles(canvas: Canvas, rows: int, columns: int, side: int, image: int) -> list[ImagePlace]:
    """Return the places of an image's tiles, row by row, each with a square grid of its own.

    Args:
        canvas: What the tiles cover together.
        rows, columns: Of the tiles.
        side: Tokens along each side of a tile.
        image: Number of the image.
    """
    places = []
    for row in range(rows):
        for column in range(columns):
            region = (
                canvas.width * column / columns,
                canvas.height * row / rows,
                canvas.width * (column + 1) / columns,
                canvas.height * (row + 1) / rows,
            )
            tile = row * columns + column
            places += grid(canvas, side, side, image=image, tile=tile, region=region)
    return places


def tiles_and_copy(
    size: tuple[int, int], rows: int, columns: int, side: int, image: int
) -> list[ImagePlace]:
    """Return the places of the tiles of a stretched image, and after them of its small copy.

    An image of one tile is that tile, without a copy.
    """
    canvas = whole(size)
    copy = grid(canvas, side, side, image=image)
    if rows * columns <= 1:
        return copy
    return tiles(canvas, rows, columns, side, image) + copy


def whole_root(number: int) -> int:
    """Return the square root of a number.

    Raises:
        ValueError: it is no whole number.
    """
    root = math.isqrt(number)
    if root * root != number:
        raise ValueError(f"{number} is no square")
    return root


# -- tiles that are chosen by proportions --------------------------------------


def internvl_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of InternVL: `image_seq_length` tokens for each tile."""
    return by_proportions(seen, whole_root(seen.processor.image_seq_length))


def aya_vision_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Aya Vision; `patch_size` of its processor is that of a token."""
    return by_proportions(seen, seen.processor.img_size // seen.processor.patch_size)


def by_proportions(seen: Seen, side: int) -> list[list[ImagePlace]]:
    """Return the places of tiles whose rows and columns are chosen by the image's proportions.

    Only their number stands in the prompt (6 tiles are 2 × 3 or 3 × 2), so the function with which
    the image processor itself chooses is asked (`get_optimal_tiled_canvas`).
    """
    settings = seen.settings
    check_even(settings["size"]["height"], side)
    chosen = vars(sys.modules[type(seen.processor.image_processor).__module__])
    choose = chosen["get_optimal_tiled_canvas"]
    found = []
    for image, size in enumerate(seen.sizes):
        width, height = size
        rows = columns = 1
        if settings["crop_to_patches"] and settings["max_patches"] > 1:
            tile = (settings["size"]["height"], settings["size"]["width"])
            bounds = (settings["min_patches"], settings["max_patches"])
            columns, rows = choose((height, width), tile, *bounds)
        found.append(tiles_and_copy(size, rows, columns, side, image))
    return found


# -- tiles that have names in the prompt ---------------------------------------


def idefics3_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Idefics 3 and SmolVLM, whose prompt names each tile.

    `<row_2_col_1>` stands before the `image_seq_len` tokens of a tile, and `<global-img>` before
    those of the small copy, which is the last of an image. The image is stretched to the tiles.
    """
    length = seen.processor.image_seq_len
    side = whole_root(length)
    check_even(seen.settings["max_image_size"]["longest_edge"], side)
    found: list[list[ImagePlace]] = []
    rows = columns = count = 0
    for position in seen.positions[::length]:
        token = seen.encoded.token_ids[position - 1]
        name = seen.processor.tokenizer.convert_ids_to_tokens(token)
        if name == WHOLE_NAME:
            if count != rows * columns:
                raise ValueError("the tiles of an image are not complete")
            image = len(found)
            found.append(tiles_and_copy(seen.sizes[image], rows, columns, side, image))
            rows = columns = count = 0
            continue
        numbers = TILE_NAME.fullmatch(name)
        if numbers is None:
            raise ValueError(f"{name} is no name of a tile")
        rows, columns = max(rows, int(numbers[1])), max(columns, int(numbers[2]))
        count += 1
    return found
