"""Turn the tokens that a target is held against into ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import target_ids

NOTHING = -1  # the id that stands for no token


class Contrast(NamedTuple):
    """What the targets' logits are held against.

    Attributes:
        kind: "" for nothing, "mean" for the mean over the vocabulary, or "token".
        ids: Of "token", `[prompt][target]`; −1 where nothing, or the mean, is held against it.
    """

    kind: str
    ids: list[list[int]]

    @property
    def has_mean(self) -> bool:
        """Whether it is the mean over the vocabulary."""
        return self.kind == "mean"

    def columns(self, targets: list[list[int]]) -> list[list[int]]:
        """Return the ids whose logits are asked for, `[prompt][column]`.

        They are the targets, and then what these are held against.
        """
        if self.kind != "token":
            return targets
        return [row + against for row, against in zip(targets, self.ids, strict=True)]


def contrast(against: Any, request: Request) -> Contrast:
    """Return what the targets of a request are held against.

    Args:
        against: None, "mean", a token, a list of one per prompt, or lists as for targets.
        request: What is asked for.

    Raises:
        ValueError: it does not fit the prompts and the targets.
    """
    n_prompts, n_targets = len(request.token_ids), len(request.target_ids[0])
    if against is None or (isinstance(against, str) and against == "mean"):
        return Contrast(against or "", [[NOTHING] * n_targets for _ in range(n_prompts)])
    vocab_size = request.anatomy.vocab_size
    tokens = one_list_per_prompt(against, n_prompts)
    rows = target_ids(tokens, n_prompts, request.tokenizer, vocab_size)
    n_given = len(rows[0])
    if n_given not in (1, n_targets):
        raise ValueError(
            f"against has {n_given} tokens per prompt for {n_targets} targets: pass one, or one "
            "per target."
        )
    if n_given == 1:
        rows = [row * n_targets for row in rows]
    return Contrast("token", rows)


def one_list_per_prompt(against: Any, n_prompts: int) -> Any:
    """Return a flat list as one list for each prompt, and everything else as it is.

    Raises:
        ValueError: it has no order, or not one token per prompt.
    """
    if isinstance(against, set | dict):
        raise ValueError(
            f"against={against!r} has no order: pass one token, a list of one per prompt, or "
            '"mean".'
        )
    if hasattr(against, "tolist"):
        against = against.tolist()
    if not isinstance(against, Sequence) or isinstance(against, str):
        return against
    items = list(against)
    if any(isinstance(item, list | tuple) for item in items):
        return items
    if len(items) != n_prompts:
        raise ValueError(
            f"against={items!r} has {len(items)} tokens, but there are {n_prompts} prompts: pass "
            "one token "
            'for all of them, a list of one per prompt, or "mean".'
        )
    return [[item] for item in items]
