"""What several views group in the same way: components side by side, parts by what heads read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import components


class SourceSums(NamedTuple):
    """What heads add by what they read from each token of one prompt.

    Attributes:
        layers: The layers that the rows of `values` are.
        values: In logits, `[layer, source]`; NaN in the row of a layer without such heads.
    """

    layers: list[int]
    values: NDArray[np.float64]


def side_by_side(sites: Iterable[Site]) -> list[str]:
    """Return the components that stand side by side, in a column each, if they are several.

    The embedding is of no layer and a layer has many heads: they have rows of their own.
    """
    return [component for component in components(sites) if component not in ("embed", "head_out")]


def stream_of(columns: list[str]) -> str | None:
    """Return the component whose column shows the residual stream, or None where there is none.

    Preferred is the stream after a block, then before it, then in its middle.
    """
    for component in ("resid_post", "resid_pre", "resid_mid"):
        if component in columns:
            return component
    return None


def source_groups(
    result: AttributionArrays, values: NDArray[np.float32], head: int | None = None
) -> SourceSums:
    """Return what the heads of each layer add by what they read from each token of one prompt.

    Args:
        result: An attribution of one prompt with `unit="token"`.
        values: In logits, of one token and one target, `[part]`.
        head: Only this head of each layer; None for all heads.
    """
    layers = sorted({part.layer for part in result.parts if part.layer is not None})
    row_of_layer = {layer: row for row, layer in enumerate(layers)}
    sums = np.zeros((len(layers), len(result.sources[0])))
    has_sources = np.zeros(len(layers), dtype=bool)
    for part, value in zip(result.parts, values, strict=True):
        if part.layer is None or part.source is None:
            continue
        if head is not None and part.head != head:
            continue
        row = row_of_layer[part.layer]
        sums[row, part.source] += value
        has_sources[row] = True
    return SourceSums(layers, np.where(has_sources[:, None], sums, np.nan))
