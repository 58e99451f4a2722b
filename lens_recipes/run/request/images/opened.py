"""Open an image: a path, a PIL image or an array, upright, in RGB, of a sensible size."""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

import numpy as np
import torch

from lens_recipes.arrays.images import Picture
from lens_recipes.models.images.pillow import check_pillow
from lens_recipes.run.request.images.sources.array import ACCEPTED, image_of_array
from lens_recipes.run.request.images.sources.file import path_of, read_file
from lens_recipes.run.request.images.sources.upright import in_rgb
from lens_recipes.run.request.prompts import shortened

SHOWN_SIDE = 768  # pixels of the longest side of the copy that views show
FEW_COLOURS = 256  # a drawing, of which a PNG is small and keeps the edges


class OpenedImage(NamedTuple):
    """An image as the processor takes it, and as views show it.

    Attributes:
        image: A PIL image in RGB, upright.
        picture: What a result keeps of it.
    """

    image: Any
    picture: Picture


def is_image(value: Any) -> bool:
    """Tell whether something is meant as one image, and not as a list of them."""
    if isinstance(value, str | bytes | os.PathLike | io.IOBase):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "OUS"  # an array of paths is a list
    return isinstance(value, torch.Tensor) or _is_pil(value)


def _is_pil(value: Any) -> bool:
    """Tell whether something is an image of PIL, without importing it."""
    return hasattr(value, "convert") and hasattr(value, "size") and hasattr(value, "mode")


def open_image(source: Any, number: int) -> OpenedImage:
    """Open one image.

    Args:
        source: A path, a PIL image, or an array.
        number: Which of its prompt's images it is, for its name and for messages.

    Raises:
        ValueError: it is no image that can be read, or too large.
        LensError: pillow is missing.
    """
    check_pillow()
    name = f"image {number}"
    if isinstance(source, str | os.PathLike):
        path = path_of(source)
        name = path.name
        upright = read_file(path)
    elif isinstance(source, np.ndarray | torch.Tensor):
        upright = in_rgb(image_of_array(source, name), name)
    elif _is_pil(source):
        upright = in_rgb(source, name)
    elif isinstance(source, bytes | io.IOBase):
        raise ValueError(
            f"{name} is the content of a file, as {type(source).__name__}; {ACCEPTED}. PIL opens "
            "it: PIL.Image.open(io.BytesIO(content))."
        )
    else:
        raise ValueError(f"received {shortened(source)} as {name}; {ACCEPTED}.")
    picture = Picture(name, upright.width, upright.height, shown_bytes(upright))
    return OpenedImage(upright, picture)


def shown_bytes(image: Any) -> bytes:
    """Return a copy for views, of bounded size: a PNG of a drawing, a JPEG of a photograph.

    It has the pixels alone: no place or date that a camera wrote down.
    """
    from PIL import Image

    copy = image.copy()
    copy.info = {}
    if max(copy.size) > SHOWN_SIDE:
        copy.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if copy.getcolors(FEW_COLOURS) is not None:
        copy.save(file, format="PNG")
    else:
        copy.save(file, format="JPEG", quality=88)
    return file.getvalue()
