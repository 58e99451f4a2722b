"""Images that are not read, whichever way they come, and why."""

from __future__ import annotations

from typing import Any

from lens_recipes.caller import say

MAX_PIXELS = 50_000_000  # a picture of 7,000 × 7,000; no processor reads as many


def check_size(image: Any, name: str) -> None:
    """Raise a ValueError for an image without pixels, or with too many."""
    width, height = image.size
    if not width or not height:
        raise ValueError(f"{name} is {width} × {height} pixels: there is nothing to see.")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {width} × {height} pixels, more than {MAX_PIXELS:,}: make it smaller."
        )


def refuse_depth(image: Any, name: str) -> None:
    """Raise a ValueError for pixels of 16 or 32 bits: which number is white is not known."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has more than 8 bits a channel (mode {image.mode}), and which number is white "
            "is not known: "
            + say(
                python="scale it to 0…255, as in PIL.Image.fromarray((numpy.asarray(image) / "
                "257).astype('uint8')) for 16 bits.",
                shell="save it with 8 bits.",
            )
        )


def n_meant(image: Any) -> int:
    """Return of how many frames one could be meant.

    In what many telephones write, MPO, the others are the same photograph again, for depth or for a
    larger range.
    """
    return 1 if getattr(image, "format", None) == "MPO" else getattr(image, "n_frames", 1)


def refuse_frames(n_frames: int, name: str) -> None:
    """Raise a ValueError for an image of several frames: which of them is meant is not known."""
    if n_frames > 1:
        raise ValueError(
            f"{name} has {n_frames} frames or pages, and which one is meant is not known: "
            + say(
                python="pass it as a PIL image of its own, such as image.seek(0), then "
                "image.convert('RGB').",
                shell="save the one that is meant.",
            )
        )
