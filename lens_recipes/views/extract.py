"""What several views take out of a result in the same way: predictions, components, sources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import components


class Prediction(NamedTuple):
    """One of the most likely tokens at a site: its id, its text and its log-probability (nats)."""

    token_id: int
    text: str
    logprob: float


class SourceSums(NamedTuple):
    """What heads add by what they read from each token of one prompt.

    Attributes:
        layers: The layers that the rows of `values` are.
        values: In logits, `[layer, source]`; NaN where no head of a layer read a token.
    """

    layers: list[int]
    values: NDArray[np.float64]


def top_predictions(
    result: LensArrays, site: int, token: int, limit: int | None = None
) -> list[Prediction]:
    """Return the most likely tokens at a site after a token, at most `limit` of them.

    Args:
        result: Any lens result.
        site: An index into `result.sites`.
        token: An index into `result.tokens`.
        limit: None for all that the result holds.
    """
    ids = result.top_ids[site, token, :limit].tolist()
    logprobs = result.top_logprobs[site, token, :limit].tolist()
    return [
        Prediction(token_id, result.text(token_id), logprob)
        for token_id, logprob in zip(ids, logprobs, strict=True)
    ]


def side_by_side(sites: Iterable[Site]) -> list[str]:
    """Return the components that stand side by side, in a column each, if they are several.

    The embedding is of no layer and a layer has many heads: they have rows of their own.
    """
    return [name for name in components(sites) if name not in ("embed", "head_out")]


def stream_of(columns: list[str]) -> str | None:
    """Return the component whose column shows the residual stream, or None where there is none.

    Preferred is the stream after a block, then before it, then in its middle.
    """
    for name in ("resid_post", "resid_pre", "resid_mid"):
        if name in columns:
            return name
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
