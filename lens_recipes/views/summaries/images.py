"""What a summary says of images: how many patches, and at how many of them a lens reads a word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors, layer_series, main_component
from lens_recipes.views.words import percentage, quantity

LETTERS_OF_A_WORD = 3
FIRST_OF_SHORT_WORDS = "\u2e80"  # from here on in Unicode one character is a word
WORD = (
    f"{LETTERS_OF_A_WORD} letters or more, or one of Chinese, Japanese or Korean, and nothing "
    "else; pieces of words count"
)
LAST_LAYERS = 4  # the last quarter of the layers


def is_word(text: str) -> bool:
    """Tell whether the text of a token is a word, as `WORD` says it."""
    letters = text.strip()
    if not letters.isalpha():
        return False
    return len(letters) >= LETTERS_OF_A_WORD or letters[0] >= FIRST_OF_SHORT_WORDS


def image_lines(result: LensArrays) -> Iterator[str]:
    """Yield how many image tokens were read, and the share of patches at which the lens is a word.

    Nothing without images.
    """
    is_image = result.tokens.is_image
    if not is_image.any() or are_vectors(result.sites):
        return
    pairs = {
        (int(prompt), int(image))
        for prompt, image in zip(
            result.tokens.prompt[is_image],
            result.tokens.image[is_image],  # type: ignore[index]
            strict=True,
        )
    }
    n_placed = int((is_image & result.tokens.has_place).sum())
    line = f"images: {quantity(int(is_image.sum()), 'token')} of {quantity(len(pairs), 'image')}"
    if n_placed < is_image.sum():
        line += f", {n_placed} of them with a place in it"
    words = _words_at_last_layers(result)
    yield f"{line}; {words}" if words else line


def _words_at_last_layers(result: LensArrays) -> str:
    """Return at how many patches the top token of the last layers is a word.

    Empty where there is no order of layers.
    """
    component = main_component(result.sites)
    if component in (None, "head_out", "embed"):
        return ""
    series = layer_series(result.sites)
    last = series[-max(1, len(series) // LAST_LAYERS) :]
    patches = np.flatnonzero(result.tokens.is_image)
    cells = np.ix_(np.array(last), patches)
    readable = result.readable[cells]
    top = result.top_ids[cells][..., 0]
    words = {int(token): is_word(result.text(int(token))) for token in np.unique(top)}
    has_word = np.vectorize(words.__getitem__, otypes=[bool])(top) & readable
    n_words = int(has_word.any(axis=0).sum())
    layers = layers_in_words(tuple(result.sites[index].layer or 0 for index in last))
    return (
        f"its top token is a word at {percentage(n_words, len(patches))}, at {layers} where the "
        f"lens can be read (a word: {WORD})"
    )


def image_doubts(result: LensArrays) -> Iterator[str]:
    """Yield what a lens on image tokens does not show."""
    is_image = result.tokens.is_image
    if not is_image.any() or are_vectors(result.sites):
        return
    readable = result.readable[:, is_image]
    n_grey = int((~readable).sum())
    grey = f"it cannot be read at {percentage(n_grey, readable.size)} cells of them"
    if result.lens.is_logit:
        more = f", and {grey}" if n_grey else ""
        yield (
            f"image tokens: the logit lens underestimates what they hold (LatentLens, 2026){more}: "
            "a patch without a word is no evidence that nothing is there"
        )
    elif n_grey:
        yield f"image tokens: {grey.replace('it', 'the lens', 1)}"
