"""Find for each image token of a prompt which patch of which image it stands for."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from lens_recipes.arrays.images import NO_PLACE, ImagePlace
from lens_recipes.errors import LensError
from lens_recipes.run.request.images.places.grids import grid


class Encoded(NamedTuple):
    """One prompt as its processor made it.

    Attributes:
        token_ids: `[position]`.
        tensors: What the model is given beside them.
        sizes: Width and height of each image, in pixels.
    """

    token_ids: list[int]
    tensors: dict[str, Tensor]
    sizes: list[tuple[int, int]]


def image_places(model: Any, processor: Any, token: int, encoded: Encoded) -> list[ImagePlace]:
    """Return where each token of a prompt is, `[position]`.

    Raises:
        LensError: the prompt has no image tokens.
    """
    positions = [at for at, each in enumerate(encoded.token_ids) if each == token]
    if not positions:
        raise LensError(
            "the images of this model leave no tokens of their own in the prompt, so there is "
            "nothing in the stream that a lens could read of them."
        )
    places = [NO_PLACE] * len(encoded.token_ids)
    side = int(len(positions) ** 0.5)
    width, height = encoded.sizes[0]
    patches = grid(side, side, 0, 0, width, height)
    for position, place in zip(positions, patches, strict=False):
        places[position] = place
    return places
