"""Make of any image of PIL what a processor takes: upright, in RGB, on white."""

from __future__ import annotations

import warnings
from typing import Any

from lens_recipes.run.request.images.sources.refused import (
    check_size,
    n_meant,
    refuse_depth,
    refuse_frames,
)
from lens_recipes.terminal import one_line

# Colours that are multiplied with alpha already: what undoes it.
MULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def in_rgb(image: Any, name: str) -> Any:
    """Return an image upright and in RGB; what is transparent stands on white.

    Args:
        image: Of PIL; it is not changed.
        name: What it is called in messages.

    Raises:
        ValueError: it cannot be, or has no pixels, too many, or several frames.
    """
    check_size(image, name)  # before a pixel is decoded
    refuse_depth(image, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a camera noted, and wrongly
            n_frames = n_meant(image)
            rgb = on_white(image) if n_frames == 1 else None
    except Exception as error:  # whatever the reader of a format raises
        reason = one_line(str(error), 200).rstrip(".")
        raise ValueError(f"{name} cannot be read as an image: {reason}.") from None
    refuse_frames(n_frames, name)
    return rgb


def on_white(image: Any) -> Any:
    """Return an image as a camera or a program meant it to be seen, in RGB."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in MULTIPLIED:
        upright = upright.convert(MULTIPLIED[upright.mode])
    if "A" in upright.getbands() or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")
