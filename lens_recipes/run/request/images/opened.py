"""Open an image: a path, a PIL image or an array, upright, in RGB, of a sensible size."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lens_recipes.arrays.images import Picture
from lens_recipes.models.images.pillow import check_pillow
from lens_recipes.run.request.prompts import shortened

MAX_PIXELS = 50_000_000  # a picture of 7,000 × 7,000; no processor reads as many
SHOWN_SIDE = 768  # pixels of the longest side of the copy that views show
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
ACCEPTED = "accepted are a path, a PIL image, or an array [row, column, 3] of whole numbers to 255"


class OpenedImage(NamedTuple):
    """An image as the processor takes it, and as views show it.

    Attributes:
        image: A PIL image in RGB, upright.
        picture: What a result keeps of it.
    """

    image: Any
    picture: Picture


def is_image(value: Any) -> bool:
    """Tell whether something may be one image, and no list of them."""
    if isinstance(value, str | bytes | os.PathLike):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        return True
    return hasattr(value, "convert") and hasattr(value, "size")


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
        image = read_file(path)
    elif isinstance(source, np.ndarray | torch.Tensor):
        image = image_of_array(np.asarray(source), name)
    elif hasattr(source, "convert") and hasattr(source, "size"):
        image = source
    else:
        raise ValueError(f"received {shortened(source)} as {name}; {ACCEPTED}.")
    upright = in_rgb(image, name)
    picture = Picture(name, upright.width, upright.height, shown_bytes(upright))
    return OpenedImage(upright, picture)


def path_of(source: str | os.PathLike[str]) -> Path:
    """Return the path that is named.

    Raises:
        ValueError: it is an address, or an image as text.
    """
    text = os.fspath(source)
    if ADDRESS.match(text) and not Path(text).exists():
        raise ValueError(
            f"{shortened(text)} is an address: nothing is fetched from a network. Save the image "
            "and pass its path."
        )
    if len(text) > 4096:
        raise ValueError("an image as text (base64) is not read: pass its path, or a PIL image.")
    return Path(os.path.expanduser(text))


def read_file(path: Path) -> Any:
    """Return the image of a file.

    Raises:
        ValueError: there is none, it is damaged, or too large.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                check_size(image, repr(str(path)))
                refuse_animated(image, repr(str(path)))
                image.load()
                return image
    except Image.DecompressionBombError:
        raise ValueError(
            f"{str(path)!r} is larger than {MAX_PIXELS:,} pixels: make it smaller."
        ) from None
    except (OSError, SyntaxError, EOFError) as error:  # what the readers of formats raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{str(path)!r} cannot be read as an image: {reason}.") from None


def image_of_array(array: np.ndarray, name: str) -> Any:
    """Return an array as an image.

    Raises:
        ValueError: its shape or its numbers are not those of an image.
    """
    from PIL import Image

    if array.dtype != np.uint8:
        raise ValueError(
            f"{name} is an array of {array.dtype}; {ACCEPTED}. Numbers between 0 and 1 are times "
            "255: (255 * array).astype('uint8')."
        )
    is_grey, is_colour = array.ndim == 2, array.ndim == 3 and array.shape[2] in (3, 4)
    if not (is_grey or is_colour) or not array.size:
        raise ValueError(f"{name} is an array of shape {list(array.shape)}; {ACCEPTED}.")
    return Image.fromarray(array)


def check_size(image: Any, name: str) -> None:
    """Raise a ValueError for an image without pixels, or with too many."""
    width, height = image.size
    if not width or not height:
        raise ValueError(f"{name} is {width} × {height} pixels: there is nothing to see.")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {width} × {height} pixels, more than {MAX_PIXELS:,}: make it smaller."
        )


def refuse_animated(image: Any, name: str) -> None:
    """Raise a ValueError for an image of several frames: which of them is meant is not known."""
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(
            f"{name} is animated, of {image.n_frames} frames: save the one that is meant."
        )


def in_rgb(image: Any, name: str) -> Any:
    """Return an image upright and in RGB; what is transparent stands on white.

    Raises:
        ValueError: it cannot be, or has no pixels or too many.
    """
    from PIL import Image, ImageOps

    check_size(image, name)
    refuse_animated(image, name)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has pixels of mode {image.mode}, whose range is not known: convert it to 8 "
            "bits a channel."
        )
    try:
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            upright = Image.alpha_composite(white, upright)
        return upright.convert("RGB")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}.") from None


def shown_bytes(image: Any) -> bytes:
    """Return a copy for views: a PNG or a JPEG, whichever is smaller, of bounded size."""
    from PIL import Image

    copy = image
    if max(image.size) > SHOWN_SIDE:
        copy = image.copy()
        copy.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    written = []
    for options in ({"format": "PNG", "optimize": True}, {"format": "JPEG", "quality": 88}):
        file = io.BytesIO()
        copy.save(file, **options)
        written.append(file.getvalue())
    return min(written, key=len)
