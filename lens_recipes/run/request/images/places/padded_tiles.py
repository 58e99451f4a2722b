"""Tiles of which the last may be padding: Llama 4."""

from __future__ import annotations

import sys

import torch

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.run.request.images.places.encoded import Seen
from lens_recipes.run.request.images.places.grids import check_even, grid, whole
from lens_recipes.run.request.images.places.tiles import tiles, whole_root


def llama4_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Llama 4: the tiles, row by row, and then a small copy of the image.

    The image keeps its proportions, is in the upper left corner of the tiles, and is not made
    larger than it is, or than one tile; right of it and below is padding, where tokens have no
    place. The steps are those of `Llama4ImageProcessor._preprocess`, with its own functions.
    """
    own = vars(sys.modules[type(seen.processor.image_processor).__module__])
    settings = seen.settings
    tile = settings["size"]["height"]
    side = token_side(seen)
    check_even(tile, side)
    options = {"max_num_chunks": settings["max_patches"], "patch_size": settings["size"]}
    resolutions = torch.tensor(own["find_supported_resolutions"](**options))
    is_enlarged = bool(settings["resize_to_max_canvas"])
    found = []
    for image, (width, height) in enumerate(seen.sizes):
        best = own["get_best_fit"]((height, width), resolutions, resize_to_max_canvas=is_enlarged)
        full_height, full_width = best.tolist()
        largest = (full_height, full_width)
        if not is_enlarged:
            largest = (min(max(height, tile), full_height), min(max(width, tile), full_width))
        new_height, new_width = own["get_max_res_without_distortion"]((height, width), largest)
        inner = whole((width, height)).stretched(max(new_width, 1), max(new_height, 1))
        rows, columns = full_height // tile, full_width // tile
        copy = grid(whole((width, height)), side, side, image=image)
        canvas = inner.framed(full_width, full_height, 0, 0)
        if rows * columns > 1:
            found.append(tiles(canvas, rows, columns, side, image) + copy)
        else:
            found.append(grid(canvas, side, side, image=image))
    return found


def token_side(seen: Seen) -> int:
    """Return the number of tokens along each side of a tile (`replace_image_token`)."""
    height, width = seen.encoded.tensors["pixel_values"].shape[-2:]
    patches = (height // seen.processor.patch_size) * (width // seen.processor.patch_size)
    return whole_root(int(patches // seen.processor.downsample_ratio))
