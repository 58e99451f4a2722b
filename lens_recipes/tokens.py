"""Prompts become token ids, positions become indices, ids become legible text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

Positions = int | slice | Sequence[int] | None


# -- prompts ─► ids ------------------------------------------------------------------------------------------


def encode(prompts: Any, tokenizer: Any | None, *, add_special_tokens: bool = True) -> list[list[int]]:
    """One list of ids per prompt, without padding.

    Accepts one or several strings, lists of ids or chats (lists of `{"role", "content"}` dicts), a 2-D tensor or
    array of ids, or a `BatchEncoding` (its masked tokens are dropped). A chat goes through the model's own
    template with the generation prompt open; the template's special tokens are not added a second time.

    Raises:
        ValueError: no prompts, an empty prompt, or something that is none of these.
    """
    kind = _kind(prompts)
    if kind == "encoding":
        ids, mask = prompts["input_ids"], prompts.get("attention_mask")
        rows = _rows(ids)
        keep = _rows(mask) if mask is not None else [[1] * len(row) for row in rows]
        encoded = [[i for i, k in zip(row, kept, strict=True) if k] for row, kept in zip(rows, keep, strict=True)]
    elif kind == "array":
        encoded = _rows(prompts)
    else:
        several = list(prompts) if kind.startswith("several ") else [prompts]
        if not several:
            raise ValueError("received no prompts: pass at least one string, list of ids or chat.")
        if "ids" in kind:
            encoded = [[int(i) for i in prompt] for prompt in several]
        elif tokenizer is None:
            raise ValueError(
                "this model was loaded without a tokenizer, so prompts are lists of token ids; received text. "
                "Pass load(..., tokenizer=...) to use strings."
            )
        elif "chat" in kind:
            encoded = [_chat_ids(chat, tokenizer) for chat in several]
        else:
            encoded = [list(tokenizer(text, add_special_tokens=add_special_tokens).input_ids) for text in several]
    for number, row in enumerate(encoded):
        if not row:
            raise ValueError(f"prompt {number} is empty: it has no tokens, so there is nothing to predict from.")
    if not encoded:
        raise ValueError("received no prompts: pass at least one string, list of ids or chat.")
    return encoded


def _kind(prompts: Any) -> str:
    """What the caller passed: "text", "ids", "chat", "several …", "array" or "encoding"."""
    if isinstance(prompts, str):
        return "text"
    if isinstance(prompts, torch.Tensor | np.ndarray):
        return "array"
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        return "encoding"
    if isinstance(prompts, Iterable) and not isinstance(prompts, Mapping | bytes):
        items = list(prompts)
        if not items:
            return "several text"
        if all(_is_id(item) for item in items):
            return "ids"
        if all(isinstance(item, str) for item in items):
            return "several text"
        if all(_is_turn(item) for item in items):
            return "chat"
        if all(isinstance(item, Iterable) and not isinstance(item, str | Mapping) for item in items):
            inner = [list(item) for item in items]
            if all(turns and all(_is_turn(turn) for turn in turns) for turns in inner):
                return "several chat"
            if all(_is_id(i) for ids in inner for i in ids):
                return "several ids"
    raise ValueError(
        f"received {_short(prompts)} as prompts; accepted are one or several strings, lists of token ids or chats "
        '(lists of {"role": …, "content": …}), a 2-D tensor of ids, or a BatchEncoding. All of one sort.'
    )


def _is_id(item: Any) -> bool:
    if isinstance(item, torch.Tensor | np.ndarray):
        return item.ndim == 0 and not torch.as_tensor(item).is_floating_point()
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def _is_turn(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item


def _rows(ids: Any) -> list[list[int]]:
    """A 1-D or 2-D tensor, array or nested list of whole numbers, as lists."""
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        return [[int(i) for i in row] for row in ids]  # a BatchEncoding without tensors may be ragged
    array = torch.as_tensor(ids)
    if array.is_floating_point() or array.ndim not in (1, 2):
        raise ValueError(
            f"token ids must be whole numbers in one or two dimensions; received {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    return torch.atleast_2d(array).tolist()


def _chat_ids(chat: Any, tokenizer: Any) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("received a chat, but this model's tokenizer has no chat template: pass a string instead.")
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)  # the template wrote BOS itself


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


# -- which positions, layers, targets ------------------------------------------------------------------------


def pick(what: Positions, length: int, name: str, of: str) -> list[int]:
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
        raise ValueError(f"{name} must be None, an int, a slice or a list of ints; received {_short(what)}.")
    found = []
    for item in items:
        if not _is_id(item):
            raise ValueError(f"{name} must be None, an int, a slice or a list of ints; received {_short(what)}.")
        if not -length <= int(item) < length:
            raise ValueError(
                f"{name}={int(item)} is out of range: {of} has {name} 0 to {length - 1} (or −{length} to −1)."
            )
        found.append(int(item) % length)
    if not found:
        raise ValueError(f"{name} is empty: pass at least one, or None for all.")
    return list(dict.fromkeys(found))


def target_ids(targets: Any, n_prompts: int, tokenizer: Any | None, vocab_size: int) -> list[list[int]]:
    """One equally long list of token ids per prompt.

    `targets` is one string or id, a list of them for all prompts, or a list of such lists, one per prompt.

    Raises:
        ValueError: a string that is not exactly one token (the message shows which it is), an id the model does
            not have, or lists that do not fit the prompts.
    """
    if targets is None:
        return [[] for _ in range(n_prompts)]
    items = [targets] if isinstance(targets, str) or _is_id(targets) else list(targets)
    nested = [isinstance(item, list | tuple | np.ndarray) for item in items]
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
            raise ValueError(f"target id {int(target)} is unknown: this model's ids are 0 to {vocab_size - 1}.")
        return int(target)
    if not isinstance(target, str) or tokenizer is None:
        kind = "a token id" if tokenizer is None else "a string or a token id"
        raise ValueError(f"a target must be {kind}; received {_short(target)}.")
    ids = list(tokenizer(target, add_special_tokens=False).input_ids)
    if len(ids) != 1:
        # SentencePiece encodes " Paris" as "▁" + "▁Paris": look for the token that is written exactly so.
        for mark in ("▁", "Ġ"):
            exact = tokenizer.convert_tokens_to_ids(target.replace(" ", mark))
            if exact is not None and exact != tokenizer.unk_token_id and token_text(tokenizer, exact) == target:
                return int(exact)
        pieces = [token_text(tokenizer, i) for i in ids]
        hint = f"the first of them, {pieces[0]!r} (id {ids[0]})" if ids else "a string that is not empty"
        raise ValueError(
            f"the target {target!r} is {len(ids)} tokens for this model: {pieces}. A target is one token: pass "
            f"{hint}, or another word."
        )
    return ids[0]


def _short(value: Any, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


# -- ids ─► text ---------------------------------------------------------------------------------------------


def _brackets(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"⟨{byte:02X}⟩" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("lens_brackets", _brackets)


def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, reversed (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_of_char()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_text(tokenizer: Any | None, token: int) -> str:
    """The text that one token stands for, with its leading space; bytes that are no character as `⟨F0⟩`.

    Not `tokenizer.decode([id])`: that drops the leading space of SentencePiece tokens and shows every broken
    character as the same `�`.
    """
    if tokenizer is None:
        return f"#{token}"
    piece = tokenizer.convert_ids_to_tokens(int(token))
    if piece is None:
        return f"#{token}"  # the embedding has more rows than the tokenizer has tokens
    if isinstance(piece, bytes):
        return piece.decode("utf-8", errors="lens_brackets")
    if token in getattr(tokenizer, "added_tokens_decoder", {}):
        return piece
    if byte := _BYTE_TOKEN.fullmatch(piece):
        return bytes([int(byte[1], 16)]).decode("utf-8", errors="lens_brackets")
    if _byte_level(tokenizer):
        if all(char in _BYTES for char in piece):
            return bytes(_BYTES[char] for char in piece).decode("utf-8", errors="lens_brackets")
        return piece
    return piece.replace("▁", " ")


def _byte_level(tokenizer: Any) -> bool:
    """Whether its tokens are written in GPT-2's alphabet of bytes."""
    known = tokenizer.__dict__.get("_lens_byte_level")
    if known is None:
        vocabulary = tokenizer.get_vocab()
        known = "Ġ" in vocabulary and "▁" not in vocabulary
        tokenizer.__dict__["_lens_byte_level"] = known
    return known


def token_texts(tokenizer: Any | None, ids: Iterable[int]) -> dict[int, str]:
    """`token_text` of every id, once."""
    return {int(i): token_text(tokenizer, int(i)) for i in sorted({int(i) for i in ids if i >= 0})}
