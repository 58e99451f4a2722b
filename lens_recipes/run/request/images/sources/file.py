"""Files as images: what is a path at all, and what is in the file. Nothing is fetched."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from lens_recipes.run.request.images.sources.refused import MAX_PIXELS
from lens_recipes.run.request.images.sources.upright import in_rgb
from lens_recipes.run.request.prompts import shortened
from lens_recipes.terminal import one_line

ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
# How PNG, JPEG, GIF and WebP begin as base64.
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
LONGEST_PATH = 4096
LONGEST_SHOWN = 120  # characters of a path in a message
# Formats for which pillow would run another program.
DRAWN_BY_OTHERS = ("EPS", "WMF")


def path_of(source: str | os.PathLike[str]) -> Path:
    """Return the path that is named.

    Raises:
        ValueError: it is an address, or an image as text.
    """
    text = os.fsdecode(source)
    path = os.path.expanduser(text)
    if os.path.exists(path):  # False, too, for what can be no path
        return Path(path)
    if ADDRESS.match(text):
        raise ValueError(
            f"{shortened(text)} is an address, and nothing is fetched from anywhere: save the "
            "image, and pass its path."
        )
    if text.startswith(BASE64) or len(text) > LONGEST_PATH:
        raise ValueError(
            f"{shortened(text)} is no path, but an image as text (base64), which is not read: "
            "save the image, and pass its path."
        )
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no path of an image.")
    return Path(path)


def read_file(path: Path) -> Any:
    """Return the image of a file, upright and in RGB.

    Raises:
        ValueError: there is none, it is damaged or too large, or as `in_rgb`.
    """
    from PIL import Image, UnidentifiedImageError

    shown = end_of(path)
    if os.path.isdir(path):
        raise ValueError(f"{shown} is a folder: pass the path of an image.")
    if not os.path.isfile(path):
        is_there = os.path.exists(path)
        reason = "no plain file, such as an image is" if is_there else "not there"
        raise ValueError(f"{shown} cannot be read as an image: it is {reason}.")
    Image.init()
    formats = [name for name in Image.OPEN if name not in DRAWN_BY_OTHERS]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is checked, or of its EXIF
            image = Image.open(path, formats=formats)
    except Image.DecompressionBombError:
        raise ValueError(f"{shown} has more than {MAX_PIXELS:,} pixels: make it smaller.") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{shown} is no image, or of a format that is not read, or damaged at its beginning: "
            "save it as PNG or JPEG."
        ) from None
    except Exception as error:  # whatever the reader of a format raises
        reason = getattr(error, "strerror", None) or one_line(str(error), 200)
        raise ValueError(f"{shown} cannot be read as an image: {reason}.") from None
    with image:
        return in_rgb(image, shown)


def end_of(path: Path) -> str:
    """Return a path as a message shows it: the name of its file always, of a long one the end."""
    text = str(path)
    return repr(text if len(text) <= LONGEST_SHOWN else f"…{text[-LONGEST_SHOWN:]}")
