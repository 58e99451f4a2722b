"""Arrays that grow token by token, each allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

_CERTIFICATE = ("error", "scale", "eps", "kl_last", "agrees", "block", "total", "head")

_OF_STEPS = (
    "row",
    "prompt",
    "position",
    "id",
    "next_id",
    "generated",
    "next_logprob",
    "sampler_logprob",
)  # of a generation

_OF_TOKENS = ("tracked_ids", "final_ids", "final_logprob", *_CERTIFICATE, *_OF_STEPS)

PADDED = {
    "tracked_ids": -1,
    "tracked_logprobs": float("nan"),
}  # arrays of uneven width, and what fills them


def token_axis(name: str) -> int:
    """Which axis of a `readout` array is the tokens': the second, after the sites, if it has sites."""
    return 0 if name in _OF_TOKENS else 1


def max_tracked_tokens(track: str | int | None, n_sites: int, max_tracked: int) -> int:
    """How many tokens of a position are followed at most."""
    return 0 if track is None else min(max_tracked, n_sites) if track == "top1" else int(track)


def fill_buffers(
    found: dict[str, Tensor], part: dict[str, Tensor], start: int, n_tokens: int, tracked: int
) -> None:
    """Put the arrays of some tokens, from `start` on, into those of `n_tokens`, made or made larger where needed.

    All at once, then filled: small arrays that stay, between large ones that go, would leave holes in the heap, and
    memory would grow with the prompt, or with each step of a generation.
    """
    for name, value in part.items():
        axis = token_axis(name)
        there = found[name].shape[axis] if name in found else 0
        if there < n_tokens:
            shape = list(value.shape)
            shape[axis] = n_tokens
            if name in PADDED:
                shape[-1] = tracked
            larger = torch.full(shape, PADDED.get(name, 0), dtype=value.dtype)
            if there:
                larger.narrow(axis, 0, there).copy_(found[name])
            found[name] = larger
        spot = found[name].narrow(axis, start, value.shape[axis])
        spot[..., : value.shape[-1]].copy_(value) if name in PADDED else spot.copy_(value)


def trim_buffers(found: dict[str, Tensor], n_tokens: int) -> dict[str, Tensor]:
    """The first tokens of such arrays, and no more columns than some token follows."""
    there = {
        name: v
        if v.shape[token_axis(name)] == n_tokens
        else v.narrow(token_axis(name), 0, n_tokens).clone()
        for name, v in found.items()
    }
    used = int((there["tracked_ids"] >= 0).any(0).sum())
    return there | {name: there[name][..., :used].clone() for name in PADDED}
