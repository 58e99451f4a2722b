"""Refuse images where a model reads them in blocks of their own."""

from __future__ import annotations

from lens_recipes.arrays.text import number_ranges
from lens_recipes.errors import LensError
from lens_recipes.models.structure.parts import Anatomy


def refuse_image_blocks(anatomy: Anatomy) -> None:
    """Raise LensError if some blocks run for an image alone.

    Layers are found with text, which passes over such blocks. With an image "after layer 0" would
    be the stream after another block, and the certificate would not show it: the logits come from
    the last block all the same.
    """
    passed_over = [layer for layer in range(anatomy.n_layers) if layer not in anatomy.layers]
    if not passed_over:
        return
    raise LensError(
        f"{anatomy.family} reads images by cross attention, in blocks of their own "
        f"({', '.join(number_ranges(passed_over))}) that text passes over: no token of the stream "
        "is a patch, and the layers that are known are those of text. So prompts with images are "
        "refused; text alone is read."
    )
