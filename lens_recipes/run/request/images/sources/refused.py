"""Images that are not read, whichever way they come, and why."""

from __future__ import annotations

from typing import Any

from lens_recipes.caller import say

MAX_PIXELS = 50_000_000  # a picture of 7,000 × 7,000; no processor reads as many
# Some processors enlarge the shorter side to theirs, and others pad to a square, whatever it takes.
MAX_RATIO = 1_000
MAX_SIDE = 20_000


def check_size(image: Any, name: str) -> None:
    """Raise a ValueError for an image without pixels, with too many, or for a mere strip."""
    width, height = image.size
    check_sides(width, height, name)


def check_sides(width: int, height: int, name: str) -> None:
    """Raise a ValueError for a size that no model sees anything of, or that fills the memory."""
    if not width or not height:
        raise ValueError(f"{name} is {width} × {height} pixels: there is nothing to see.")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is {width} × {height} pixels, more than {MAX_PIXELS:,}: make it smaller."
        )
    longer, shorter = max(width, height), min(width, height)
    if longer > MAX_SIDE:
        raise ValueError(
            f"{name} is {width} × {height} pixels, and no side may have more than {MAX_SIDE:,}: "
            "make it smaller, or cut it."
        )
    if longer > MAX_RATIO * shorter:
        raise ValueError(
            f"{name} is {width} × {height} pixels, a strip more than {MAX_RATIO:,} times as long "
            "as it is wide: cut it into several images."
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
    if getattr(image, "format", None) == "MPO":
        return 1
    return max(1, getattr(image, "n_frames", 1))  # Photoshop counts layers, and may have none


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
