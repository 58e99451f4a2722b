"""What the streams of a model are called: those after its blocks, and the one before the first."""

from __future__ import annotations

from collections.abc import Collection

from lens_recipes.arrays.text import number_ranges

EMBEDDING = -1  # in place of a layer: the stream before block 0


def streams_in_words(layers: Collection[int]) -> str:
    """Return the names of some streams: "layer 3", "layers 0–2, 7", "the embedding and layer 0".

    Args:
        layers: Numbers of blocks; `EMBEDDING` is the stream before block 0.
    """
    numbers = sorted(layer for layer in layers if layer != EMBEDDING)
    words = []
    if EMBEDDING in layers:
        words.append("the embedding")
    if numbers:
        noun = "layer" if len(numbers) == 1 else "layers"
        words.append(f"{noun} {', '.join(number_ranges(numbers))}")
    return " and ".join(words)
