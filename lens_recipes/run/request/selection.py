"""Turn positions, layers and targets into indices and token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from lens_recipes.caller import argument, parameter, say
from lens_recipes.models.tokens.vocabulary import token_id, token_text
from lens_recipes.run.request.prompts import is_sequence, is_token_id, shortened, text_ids

Positions = int | slice | Sequence[int] | None
MAX_TRACKED = 32  # tokens of a position that track="top1" follows at most


def as_list(argument: Any) -> Any:
    """Return an iterable that can be read once as a list, and everything else as it is."""
    can_be_read_once = isinstance(argument, Iterable) and not hasattr(argument, "__len__")
    return list(argument) if can_be_read_once else argument


def as_argument(value: Any) -> Any:
    """Return an argument of a recipe as plain Python: a number of numpy or torch as Python's.

    An iterable that can be read once becomes a list.
    """
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        return value.item()
    return as_list(value)


def next_ids(ids: list[int], vocab_size: int) -> list[int]:
    """Return the id after each position of a prompt; −1 where it ends, or the id has no logit."""
    following = [token if token < vocab_size else -1 for token in ids[1:]]
    return [*following, -1]


# -- checks ------------------------------------------------------------


def check_ids(token_ids: list[list[int]], n_embeddings: int, n_positions: int | None) -> None:
    """Refuse ids that the model does not have, and prompts that it cannot hold.

    Args:
        token_ids: `[prompt][position]`.
        n_embeddings: Tokens that a prompt may be made of.
        n_positions: Tokens that it may have; None without a bound.

    Raises:
        ValueError: names the prompt, the position and the bound.
    """
    for number, prompt_ids in enumerate(token_ids):
        for position, token in enumerate(prompt_ids):
            if not 0 <= token < n_embeddings:
                raise ValueError(
                    f"prompt {number} has the id {token} at position {position}; this model's "
                    f"ids are 0 to {n_embeddings - 1}."
                )
        if n_positions is not None and len(prompt_ids) > n_positions:
            raise ValueError(
                f"prompt {number} is {len(prompt_ids)} tokens long; this model's context holds "
                f"{n_positions}. "
                "Shorten it."
            )


def warn_of_length(token_ids: list[list[int]], context: int | None) -> None:
    """Say that prompts go beyond what the model is made for, where it runs all the same.

    Args:
        token_ids: `[prompt][position]`.
        context: Tokens that the config says; None without a bound.
    """
    longest = max(map(len, token_ids), default=0)
    if context is not None and longest > context:
        logging.getLogger("lens_recipes").warning(
            "a prompt is %d tokens long, and this model is made for %d: what it says beyond them "
            "may mean little",
            longest,
            context,
        )


def check_numbers(top_k: Any, track: Any, max_bytes: Any, vocab_size: int) -> None:
    """Refuse numbers that no recipe can use.

    Raises:
        ValueError: names the argument and what it may be.
    """
    if type(top_k) is not int or not 1 <= top_k <= vocab_size:
        raise ValueError(
            f"{argument('top_k', top_k)} must be a whole number from 1 to {vocab_size}, the size "
            "of the vocabulary."
        )
    is_count = type(track) is int and 1 <= track <= vocab_size
    if track is not None and track != "top1" and not is_count:
        raise ValueError(
            f'track={track!r} must be "top1", None, or a number of tokens from 1 to {vocab_size}.'
        )
    if type(max_bytes) is not int or max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes!r} must be a positive number of bytes.")


# -- indices -----------------------------------------------------------


def pick_indices(selection: Positions, length: int, name: str, owner: str) -> list[int]:
    """Return indices in 0…length−1: in ascending order for a slice, as given for a list.

    Negative ones from the end.

    Args:
        selection: None for all, an int, a slice or a list of ints.
        length: How many there are.
        name: What is selected, for messages ("layers").
        owner: What has them ("this model").

    Raises:
        ValueError: out of range, or not an int, slice, list or None.
    """
    if selection is None:
        return list(range(length))
    if isinstance(selection, slice):
        indices = list(range(length))[selection]
        if not indices:
            raise ValueError(
                f"{argument(name, selection)} selects nothing: {owner} has {name} 0 to "
                f"{length - 1}."
            )
        return indices
    items: Any = [selection] if is_token_id(selection) else selection
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ValueError(not_indices(selection, name))
    indices = []
    for item in items:
        if not is_token_id(item):
            raise ValueError(not_indices(selection, name))
        if not -length <= int(item) < length:
            raise ValueError(
                f"{argument(name, int(item))} is out of range: {owner} has {name} 0 to "
                f"{length - 1} (or −{length} to −1)."
            )
        indices.append(int(item) % length)
    if not indices:
        raise ValueError(
            f"{parameter(name)} is empty: pass at least one, or {say(python='None', shell='all')} "
            "for all."
        )
    return list(dict.fromkeys(indices))


def not_indices(selection: Any, name: str) -> str:
    """Return the message about something that selects nothing."""
    return (
        f"{name} must be None, an int, a slice or a list of ints; received {shortened(selection)}."
    )


def pick_positions(positions: Any, token_ids: list[list[int]]) -> list[list[int]]:
    """Return the positions of each prompt.

    `positions` is the same selection for every prompt, or a list with one for each.

    Raises:
        ValueError: as `pick_indices`, or not one entry per prompt.
    """
    selections = [positions] * len(token_ids)
    if isinstance(positions, np.ndarray | torch.Tensor):
        positions = list(positions) if positions.ndim else positions
    if isinstance(positions, list | tuple) and any(map(is_selection, positions)):
        if len(positions) != len(token_ids):
            raise ValueError(
                f"received positions for {len(positions)} prompts, but there are {len(token_ids)}."
            )
        selections = list(positions)
    picked = []
    for number, (selection, prompt_ids) in enumerate(zip(selections, token_ids, strict=True)):
        picked.append(pick_indices(selection, len(prompt_ids), "positions", f"prompt {number}"))
    return picked


def is_selection(item: Any) -> bool:
    """Tell whether an entry of `positions` is the selection of one prompt, and not an index."""
    return item is None or isinstance(item, slice) or (is_sequence(item) and not is_token_id(item))


# -- targets -----------------------------------------------------------


def target_ids(
    targets: Any, n_prompts: int, tokenizer: Any | None, vocab_size: int
) -> list[list[int]]:
    """Return one list of token ids for each prompt, all of one length.

    Args:
        targets: One string or id, a list of them for all prompts, or a list of such lists, one per
            prompt.
        n_prompts: How many prompts there are.
        tokenizer: The model's, or None.
        vocab_size: How many ids the model has.

    Raises:
        ValueError: a string that is not exactly one token (the message shows which it is), an id
            the model does not have, or lists that do not fit the prompts.
    """
    if targets is None:
        return [[] for _ in range(n_prompts)]
    items = target_items(targets)
    is_nested = [is_target_list(item) for item in items]
    if not any(is_nested):
        per_prompt = [items] * n_prompts
    else:
        lengths = {len(item) for item, nested in zip(items, is_nested, strict=True) if nested}
        if not all(is_nested) or len(items) != n_prompts or len(lengths) != 1:
            raise ValueError(
                f"targets per prompt must be {n_prompts} lists of one length, one list for each "
                "prompt; received "
                f"{shortened(targets)}. For the same targets everywhere pass one flat list."
            )
        per_prompt = [list(item) for item in items]
    ids_per_prompt = []
    for prompt_targets in per_prompt:
        ids_per_prompt.append(
            [target_id(target, tokenizer, vocab_size) for target in prompt_targets]
        )
    return ids_per_prompt


def target_items(targets: Any) -> list[Any]:
    """Return the targets as a list, also where there is one."""
    is_scalar = getattr(targets, "ndim", 1) == 0
    if isinstance(targets, str) or not isinstance(targets, Iterable) or is_scalar:
        return [targets]
    return list(targets)


def is_target_list(item: Any) -> bool:
    """Tell whether an entry of `targets` is the list of one prompt."""
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim > 0
    return isinstance(item, list | tuple)


def target_id(target: Any, tokenizer: Any | None, vocab_size: int) -> int:
    """Return the id of one target: an id, or the text of one token as results show it.

    Raises:
        ValueError: it is not one token, and the message shows which tokens it is; or the model has
            no such id.
    """
    if is_token_id(target):
        token = int(target)
        named = f"target id {token} is unknown"
    elif isinstance(target, str):
        token = id_of_text(target, tokenizer)
        named = f"the target {target!r} is the id {token}, which is unknown"
    else:
        kind = "a token id" if tokenizer is None else "a string or a token id"
        raise ValueError(f"a target must be {kind}; received {shortened(target)}.")
    if not 0 <= token < vocab_size:
        raise ValueError(f"{named}: this model's ids are 0 to {vocab_size - 1}.")
    return token


def id_of_text(target: str, tokenizer: Any | None) -> int:
    """Return the id of the token that a target names by its text.

    Raises:
        ValueError: there is none.
    """
    token = token_id(tokenizer, target)
    if token is not None:
        return token
    if tokenizer is None:
        raise ValueError(f"a target must be a token id; received {shortened(target)}.")
    raise ValueError(no_single_token(target, tokenizer))


def no_single_token(target: str, tokenizer: Any) -> str:
    """Return the message about a target that is not one token."""
    ids = text_ids(target, tokenizer, add_special_tokens=False)
    if not ids:
        other = "another string" if target else "a string that is not empty"
        return (
            f"the target {target!r} is 0 tokens for this model. A target is one token: pass "
            f"{other}{or_an_id()}."
        )
    pieces = [token_text(tokenizer, token) for token in ids]
    hint = f"{pieces[0]!r} (id {ids[0]})"
    if len(ids) == 1:
        return (
            f"no token of this model is the target {target!r}; the nearest is {hint}: pass "
            f"that{or_an_id()}."
        )
    spaced = token_id(tokenizer, f" {target}")
    if spaced is not None:
        return (
            f"the target {target!r} is {len(ids)} tokens for this model: {pieces}. With a space "
            f"before it, it is one: pass {f' {target}'!r} (id {spaced}), if you mean the word that "
            "follows a prompt."
        )
    return (
        f"the target {target!r} is {len(ids)} tokens for this model: {pieces}. A target is one "
        f"token: pass the first of them, {hint}, or another word."
    )


def or_an_id() -> str:
    """Return the words that offer an id in place of a text, which a shell's options do not take."""
    return say(python=", or an id", shell="")
