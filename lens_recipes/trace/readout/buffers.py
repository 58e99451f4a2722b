"""Arrays that are filled token by token, each allocated once for all tokens.

Small arrays that stay, between large ones that go, would leave holes in the heap: memory would grow
with the prompt, or
with each step of a generation.
"""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = {"tracked_ids": -1, "tracked_logprobs": float("nan")}  # of the arrays of uneven width
CERTIFICATE_ARRAYS = (
    "error",
    "scale",
    "eps",
    "kl_last",
    "agrees",
    "block",
    "total",
    "head",
    "edit",
    "edit_site",
    "edit_identity",
    "edit_cone",
    "edit_worst",
)
GENERATION_ARRAYS = (
    "row",
    "prompt",
    "position",
    "id",
    "next_id",
    "generated",
    "next_logprob",
    "sampler_logprob",
)
WITHOUT_SITES = {
    "tracked_ids",
    "final_ids",
    "final_logprob",
    "final_entropy",
    "effect_outside",
    *CERTIFICATE_ARRAYS,
    *GENERATION_ARRAYS,
}


def token_axis(name: str) -> int:
    """Return which axis of an array of `readout` is that of the tokens.

    It is the one after the sites, if the array has sites.
    """
    return 0 if name in WITHOUT_SITES else 1


def max_tracked_tokens(track: str | int | None, n_sites: int, max_tracked: int) -> int:
    """Return how many tokens of a position are followed at most."""
    if track is None:
        return 0
    if track == "top1":
        return min(max_tracked, n_sites)
    return int(track)


def fill_buffers(
    buffers: dict[str, Tensor], part: dict[str, Tensor], start: int, n_tokens: int, tracked: int
) -> None:
    """Put the arrays of some tokens into those of all tokens, and make or enlarge these.

    Args:
        buffers: Arrays of `n_tokens` where the first part of each was, changed in place.
        part: The arrays of some tokens.
        start: The index of the first of them.
        n_tokens: For how many tokens there is to be room.
        tracked: The width of the arrays of uneven width.
    """
    for name, value in part.items():
        axis = token_axis(name)
        if name not in buffers or buffers[name].shape[axis] < n_tokens:
            buffers[name] = enlarged(buffers.get(name), name, value, n_tokens, tracked)
        target = buffers[name].narrow(axis, start, value.shape[axis])
        if name in PADDING:
            target = target[..., : value.shape[-1]]
        target.copy_(value)


def enlarged(old: Tensor | None, name: str, like: Tensor, n_tokens: int, tracked: int) -> Tensor:
    """Return an array with room for `n_tokens`, which begins with the old one."""
    axis = token_axis(name)
    shape = list(like.shape)
    shape[axis] = n_tokens
    if name in PADDING:
        shape[-1] = tracked
    larger = torch.full(shape, PADDING.get(name, 0), dtype=like.dtype, device=like.device)
    if old is not None:
        larger.narrow(axis, 0, old.shape[axis]).copy_(old)
    return larger


def trim_buffers(buffers: dict[str, Tensor], n_tokens: int) -> dict[str, Tensor]:
    """Return the first tokens of such arrays, and no more tracked columns than some token uses."""
    trimmed: dict[str, Tensor] = {}
    for name, value in buffers.items():
        axis = token_axis(name)
        if value.shape[axis] != n_tokens:
            value = value.narrow(axis, 0, n_tokens).clone()
        trimmed[name] = value
    used = int((trimmed["tracked_ids"] >= 0).any(0).sum())
    for name in PADDING:
        trimmed[name] = trimmed[name][..., :used].clone()
    return trimmed
