"""Arrays and tensors as images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lens_recipes.run.request.images.sources.refused import check_sides

ACCEPTED = (
    "accepted are a path, a PIL image, or an array [row, column, channel] of uint8 (0…255), with "
    "3 channels, 4 with alpha, or none for grey"
)
CHANNELS = (3, 4)


def image_of_array(array: Any, name: str) -> Any:
    """Return an array or a tensor as a PIL image.

    Raises:
        ValueError: its shape or its numbers are not those of an image.
    """
    from PIL import Image

    if isinstance(array, torch.Tensor) and (array.is_nested or array.layout != torch.strided):
        raise ValueError(f"{name} is a sparse or nested tensor; {ACCEPTED}.")
    kind, shape = str(array.dtype).removeprefix("torch."), list(array.shape)
    if kind != "uint8":
        raise ValueError(f"{name} is an array of {kind}; {ACCEPTED}.{advice(kind)}")
    is_grey = len(shape) == 2
    is_colour = len(shape) == 3 and shape[2] in CHANNELS
    if not (is_grey or is_colour):
        raise ValueError(f"{name} is an array of shape {shape}; {ACCEPTED}.{shape_advice(shape)}")
    if not shape[0] or not shape[1]:
        raise ValueError(f"{name} is an array of shape {shape}: there is nothing to see.")
    check_sides(shape[1], shape[0], name)
    if isinstance(array, torch.Tensor):
        if array.is_meta:
            raise ValueError(f"{name} is a tensor on the meta device, which has no pixels.")
        array = array.detach().cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def advice(kind: str) -> str:
    """Return how an array of numbers of another kind becomes one of whole numbers to 255."""
    if kind.startswith(("float", "bfloat")):
        return " Numbers between 0 and 1 are times 255: (255 * array).round(), then to uint8."
    if kind.startswith(("int", "uint")):
        return " Whole numbers from 0 to 255 need only be made uint8."
    return ""


def shape_advice(shape: list[int]) -> str:
    """Return how an array of another shape becomes one of an image."""
    if len(shape) == 3 and shape[0] in CHANNELS:
        return " Its channels stand first: move them to the end, as numpy.moveaxis(array, 0, -1)."
    if len(shape) == 3 and shape[2] == 1:
        return " Leave out its last axis: array[:, :, 0]."
    if len(shape) == 4:
        return " Several images are a list of them: list(array)."
    return ""
