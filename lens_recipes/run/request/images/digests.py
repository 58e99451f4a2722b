"""What tells an image from any other: a result and a survey keep it in place of the pixels."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import torch

from lens_recipes.errors import LensError
from lens_recipes.run.request.images.asked.given import images_of_prompts
from lens_recipes.run.request.images.opened import open_image
from lens_recipes.run.request.images.sources.file import path_of


def image_digest(image: Any) -> str:
    """Return what tells an opened image from any other: its size, and all of its pixels."""
    hashed = hashlib.sha256(f"{image.mode} {image.size}".encode())
    hashed.update(image.tobytes())
    return hashed.hexdigest()[:16]


def source_digest(source: Any) -> str:
    """Return what tells an image that is not opened from any other; of a file, its bytes.

    A file that cannot be read has a digest of its own: whoever opens it says why.
    """
    if isinstance(source, str | os.PathLike):
        try:
            return _short(path_of(source).read_bytes())
        except (OSError, ValueError):
            return _short(b"no file")
    if isinstance(source, torch.Tensor) and source.dtype == torch.uint8 and not source.is_meta:
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray) and source.dtype != object:
        array = np.ascontiguousarray(source)
        return _short(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    if hasattr(source, "tobytes") and hasattr(source, "size"):
        return image_digest(source)
    return _short(repr(type(source)).encode())


def _short(content: bytes) -> str:
    """Return the beginning of a digest."""
    return hashlib.sha256(content).hexdigest()[:16]


# -- a run that is made again ------------------------------------------


def check_recorded(
    recorded: Any, images: Any, what: str, again: str, n_prompts: int | None = None
) -> None:
    """Raise a LensError unless the images of a run are passed again, and no others.

    Args:
        recorded: The digests of its images, `[prompt][image]`, as its record has them; None where
            it had no images.
        images: What is passed now, in the forms of `logit_lens`.
        what: What is of that run, for messages: "this result".
        again: How the images are passed, for messages.
        n_prompts: Of how many of its prompts the images are; None for all.

    Raises:
        LensError: they are others, or missing, or there were none, or the record is damaged.
        ValueError: they are no images that can be read.
    """
    if recorded is None and images is None:
        return
    if recorded is None:
        raise LensError(f"{what} is of prompts without images: leave out images=.")
    if not isinstance(recorded, list) or not all(isinstance(each, list) for each in recorded):
        raise LensError(f"{what} is damaged: the digests of its images are no lists.")
    if images is None:
        raise LensError(
            f"{what} is of prompts with images, and does not keep what the model was given of "
            f"them: pass them again, {again}, as they were."
        )
    if n_prompts is None:
        n_prompts = len(recorded)
    _check_digests(recorded, _digests_of(images, n_prompts))


def _digests_of(images: Any, n_prompts: int) -> list[list[str]]:
    """Return what tells the images of each prompt from others, `[prompt][image]`.

    Raises:
        ValueError: they are no images, or not one entry for each prompt.
    """
    digests = []
    for given in images_of_prompts(images, n_prompts):
        opened = [open_image(image, number) for number, image in enumerate(given)]
        digests.append([image_digest(each.image) for each in opened])
    return digests


def _check_digests(recorded: list[list[str]], given: list[list[str]]) -> None:
    """Raise a LensError for an image that is not the recorded one; the message names its prompt.

    Those of some prompts alone may be of any.
    """
    is_whole = len(recorded) == len(given)
    for prompt, digests in enumerate(given):
        expected = recorded[prompt] if is_whole else None
        if digests == expected or (not is_whole and digests in recorded):
            continue
        were = "" if expected is None else f", and were {', '.join(map(str, expected)) or 'none'}"
        raise LensError(
            f"the images of prompt {prompt} are not those that the model was given then: their "
            f"digests are {', '.join(digests) or 'none'}{were}."
        )
