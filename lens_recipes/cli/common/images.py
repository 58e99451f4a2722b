"""The option --image, and positions that are of images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.options import as_chat, parse_indices
from lens_recipes.terminal import one_line

Images = Annotated[
    list[str] | None,  # no Path, which would take an address for one
    typer.Option(
        "--image",
        metavar="FILE",
        help="An image of the prompt, for a model that takes them; repeat the option for more, in "
        "order. With --chat they stand before the text; else PROMPT has the model's mark for each.",
    ),
]

ImagePositions = Annotated[
    str,
    typer.Option(
        help='Tokens of each prompt: "all", or for example -1, 0,3,-1 or 2:5; with --image also '
        "image, text, or box:LEFT,TOP,RIGHT,BOTTOM in pixels (of the second image: …@1)."
    ),
]

BOX = re.compile(r"box:([^@]*)(?:@(\d+))?")


def parse_positions(text: str) -> Any:
    """Return what the recipes take for "image", "text", "box:0,0,56,56", or as `parse_indices`.

    Raises:
        typer.BadParameter: the text is none of these.
    """
    if text in ("image", "text"):
        return text
    if not text.startswith("box"):
        return parse_indices(text, "--positions")
    found = BOX.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        left, top, right, bottom = (float(edge) for edge in found.group(1).split(","))
        image = int(found.group(2) or 0)  # of thousands of digits: a ValueError
    except ValueError:
        raise typer.BadParameter(
            f"{one_line(repr(text), 80)} is no box like box:0,0,56,56, with the left, top, right "
            "and bottom edge in pixels, or box:0,0,56,56@1 of the second image.",
            param_hint="--positions",
        ) from None
    return {"box": (left, top, right, bottom), "image": image}


def check_images(images: list[str] | None, prompts: list[str], file: Path | None = None) -> None:
    """Refuse images that cannot be read, or of which nobody knows whose they are.

    Before a model is loaded, which can take minutes.

    Raises:
        typer.BadParameter: there are several prompts, or a file of them.
        ValueError: one of them is no image that can be read.
        LensError: pillow is missing.
    """
    if not images:
        return
    if file is not None or len(prompts) != 1:
        raise typer.BadParameter(
            "images go with one PROMPT: give one, and no --prompts.", param_hint="--image"
        )
    check_readable(images)


def check_readable(images: list[str] | None) -> None:
    """Refuse images that cannot be read.

    Raises:
        ValueError: one of them is no image that can be read.
        LensError: pillow is missing.
    """
    if not images:
        return
    from lens_recipes.run.request.images.opened import open_image

    for number, image in enumerate(images):
        open_image(image, number)


def image_files(images: list[str] | None) -> dict[str, str]:
    """Return the files of images, each once, for `check_distinct`: none may be written over."""
    once = {}
    for image in images or []:
        path = os.path.expanduser(image)  # as `path_of` reads it
        once[os.path.realpath(path)] = path
    return {f"image {number}": path for number, path in enumerate(once.values())}


def with_images(prompt: str, images: list[str] | None, *, chat: bool) -> Any:
    """Return a prompt as the recipes take it: a text, or a chat with a part for each image."""
    if not chat:
        return prompt
    if not images:
        return as_chat(prompt)
    parts = [{"type": "image"} for _ in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


def images_argument(images: list[str] | None) -> dict[str, Any]:
    """Return the argument of a recipe for the images of its one prompt; nothing without any."""
    return {"images": [images]} if images else {}
