"""Prompts as they are shown: the hundreds of tokens of an image as one mark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.models.tokens.vocabulary import prompt_text


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
    pairs = zip(ids, places, strict=True)
    for image, run in groupby(pairs, key=lambda pair: pair[1].image):
        tokens = list(run)
        if image < 0:
            text += prompt_text(tokenizer, [token for token, _ in tokens])
            continue
        n_patches = sum(place.row >= 0 for _, place in tokens)
        words = f"{n_patches} patches" if n_patches > 1 else "1 patch"
        if not n_patches:
            words = f"{len(tokens)} tokens"
        text += f"⟨image {image}: {words}⟩"
    return text
