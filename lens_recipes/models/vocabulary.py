"""Turn token ids into text, and follow a text as its ids arrive."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Any

# -- ids ─► text ---------------------------------------------------


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


def prompt_text(tokenizer: Any | None, ids: list[int], *, special: bool = True) -> str:
    """A whole text, with or without its special tokens: characters that are several tokens come out as themselves."""
    if tokenizer is None:
        return " ".join(f"#{token}" for token in ids)
    return tokenizer.decode(
        ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )


class Decoder:
    """Ids to text as they come: characters that are several tokens come out whole, and the end says the rest.

    Example:
        >>> decoder = Decoder(tokenizer)
        >>> for token in ids:
        ...     print(decoder.add(token), end="")
        >>> print(decoder.rest())
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.ids, self.said = tokenizer, list[int](), 0

    def add(self, token: int) -> str:
        """What is certain of the text after one more token, without special tokens."""
        self.ids.append(int(token))
        text = self._text()
        return (
            "" if text.endswith("\ufffd") else self._since(text)
        )  # a character that is not complete yet

    def rest(self) -> str:
        """What is left, though it may be broken."""
        return self._since(self._text())

    def _text(self) -> str:
        """Of all the ids: some tokenizers treat the first one differently, so that pieces do not add up."""
        return prompt_text(self.tokenizer, self.ids, special=False)

    def _since(self, text: str) -> str:
        new, self.said = text[self.said :], len(text)
        return new
