"""Images of one fixed size: the same square grid for each."""

from __future__ import annotations

import math
from typing import Any

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.run.request.images.places.dynamic import pixtral_places
from lens_recipes.run.request.images.places.encoded import Seen
from lens_recipes.run.request.images.places.grids import Canvas, check_even, grid, whole

# Image processors whose steps `resized` knows.
KNOWN = ("CLIPImageProcessor", "SiglipImageProcessor", "LlavaImageProcessor")


def llava_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of LLaVA and VipLLaVA: a grid of patches, row by row.

    A tower may put tokens of its own first (`num_additional_image_tokens`), of which
    "default" drops one: they look at the whole image, and have no place. A LLaVA model may be
    built around Pixtral's tower.
    """
    if seen.config.vision_config.model_type == "pixtral":
        return pixtral_places(seen)
    own = int(getattr(seen.processor, "num_additional_image_tokens", 0))
    if getattr(seen.processor, "vision_feature_select_strategy", "default") == "default":
        own -= 1
    if own < 0:
        raise ValueError("a token is dropped that the tower does not have")
    found = []
    for image, patches in enumerate(patch_grids(seen)):
        found.append([ImagePlace(image)] * own + patches)
    return found


def patch_grids(seen: Seen) -> list[list[ImagePlace]]:
    """Return the patches of each image, row by row: one token for each."""
    height, width = seen.encoded.tensors["pixel_values"].shape[-2:]
    side = seen.config.vision_config.patch_size
    found = []
    for image, size in enumerate(seen.sizes):
        canvas = resized(seen, size)
        if (canvas.width, canvas.height) != (width, height):
            raise ValueError("the processor did something else with the image")
        rows, columns = height // side, width // side  # the rest of an uneven size is not seen
        region = (0, 0, columns * side, rows * side)
        found.append(grid(canvas, rows, columns, image=image, region=region))
    return found


def resized(seen: Seen, size: tuple[int, int]) -> Canvas:
    """Return what is left of an image when it was padded, resized and cut in the centre.

    The steps and their order are those of `PilBackend._preprocess`, and of
    `LlavaImageProcessorPil._preprocess`, which pads to a square first. An image of which only the
    shortest edge is given keeps its proportions, in whole pixels (`get_resize_output_image_size`).

    Raises:
        ValueError: the image processor is one of other steps.
    """
    name = type(seen.processor.image_processor).__name__
    if not name.startswith(KNOWN):
        raise ValueError(f"the steps of {name} are not known")
    settings = seen.settings
    canvas = whole(size)
    if settings["do_pad"] and name.startswith("Llava"):
        canvas = canvas.centred(max(size), max(size))
    elif settings["do_pad"]:
        raise ValueError(f"{name} pads images")
    if settings["do_resize"]:
        canvas = _scaled(canvas, settings["size"])
    if settings["do_center_crop"]:
        canvas = _cropped(canvas, settings["crop_size"], with_pillow=name.endswith("Pil"))
    return canvas


def _cropped(canvas: Canvas, size: Any, *, with_pillow: bool) -> Canvas:
    """Return the middle of a canvas, padded where it is smaller.

    Of an odd number of pixels that are missing, one more is put on the left and at the top by
    pillow (`image_transforms.center_crop`), and on the right and below by torchvision.
    """
    width, height = size["width"], size["height"]
    cropped = canvas.centred(width, height)
    if not with_pillow:
        return cropped
    more_left = max(width - canvas.width, 0) % 2
    more_above = max(height - canvas.height, 0) % 2
    return cropped._replace(left=cropped.left + more_left, top=cropped.top + more_above)


def _scaled(canvas: Canvas, size: Any) -> Canvas:
    """Return a canvas of the size that settings ask for.

    Raises:
        KeyError: they ask for neither width and height nor the shortest edge.
    """
    if size.get("shortest_edge") and size.get("longest_edge"):
        raise ValueError("both edges are bounded")
    if not size.get("shortest_edge"):
        return canvas.stretched(size["width"], size["height"])
    side = size["shortest_edge"]
    if canvas.width <= canvas.height:
        return canvas.stretched(side, int(side * canvas.height / canvas.width))
    return canvas.stretched(int(side * canvas.width / canvas.height), side)


def paligemma_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of PaliGemma: a grid of patches over the stretched image."""
    return patch_grids(seen)


def gemma3_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Gemma 3: squares of patches are averaged into one token.

    The image is stretched to a square. With pan and scan the whole image comes first, and then
    its crops, each on a grid of its own (`Gemma3ImageProcessor.pan_and_scan`).
    """
    side = math.isqrt(seen.config.mm_tokens_per_image)
    check_even(seen.settings["size"]["height"], side)
    found = []
    for image, size in enumerate(seen.sizes):
        canvas = whole(size)
        places = grid(canvas, side, side, image=image)
        for tile, region in enumerate(crops(seen, size)):
            places += grid(canvas, side, side, image=image, tile=tile, region=region)
        found.append(places)
    return found


def crops(seen: Seen, size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """Return the crops that pan and scan makes of an image: left, top, right and bottom.

    A long image is cut into pieces along its longer side; the last may be smaller.
    """
    settings = seen.settings
    if not settings.get("do_pan_and_scan"):
        return []
    width, height = size
    longer, shorter = max(size), min(size)
    smallest = settings["pan_and_scan_min_crop_size"]
    if longer / shorter < settings["pan_and_scan_min_ratio_to_activate"]:
        return []
    number = min(longer // smallest, math.floor(longer / shorter + 0.5))
    number = min(max(2, number), settings["pan_and_scan_max_num_crops"])
    step = math.ceil(longer / number)
    if min(step, shorter) < smallest:
        return []
    found: list[tuple[float, float, float, float]] = []
    for start in range(0, step * number, step):
        end = min(start + step, longer)
        if width >= height:
            found.append((start, 0, end, height))
        else:
            found.append((0, start, width, end))
    return found
