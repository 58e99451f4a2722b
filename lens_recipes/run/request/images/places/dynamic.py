"""Images in their own proportions: a grid of as many rows and columns as the image needs."""

from __future__ import annotations

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.run.request.images.places.encoded import Seen
from lens_recipes.run.request.images.places.grids import grid, whole


def qwen_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Qwen's vision models, and of GLM's.

    `image_grid_thw` counts the patches of each image; squares of them are merged into one token
    (`spatial_merge_size`). The tokens go row by row, though the patches within `pixel_values` do
    not, and neither do the windows of Qwen2.5-VL. The image is stretched to whole patches.
    """
    merged = seen.config.vision_config.spatial_merge_size
    found = []
    for image, (frames, height, width) in enumerate(seen.tensor("image_grid_thw")):
        if frames != 1:
            raise ValueError(f"image {image} has {frames} frames")
        canvas = whole(seen.sizes[image])
        found.append(grid(canvas, height // merged, width // merged, image=image))
    return found


def pixtral_places(seen: Seen) -> list[list[ImagePlace]]:
    """Return the places of Pixtral and of Mistral 3.

    `image_sizes` has height and width of each image after it was stretched to whole patches;
    Mistral 3 merges squares of patches. Each row ends with a token of the text.
    """
    side = seen.config.vision_config.patch_size * getattr(seen.config, "spatial_merge_size", 1)
    found = []
    for image, (height, width) in enumerate(seen.tensor("image_sizes")):
        found.append(grid(whole(seen.sizes[image]), height // side, width // side, image=image))
    return found
