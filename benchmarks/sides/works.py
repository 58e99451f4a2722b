"""The works that all tools do, and what each must come to; read in both environments, so plain Python alone."""

from __future__ import annotations

from typing import NamedTuple

TOP_K = 5
LENS_LAYERS = (25, 26, 27, 28)  # of a Jacobian lens: each layer costs a pass back from the output


class Work(NamedTuple):
    """A work.

    name: What it is called on the page.
    kind: Which of the functions does it: see `own_side.py`, `hand_side.py` and `peer_side.py`.
    settings: Of that function: sizes, in tokens, prompts, layers.
    goal: How many times as long as TransformerLens ours may take; None where it has no such thing.
    said: What exactly is done.
    by_hand: Which scripts by hand take turns as well, where they can; fewer where a turn is long.
    """

    name: str
    kind: str
    settings: dict[str, int]
    goal: float | None
    said: str
    by_hand: tuple[str, ...] = ("transformers by hand", "nnsight by hand")


GRID = "the five likeliest tokens, their log-probabilities and the entropy, at every layer and position"
LAST = "the same at the last position alone"
WORKS = (
    Work("grid of 16 tokens", "grid", {"tokens": 16}, 1.0, GRID),
    Work("grid of 128 tokens", "grid", {"tokens": 128}, 0.9, GRID),
    Work("grid of 1,024 tokens", "grid", {"tokens": 1024}, 0.75, GRID, ("transformers by hand",)),
    Work("last position of 128 tokens", "last", {"tokens": 128}, 1.1, LAST),
    Work("1,500 prompts", "prompts", {"prompts": 1500, "tokens": 6}, 1.0, f"{LAST}, of 6 tokens each", ()),
    Work("components", "components", {"tokens": 16}, 1.0, "the lens on what each attention and each MLP adds, at every position of 16 tokens"),
    Work("heads", "heads", {"tokens": 64}, 1.0, "a logit minus another as a sum over all heads, MLPs and biases, at the last of 64 tokens"),
    Work("generation", "generation", {"tokens": 128, "new": 64}, 1.0, "64 new tokens after 128, and the lens at each (TransformerLens without its cache, which stays empty under transformers 5.24 and makes it write another text)"),
    Work("Jacobian lens, read", "jacobian_read", {"tokens": 64}, 1.0, "the grid of 64 tokens and 4 layers through the transports of a Jacobian lens"),
    Work("Jacobian lens, fitted", "jacobian_fit", {"prompts": 1, "tokens": 24}, 1.0, "the transports of the last 4 layers but one from one prompt of 24 tokens"),
    Work("patch map", "patch_map", {"tokens": 6}, 0.5, "the stream before each block patched, at each of 6 positions"),
)  # fmt: skip


def work_named(name: str) -> Work:
    """Return a work by its name."""
    return next(work for work in WORKS if work.name == name)
