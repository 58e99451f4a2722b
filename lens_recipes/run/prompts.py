"""Prompts become token ids; positions, layers and targets become indices and ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lens_recipes.models.vocabulary import token_text

Positions = int | slice | Sequence[int] | None


# -- prompts ─► ids ------------------------------------------------


def encode(
    prompts: Any, tokenizer: Any | None, *, add_special_tokens: bool = True
) -> list[list[int]]:
    """One list of ids per prompt, without padding.

    Accepts one or several strings, lists of ids or chats (lists of `{"role", "content"}` dicts), a 2-D tensor or
    array of ids, or a `BatchEncoding` (its masked tokens are dropped). A chat goes through the model's own
    template with the generation prompt open; the template's special tokens are not added a second time.

    Raises:
        ValueError: no prompts, an empty prompt, or something that is none of these.
    """
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        encoded = _unmasked(_rows(prompts["input_ids"]), prompts.get("attention_mask"))
    elif isinstance(prompts, torch.Tensor | np.ndarray):
        encoded = _rows(prompts)
    else:
        kind, several = _several(prompts)
        if kind == "ids":
            encoded = [[int(i) for i in prompt] for prompt in several]
        elif tokenizer is None:
            raise ValueError(
                "this model was loaded without a tokenizer, so prompts are lists of token ids; received text. "
                "Pass load(..., tokenizer=...) to use strings."
            )
        elif kind == "chat":
            encoded = [_chat_ids(chat, tokenizer) for chat in several]
        else:
            encoded = [_text_ids(text, tokenizer, add_special_tokens) for text in several]
    if not encoded:
        raise ValueError("received no prompts: pass at least one string, list of ids or chat.")
    for number, row in enumerate(encoded):
        if not row:
            raise ValueError(
                f"prompt {number} is empty: it has no tokens, so there is nothing to predict from."
            )
    return encoded


def _several(prompts: Any) -> tuple[str, list[Any]]:
    """What sort of prompts these are, "text", "ids" or "chat", and the list of them (also where it is one)."""
    if isinstance(prompts, str):
        return "text", [prompts]
    if isinstance(prompts, Iterable) and not isinstance(prompts, Mapping | bytes):
        items = list(prompts)
        if all(isinstance(item, str) for item in items):
            return "text", items
        if all(_is_id(item) for item in items):
            return "ids", [items]
        if all(_is_turn(item) for item in items):
            return "chat", [items]
        if all(
            isinstance(item, Iterable) and not isinstance(item, str | Mapping) for item in items
        ):
            inner = [list(item) for item in items]
            if all(turns and all(_is_turn(turn) for turn in turns) for turns in inner):
                return "chat", inner
            if all(_is_id(i) for ids in inner for i in ids):
                return "ids", inner
    raise ValueError(
        f"received {_short(prompts)} as prompts; accepted are one or several strings, lists of token ids or chats "
        '(lists of {"role": …, "content": …}), a 2-D tensor of ids, or a BatchEncoding. All of one sort.'
    )


def _unmasked(rows: list[list[int]], mask: Any) -> list[list[int]]:
    if mask is None:
        return rows
    return [
        [i for i, k in zip(row, keep, strict=True) if k]
        for row, keep in zip(rows, _rows(mask), strict=True)
    ]


def _is_id(item: Any) -> bool:
    if isinstance(item, torch.Tensor | np.ndarray):
        return item.ndim == 0 and not torch.as_tensor(item).is_floating_point()
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def _is_turn(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item


def _rows(ids: Any) -> list[list[int]]:
    """A 1-D or 2-D tensor, array or nested list of whole numbers, as lists."""
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        return [
            [int(i) for i in row] for row in ids
        ]  # a BatchEncoding without tensors may be ragged
    if isinstance(ids, list) and not ids:
        return [[]]
    try:
        array = torch.as_tensor(ids)
    except TypeError:
        raise ValueError(f"token ids must be whole numbers; received {_short(ids)}.") from None
    if array.is_floating_point() or array.ndim not in (1, 2):
        raise ValueError(
            f"token ids must be whole numbers in one or two dimensions; received {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    return torch.atleast_2d(array).tolist()


def _text_ids(text: str, tokenizer: Any, add_special_tokens: bool) -> list[int]:
    try:
        return list(tokenizer(text, add_special_tokens=add_special_tokens).input_ids)
    except (TypeError, UnicodeError) as error:  # half of a surrogate pair is no text
        raise ValueError(f"{_short(text)} is no text that can be tokenised: {error}") from error


def _chat_ids(chat: Any, tokenizer: Any) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "received a chat, but this model's tokenizer has no chat template: pass a string instead."
        )
    try:
        text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever the template raises: it says itself which roles it wants
        raise ValueError(
            f"this model's chat template does not take the chat {_short(chat)}: {error}"
        ) from error
    return _text_ids(text, tokenizer, False)  # the template wrote BOS itself


def check_ids(encoded: list[list[int]], vocab_size: int, context: int | None) -> None:
    """Refuse ids the model does not have and prompts that it cannot hold.

    Raises:
        ValueError: names the prompt, the position and the bound.
    """
    for number, row in enumerate(encoded):
        for position, token in enumerate(row):
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"prompt {number} has the id {token} at position {position}; this model's ids are 0 to "
                    f"{vocab_size - 1}."
                )
        if context is not None and len(row) > context:
            raise ValueError(
                f"prompt {number} is {len(row)} tokens long; this model's context holds {context}. Shorten it."
            )


# -- which positions, layers, targets ----------------------------------


def pick_indices(what: Positions, length: int, name: str, of: str) -> list[int]:
    """Indices in 0…length−1, in ascending order for a slice, as given for a list; negative ones from the end.

    Raises:
        ValueError: out of range, or not an int, slice, list or None.
    """
    if what is None:
        return list(range(length))
    if isinstance(what, slice):
        found = list(range(length))[what]
        if not found:
            raise ValueError(f"{name}={what} selects nothing: {of} has {name} 0 to {length - 1}.")
        return found
    items: Any = [what] if _is_id(what) else what
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ValueError(
            f"{name} must be None, an int, a slice or a list of ints; received {_short(what)}."
        )
    found = []
    for item in items:
        if not _is_id(item):
            raise ValueError(
                f"{name} must be None, an int, a slice or a list of ints; received {_short(what)}."
            )
        if not -length <= int(item) < length:
            raise ValueError(
                f"{name}={int(item)} is out of range: {of} has {name} 0 to {length - 1} (or −{length} to −1)."
            )
        found.append(int(item) % length)
    if not found:
        raise ValueError(f"{name} is empty: pass at least one, or None for all.")
    return list(dict.fromkeys(found))


def pick_positions(positions: Any, encoded: list[list[int]]) -> list[list[int]]:
    """The positions of each prompt: `positions` for every prompt, or a list of such, one per prompt.

    Raises:
        ValueError: as `pick`, or not one entry per prompt.
    """
    per_prompt = [positions] * len(encoded)
    if isinstance(positions, list | tuple) and any(
        item is None or isinstance(item, list | tuple | slice) for item in positions
    ):
        if len(positions) != len(encoded):
            raise ValueError(
                f"received positions for {len(positions)} prompts, but there are {len(encoded)}."
            )
        per_prompt = list(positions)
    return [
        pick_indices(what, len(ids), "positions", f"prompt {number}")
        for number, (what, ids) in enumerate(zip(per_prompt, encoded, strict=True))
    ]


def target_ids(
    targets: Any, n_prompts: int, tokenizer: Any | None, vocab_size: int
) -> list[list[int]]:
    """One equally long list of token ids per prompt.

    `targets` is one string or id, a list of them for all prompts, or a list of such lists, one per prompt.

    Raises:
        ValueError: a string that is not exactly one token (the message shows which it is), an id the model does
            not have, or lists that do not fit the prompts.
    """
    if targets is None:
        return [[] for _ in range(n_prompts)]
    if (
        isinstance(targets, str)
        or not isinstance(targets, Iterable)
        or getattr(targets, "ndim", 1) == 0
    ):
        items = [targets]
    else:
        items = list(targets)
    nested = [
        isinstance(item, list | tuple | np.ndarray | torch.Tensor) and not _is_id(item)
        for item in items
    ]
    if any(nested):
        if not all(nested) or len(items) != n_prompts or len({len(item) for item in items}) != 1:
            raise ValueError(
                f"targets per prompt must be {n_prompts} lists of one length, one list for each prompt; received "
                f"{_short(targets)}. For the same targets everywhere pass one flat list."
            )
        per_prompt = [list(item) for item in items]
    else:
        per_prompt = [items] * n_prompts
    return [[_target_id(item, tokenizer, vocab_size) for item in row] for row in per_prompt]


def _target_id(target: Any, tokenizer: Any | None, vocab_size: int) -> int:
    if _is_id(target):
        if not 0 <= int(target) < vocab_size:
            raise ValueError(
                f"target id {int(target)} is unknown: this model's ids are 0 to {vocab_size - 1}."
            )
        return int(target)
    if not isinstance(target, str) or tokenizer is None:
        kind = "a token id" if tokenizer is None else "a string or a token id"
        raise ValueError(f"a target must be {kind}; received {_short(target)}.")
    ids = _text_ids(target, tokenizer, False)
    for known in (*ids[:1], *_written_so(target, tokenizer)):
        if (len(ids) == 1 or known not in ids[:1]) and token_text(tokenizer, known) == target:
            return known
    pieces = [token_text(tokenizer, i) for i in ids]
    hint = f"{pieces[0]!r} (id {ids[0]})" if ids else "a string that is not empty"
    if len(ids) == 1:
        raise ValueError(
            f"no token of this model is the target {target!r}; the nearest is {hint}: pass that, or an id."
        )
    raise ValueError(
        f"the target {target!r} is {len(ids)} tokens for this model: {pieces}. A target is one token: pass "
        f"{'the first of them, ' if ids else ''}{hint}, or another word."
    )


def _written_so(target: str, tokenizer: Any) -> list[int]:
    """Tokens that are spelled like the target in some tokenizer's alphabet.

    SentencePiece reads "Paris" as "▁Paris", and " Paris" as "▁" + "▁Paris", though both have a token of their own.
    """
    spellings = [target.replace(" ", mark) for mark in (" ", "▁", "Ġ")]
    found = [tokenizer.convert_tokens_to_ids(spelling) for spelling in spellings]
    return [int(i) for i in found if i is not None]


def as_list(argument: Any) -> Any:
    """An iterable that can be read once, as a list that can be read again."""
    return (
        list(argument)
        if isinstance(argument, Iterable) and not hasattr(argument, "__len__")
        else argument
    )


def next_ids(ids: list[int]) -> list[int]:
    """The id after each position of a prompt; −1 where it ends."""
    return [*ids[1:], -1]


def _short(value: Any, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


MAX_TRACKED = 32


def check_numbers(top_k: Any, track: Any, max_bytes: Any, vocab: int) -> None:
    """Refuse numbers that no recipe can use."""
    if type(top_k) is not int or not 1 <= top_k <= vocab:
        raise ValueError(
            f"top_k={top_k!r} must be a whole number from 1 to {vocab}, the size of the vocabulary."
        )
    if not (track is None or track == "top1" or (type(track) is int and 1 <= track <= vocab)):
        raise ValueError(
            f'track={track!r} must be "top1", None, or a number of tokens from 1 to {vocab}.'
        )
    if type(max_bytes) is not int or max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes!r} must be a positive number of bytes.")
