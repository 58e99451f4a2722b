"""What tells an image from any other: a result and a survey keep it in place of the pixels."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import torch

from lens_recipes.errors import LensError
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


def check_digests(recorded: Any, given: list[list[str]]) -> None:
    """Raise a LensError unless images are those that were recorded.

    Args:
        recorded: The digests of a run's images, `[prompt][image]`, as its record has them.
        given: Those of the images that were passed now, which may be of some of its prompts.

    Raises:
        LensError: an image is another one; the message names it.
    """
    is_whole = isinstance(recorded, list) and len(recorded) == len(given)
    for prompt, digests in enumerate(given):
        expected = recorded[prompt] if is_whole else None
        if digests == expected or (not is_whole and digests in list(recorded)):
            continue
        raise LensError(
            f"the images of prompt {prompt} are not those that the model was given then: their "
            f"digests are {', '.join(digests) or 'none'}"
            + ("." if expected is None else f", and were {', '.join(expected) or 'none'}.")
        )
