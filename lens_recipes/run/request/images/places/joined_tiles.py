"""Tiles that are joined into one grid again: LLaVA-NeXT and LLaVA-OneVision."""

from __future__ import annotations

import math

from transformers.image_processing_utils import select_best_resolution

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.run.request.images.places.encoded import Seen
from lens_recipes.run.request.images.places.grids import (
    Canvas,
    grid,
    spans,
    uneven_grid,
    whole,
)

ALMOST = 1.1  # a grid that is larger by less is not made smaller
TINY = 1e-9  # of a tile: what is lost to rounding


def llava_next_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of LLaVA-NeXT: a small copy of the image, then the joined tiles.

    The copy is stretched to a square. The joined tiles are one grid, whose rows go across the
    tiles, and each row ends with a token that stands for the line's end and has no place
    (`LlavaNextModel.pack_image_features`).
    """
    return [copy_and_tiles(seen, image) for image in range(len(seen.sizes))]


def llava_onevision_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of LLaVA-OneVision: as LLaVA-NeXT, but for two things.

    A grid of more patches than `vision_aspect_ratio` allows is made smaller, evenly. And where the
    processor was given several images together (`batch_num_images`), each is padded to a square
    and only a small copy of it is seen, with one line's end after it.
    """
    counts = seen.tensor("batch_num_images")
    is_alone = [number == 1 for number in counts for _ in range(number)]
    most = int(seen.config.vision_aspect_ratio.removeprefix("anyres_max_"))
    found = []
    for image, size in enumerate(seen.sizes):
        if is_alone[image]:
            found.append(copy_and_tiles(seen, image, most))
            continue
        canvas = whole(size).centred(max(size), max(size))
        found.append([*tile_grid(seen, canvas, image), ImagePlace(image)])
    return found


def tower_side(seen: Seen) -> int:
    """Return the number of patches along each side of a tile."""
    vision = seen.config.vision_config
    return int(vision.image_size // vision.patch_size)


def tile_grid(seen: Seen, canvas: Canvas, image: int) -> list[ImagePlace]:
    """Return the patches of a canvas that is stretched to one tile.

    Pixels at the right and at the bottom that are no whole patch are not seen: of 384 pixels, 27
    patches of 14 are 378.
    """
    pixels = seen.config.vision_config.image_size
    side = tower_side(seen)
    end = side * seen.config.vision_config.patch_size
    stretched = canvas.stretched(pixels, pixels)
    return grid(stretched, side, side, image=image, region=(0, 0, end, end))


def copy_and_tiles(seen: Seen, image: int, most: int | None = None) -> list[ImagePlace]:
    """Return the places of the small copy and of the joined tiles.

    Args:
        seen: The prompt.
        image: Number of the image.
        most: How many tiles' worth of patches are kept; None for all.
    """
    side, pixels = tower_side(seen), seen.config.vision_config.image_size
    size = seen.sizes[image]
    width, height = size
    places = tile_grid(seen, whole(size), image)
    best = select_best_resolution((height, width), seen.settings["image_grid_pinpoints"])
    canvas = fitted(whole(size), width=best[1], height=best[0])
    all_rows, all_columns = best[0] // pixels * side, best[1] // pixels * side
    top, left = without_padding(all_rows, all_columns, size)
    kept_rows, kept_columns = all_rows - 2 * top, all_columns - 2 * left
    rows, columns = kept_rows, kept_columns
    if most is not None:
        ratio = math.sqrt(rows * columns / (most * side**2))
        if ratio > ALMOST:
            rows, columns = int(rows // ratio), int(columns // ratio)
    row_spans = in_pixels(seen, spans(top, top + kept_rows, rows))
    column_spans = in_pixels(seen, spans(left, left + kept_columns, columns))
    patches = uneven_grid(canvas, row_spans, column_spans, image=image, tile=0)
    for row in range(rows):
        places += patches[row * columns : (row + 1) * columns]
        places.append(ImagePlace(image, 0))
    return places


def in_pixels(seen: Seen, patches: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans that are counted in patches of the joined tiles, in pixels of the tiles.

    Between the patches of two tiles are the pixels that neither sees.
    """
    side, pixels = tower_side(seen), seen.config.vision_config.image_size
    patch = seen.config.vision_config.patch_size
    found = []
    for start, end in patches:
        first = math.floor(start / side + TINY)
        last = math.ceil(end / side - TINY) - 1
        left = first * pixels + (start - first * side) * patch
        right = last * pixels + (end - last * side) * patch
        found.append((left, right))
    return found


def fitted(canvas: Canvas, *, width: int, height: int) -> Canvas:
    """Return an image as large as fits into a size, in its middle (`get_patch_output_size`)."""
    wider, higher = width / canvas.width, height / canvas.height
    if wider < higher:
        inner = canvas.stretched(width, min(math.ceil(canvas.height * wider), height))
    else:
        inner = canvas.stretched(min(math.ceil(canvas.width * higher), width), height)
    return inner.centred(width, height)


def without_padding(rows: int, columns: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows, and how many columns, are cut away on each side (`unpad_image`)."""
    width, height = size
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
