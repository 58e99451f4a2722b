"""How the rank of a target moves through the sites, in a sentence."""

from __future__ import annotations

import numpy as np

from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import site_label
from lens_recipes.views.words import probability

TOP_RANKS = 10


def describe_ranks(result: LensArrays, token: int, target: int) -> str:
    """Return how a target's rank moves along the layers, and at which other site it is best.

    Example: "rank 512 at layer 0, 0 at layer 11 (p 0.772); first in the top 10 at layer 7; of the
    other sites best rank 3 at 9.attn_out (p 0.041)".

    Args:
        result: A result of one prompt.
        token: An index into `result.tokens`.
        target: An index into the targets.
    """
    series = settling(result)
    others = [site for site in range(len(result.sites)) if site not in series]
    if not series:
        return _best_rank(result, others, token, target)
    sentence = _along_series(result, series, token, target)
    if others:
        sentence += f"; of the other sites {_best_rank(result, others, token, target)}"
    return sentence


def _along_series(result: LensArrays, series: list[int], token: int, target: int) -> str:
    """Return the rank at the first and the last site, where it enters the top 10, and its best."""
    ranks = result.target_ranks[series, token, target]
    labels = [site_label(result.sites[site]) for site in series]
    last_logprob = result.target_logprobs[series[-1], token, target]
    sentence = (
        f"rank {ranks[0]} at {labels[0]}, {ranks[-1]} at {labels[-1]} "
        f"(p {probability(last_logprob)})"
    )
    in_top = np.flatnonzero(ranks < TOP_RANKS)
    if len(in_top):
        sentence += f"; first in the top {TOP_RANKS} at {labels[in_top[0]]}"
    best = int(ranks.argmin())
    if ranks[best] < ranks[-1]:
        sentence += f"; best {ranks[best]} at {labels[best]}"
    return sentence


def _best_rank(result: LensArrays, sites: list[int], token: int, target: int) -> str:
    """Return the best rank that a target has at some sites, and the first site that has it."""
    ranks = result.target_ranks[sites, token, target]
    best_site = sites[int(ranks.argmin())]
    logprob = result.target_logprobs[best_site, token, target]
    return f"best rank {ranks.min()} at {result.sites[best_site]} (p {probability(logprob)})"
