"""Prompts as they are shown: the hundreds of tokens of an image as one mark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.models.tokens.vocabulary import prompt_text

MARKS_BETWEEN = 6  # tokens between two rows or tiles of an image, such as "<row_1_col_2>"


def shown_prompts(
    tokenizer: Any, token_ids: Sequence[list[int]], places: Sequence[list[ImagePlace]]
) -> list[str]:
    """Return the text of each prompt, in which "⟨image 0: 16 patches⟩" stands for an image.

    Args:
        tokenizer: The model's, or None.
        token_ids: `[prompt][position]`.
        places: Where each token is in the images, `[prompt][position]`; empty without images.
    """
    if not places:
        return [prompt_text(tokenizer, ids) for ids in token_ids]
    texts = []
    for ids, places_of_prompt in zip(token_ids, places, strict=True):
        texts.append(_shown_prompt(tokenizer, ids, places_of_prompt))
    return texts


def _shown_prompt(tokenizer: Any, ids: list[int], places: list[ImagePlace]) -> str:
    """Return the text of one prompt."""
    text = ""
    images = _images_of_positions(places)
    positions = range(len(ids))
    for image, run in groupby(positions, key=images.__getitem__):
        at = list(run)
        if image < 0:
            text += prompt_text(tokenizer, [ids[position] for position in at])
            continue
        of_image = [places[position] for position in at if places[position].image >= 0]
        n_patches = sum(place.row >= 0 for place in of_image)
        words = "1 patch" if n_patches == 1 else f"{n_patches} patches"
        if not n_patches:
            words = "1 token" if len(of_image) == 1 else f"{len(of_image)} tokens"
        text += f"⟨image {image}: {words}⟩"
    return text


def _images_of_positions(places: list[ImagePlace]) -> list[int]:
    """Return in which image each position is, the marks between its rows or tiles among it."""
    images = [place.image for place in places]
    last = 0  # where the image token before is
    for position, image in enumerate(images):
        if image < 0:
            continue
        is_near = position - last - 1 <= MARKS_BETWEEN
        if is_near and images[last] == image:
            images[last:position] = [image] * (position - last)
        last = position
    return images
