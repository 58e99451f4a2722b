"""How the rank of a target moves through the sites, in a sentence."""

from __future__ import annotations

import numpy as np

from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import site_label
from lens_recipes.views.summaries.trust import FIRST_READABLE, first_readable
from lens_recipes.views.words import probability

TOP_RANKS = 10


def describe_ranks(result: LensArrays, token_index: int, target_index: int) -> str:
    """Return how a target's rank moves along the layers, and at which other site it is best.

    Example: "rank 512 at layer 0, 0 at layer 11 (p 0.772); first in the top 10 at layer 7; of the
    other sites best rank 3 at 9.attn_out (p 0.041)".

    Args:
        result: A result of one prompt.
        token_index: Which of `result.tokens`.
        target_index: Which target.
    """
    series = settling(result)
    others = [site_index for site_index in range(len(result.sites)) if site_index not in series]
    if not series:
        return _best_rank(result, others, token_index, target_index)
    sentence = _along_series(result, series, token_index, target_index)
    if others:
        best_rank = _best_rank(result, others, token_index, target_index)
        sentence += f"; of the other sites {best_rank}"
    return sentence


def _along_series(
    result: LensArrays, series: list[int], token_index: int, target_index: int
) -> str:
    """Return the rank at the first and the last site, where it enters the top 10, and its best."""
    ranks = result.target_ranks[series, token_index, target_index]
    logprobs = result.target_logprobs[series, token_index, target_index]
    labels = [site_label(result.sites[site_index]) for site_index in series]
    readable = result.readable[series, token_index]
    start = first_readable(result, series, token_index)
    sentence = f"rank {ranks[start]} at {labels[start]}"
    if start > 0:
        sentence += f" ({FIRST_READABLE})"
    sentence += f", {ranks[-1]} at {labels[-1]} (p {probability(logprobs[-1])})"
    # Where the lens cannot be read, a rank dates nothing.
    in_top = np.flatnonzero((ranks < TOP_RANKS) & readable)
    if len(in_top) > 0:
        first = int(in_top[0])
        verb = "first" if first == 0 or readable[first - 1] else "first read"
        sentence += f"; {verb} in the top {TOP_RANKS} at {labels[first]}"
    best = int(np.where(readable, ranks, np.iinfo(ranks.dtype).max).argmin())
    if readable[best] and ranks[best] < ranks[-1]:
        sentence += f"; best {ranks[best]} at {labels[best]}"
    return sentence


def _best_rank(
    result: LensArrays, site_indices: list[int], token_index: int, target_index: int
) -> str:
    """Return the best rank that a target has at some sites, and the first site that has it."""
    ranks = result.target_ranks[site_indices, token_index, target_index]
    logprobs = result.target_logprobs[site_indices, token_index, target_index]
    best = int(ranks.argmin())
    site = result.sites[site_indices[best]]
    return f"best rank {ranks[best]} at {site} (p {probability(logprobs[best])})"
