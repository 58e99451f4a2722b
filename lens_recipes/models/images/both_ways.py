"""Find which tokens of a prompt a model lets see later ones, by the types it gives them.

A language model reads left to right. One that reads images may not: all of PaliGemma's prompt sees
itself, and so does each image of Gemma 3. Both are told by `token_type_ids` which tokens these are,
and both are asked here: with tokens of one type alone, does a later token move an earlier one?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lens_recipes.models.weights.offload import input_device

TYPES = "token_type_ids"
PREFIX, IMAGE = ASKED_TYPES = (0, 1)
MOVED = 0.05  # of the largest logit: more than rounding


class BothWays(NamedTuple):
    """The types of tokens that see later ones.

    Attributes:
        types: Neighbours of such a type see each other.
    """

    types: tuple[int, ...]

    @property
    def is_prefix(self) -> bool:
        """Whether a plain prompt sees itself, and what is written after it does not."""
        return self.types == (PREFIX,)

    def stretches(self, token_types: Sequence[int]) -> list[range]:
        """Return the stretches of a prompt within which tokens see later ones."""
        found: list[range] = []
        start = 0
        for position in range(1, len(token_types) + 1):
            goes_on = (
                position < len(token_types) and token_types[position] == token_types[position - 1]
            )
            if goes_on:
                continue
            if token_types[start] in self.types:
                found.append(range(start, position))
            start = position
        return found


def find_both_ways(module: nn.Module, prompts: Tensor, options: frozenset[str]) -> BothWays | None:
    """Ask a model that takes images which types of tokens see later ones.

    Args:
        module: The model, with its weights.
        prompts: Two prompts that differ in their last token alone, `[prompt, position]`.
        options: The arguments that its forward takes.

    Returns:
        None where no type does, where all do, or where the model takes no types.
    """
    if TYPES not in options or "pixel_values" not in options:
        return None
    inputs: dict[str, Any] = {"input_ids": prompts.to(input_device(module))}
    if "use_cache" in options:
        inputs["use_cache"] = False
    types = []
    for token_type in ASKED_TYPES:
        given = torch.full_like(inputs["input_ids"], token_type)
        try:
            with torch.no_grad():
                logits = module(**inputs, **{TYPES: given}).logits
        except Exception:  # whatever a model raises that does not take this type
            continue
        if sees_later(logits):
            types.append(token_type)
    return BothWays(tuple(types)) if len(types) == 1 else None


def stated_both_ways(config: Any, options: frozenset[str]) -> BothWays | None:
    """Return the same of a model without weights, by what the config of its decoder says.

    Where that says nothing, the tokens of an image are taken to see each other: an edit of one is
    then allowed to move the others.
    """
    if TYPES not in options or "pixel_values" not in options:
        return None
    is_prefix = getattr(config, "use_bidirectional_attention", None) is True
    return BothWays((PREFIX,) if is_prefix else (IMAGE,))


def sees_later(logits: Tensor) -> bool:
    """Tell whether the last token of two prompts has moved what is said before it."""
    before_last = logits[:, :-1].float()
    difference = (before_last[0] - before_last[1]).abs().max()
    return bool(difference > MOVED * before_last.abs().max())
