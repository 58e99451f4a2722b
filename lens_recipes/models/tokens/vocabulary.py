"""Turn token ids into text and back, and follow a text as its ids arrive."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lens_recipes.models.tokens.spelling import (
    Alphabet,
    Spelling,
    byte_of_token,
    decode,
    encode,
    read_id,
    read_piece,
    spelling_of,
)

# How the id of a row of the embedding is shown that has no token.
_NUMBER = re.compile(r"#(\d+)")

# -- ids to text -------------------------------------------------------


def token_text(tokenizer: Any | None, token: int) -> str:
    """Return the text that one token stands for, with its leading space. It is no other token's.

    Bytes that are no character are shown as `⟨F0⟩`. This is not `tokenizer.decode([id])`, which
    drops the leading space of SentencePiece tokens and shows every broken character as the same
    `�`.
    """
    if tokenizer is None:
        return f"#{token}"
    piece = read_piece(tokenizer, token)
    if piece is None:
        return f"#{token}"  # the embedding has more rows than the tokenizer has tokens
    spelling = spelling_of(tokenizer)
    if token in spelling.added:
        return spelling.added[token]
    text = spelling.plain_text(piece)
    if not spelling.may_share(piece, text):
        return text
    same = ids_of_plain_text(tokenizer, spelling, text)
    if not same or same[0] == token:
        return text
    # Another token has this text, and is the one that is meant by it: the letter "A", not the byte.
    if isinstance(piece, bytes) or piece == text or byte_of_token(piece) is not None:
        raw = encode(text)
        return f"⟨{raw[0]:02X}⟩{decode(raw[1:])}"
    return piece


def ids_of_plain_text(tokenizer: Any, spelling: Spelling, text: str) -> list[int]:
    """Return the tokens that have this text, first the one that is meant by it."""
    ids = []
    if text in spelling.added_ids:
        ids.append(spelling.added_ids[text])
    if spelling.alphabet is Alphabet.RAW_BYTES:
        raw_id = spelling.raw_ids.get(encode(text))
        return ids if raw_id is None else [*ids, raw_id]
    for piece in spelling.pieces(text):
        token = read_id(tokenizer, piece)
        if token is not None and token not in ids and spelling.plain_text(piece) == text:
            ids.append(token)
    return ids


def token_texts(tokenizer: Any | None, ids: Iterable[int]) -> dict[int, str]:
    """Return the `token_text` of every id, made once for each; ids below 0 are padding."""
    texts = {}
    for token in sorted({int(token) for token in ids}):
        if token >= 0:
            texts[token] = token_text(tokenizer, token)
    return texts


# -- text to an id -----------------------------------------------------


def token_id(tokenizer: Any | None, text: str) -> int | None:
    """Return the token that is shown as this text, the inverse of `token_text`; None for none.

    This is not `tokenizer(text)`: SentencePiece reads "Paris" as "▁Paris", and " Paris" as "▁" and
    "▁Paris", though both have a token of their own.
    """
    number = _NUMBER.fullmatch(text)
    if tokenizer is None:
        return None if number is None else int(number[1])
    spelling = spelling_of(tokenizer)
    candidates = ids_of_plain_text(tokenizer, spelling, text)
    candidates += ids_of_plain_text(tokenizer, spelling, decode(encode(text)))
    if spelling.alphabet is not Alphabet.RAW_BYTES:
        as_written = read_id(tokenizer, text)
        candidates += [] if as_written is None else [as_written]
    if number is not None:
        candidates.append(int(number[1]))
    for token in candidates:
        if token_text(tokenizer, token) == text:
            return token
    return None


# -- whole texts -------------------------------------------------------


def prompt_text(tokenizer: Any | None, ids: list[int], *, special: bool = True) -> str:
    """Return a whole text, with or without its special tokens.

    Characters that are several tokens come out as themselves.
    """
    if tokenizer is None:
        return " ".join(f"#{token}" for token in ids)
    return tokenizer.decode(
        ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )


class Decoder:
    """A writer of text whose ids arrive one by one.

    A character that is several tokens comes out whole, and the end gives the rest.

    Example:
        >>> decoder = Decoder(tokenizer)
        >>> for token in ids:
        ...     print(decoder.add(token), end="")
        >>> print(decoder.rest())
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.n_written = 0  # characters that were given out

    def add(self, token: int) -> str:
        """Return what is certain of the text after one more token, without special tokens."""
        self.ids.append(int(token))
        text = self._text()
        if text.endswith("\ufffd"):
            return ""  # a character that is not complete yet
        return self._new_part(text)

    def rest(self) -> str:
        """Return what is left, though its last character may be broken."""
        return self._new_part(self._text())

    def _text(self) -> str:
        """Return the text of all ids.

        Some tokenizers treat the first one differently, which is why pieces do not add up.
        """
        return prompt_text(self.tokenizer, self.ids, special=False)

    def _new_part(self, text: str) -> str:
        """Return the part of the text that was not given out yet, and take note of it."""
        new = text[self.n_written :]
        self.n_written = len(text)
        return new
