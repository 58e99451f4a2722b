"""Where the streams of a model are read, for a fit and for what measures it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.caller import argument, say
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.sites import pick_layers
from lens_recipes.trace.plan import ReadStep

EMBED = "embed"  # what a caller calls the stream before block 0


def read_steps(request: Request, streams: Sequence[int]) -> list[ReadStep]:
    """Return how streams are read, ascending, each into a slot of its own.

    Args:
        request: The model.
        streams: The numbers of blocks, each for the stream after it; `EMBEDDING` (−1) is the one
            before block 0.
    """
    steps = []
    for slot, stream in enumerate(streams):
        if stream == EMBEDDING:
            first_layer = request.anatomy.layers[0]
            point = request.blocks()[first_layer].resid_pre
            steps.append(
                ReadStep("read", point.side, point.path, tuple(point.operations), slots=(slot,))
            )
        else:
            steps.append(ReadStep("read", "out", request.anatomy.block(stream), slots=(slot,)))
    return steps


def pick_streams(request: Request, layers: Any, *, with_embedding: bool = True) -> list[int]:
    """Return the streams that a lens is fitted of, ascending.

    Args:
        request: The model.
        layers: None for all, the one before block 0 included; or numbers of blocks, negative from
            the end, in the forms that all recipes take; a list may also name "embed".
        with_embedding: False for a kind of lens that has no transport of the stream before block 0.

    Raises:
        ValueError: a layer that this model does not have; or none but the last, whose stream is the
            final one already.
    """
    last = request.anatomy.last_layer
    if layers is None:
        embedding = [EMBEDDING] if with_embedding else []
        return embedding + [layer for layer in request.anatomy.layers if layer != last]
    streams: list[int] = []
    named = layers
    if isinstance(layers, str):
        named = [layers]
    if isinstance(named, list | tuple):
        if EMBED in named and not with_embedding:
            raise ValueError(
                f"{argument('layers', layers)}: this kind of lens has no transport of the stream "
                "before block 0. Name layers alone."
            )
        if EMBED in named:
            streams.append(EMBEDDING)
        named = [layer for layer in named if layer != EMBED]
    if not isinstance(named, list | tuple) or named:
        streams += [layer for layer in pick_layers(named, request.anatomy) if layer != last]
    if not streams:
        raise ValueError(
            f"{argument('layers', layers)} leaves nothing to fit: the stream after the last block, "
            f"{last}, is the final one already. Name earlier layers, or "
            + say(python="None for all.", shell="all.")
        )
    return streams
