"""Turn token ids into text, and follow a text as its ids arrive."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Any

# -- bytes that are no character ---------------------------------------


def _bytes_in_brackets(error: UnicodeError) -> tuple[str, int]:
    """Return the bytes that could not be decoded as `⟨F0⟩`, and where decoding goes on."""
    assert isinstance(error, UnicodeDecodeError)
    broken = error.object[error.start : error.end]
    return "".join(f"⟨{byte:02X}⟩" for byte in broken), error.end


codecs.register_error("lens_brackets", _bytes_in_brackets)


def _decode(raw: bytes) -> str:
    """Return bytes as text; those that are no character as `⟨F0⟩`."""
    return raw.decode("utf-8", errors="lens_brackets")


def _byte_of_char() -> dict[str, int]:
    """Return the byte behind each of GPT-2's printable stand-ins for the 256 bytes.

    Radford et al. 2019 call the inverse `bytes_to_unicode`.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    byte_of = {chr(byte): byte for byte in printable}
    stand_in = 256
    for byte in range(256):
        if byte not in printable:
            byte_of[chr(stand_in)] = byte
            stand_in += 1
    return byte_of


_BYTES = _byte_of_char()

# A byte as SentencePiece writes it where a text has a character outside of its vocabulary.
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


# -- ids to text -------------------------------------------------------


def token_text(tokenizer: Any | None, token: int) -> str:
    """Return the text that one token stands for, with its leading space.

    Bytes that are no character are shown as `⟨F0⟩`. This is not `tokenizer.decode([id])`, which
    drops the leading space of SentencePiece tokens and shows every broken character as the same
    `�`.
    """
    if tokenizer is None:
        return f"#{token}"
    piece = tokenizer.convert_ids_to_tokens(int(token))
    if piece is None:
        return f"#{token}"  # the embedding has more rows than the tokenizer has tokens
    if isinstance(piece, bytes):
        return _decode(piece)
    if token in getattr(tokenizer, "added_tokens_decoder", {}):
        return piece
    byte_token = _BYTE_TOKEN.fullmatch(piece)
    if byte_token is not None:
        return _decode(bytes([int(byte_token[1], 16)]))
    if not _is_byte_level(tokenizer):
        return piece.replace("▁", " ")
    if all(char in _BYTES for char in piece):
        return _decode(bytes(_BYTES[char] for char in piece))
    return piece


def _is_byte_level(tokenizer: Any) -> bool:
    """Return whether the tokens are written in GPT-2's alphabet of bytes; looked up once."""
    byte_level = tokenizer.__dict__.get("_lens_byte_level")
    if byte_level is None:
        vocabulary = tokenizer.get_vocab()
        byte_level = "Ġ" in vocabulary and "▁" not in vocabulary
        tokenizer.__dict__["_lens_byte_level"] = byte_level
    return byte_level


def token_texts(tokenizer: Any | None, ids: Iterable[int]) -> dict[int, str]:
    """Return the `token_text` of every id, made once for each; ids below 0 are padding."""
    texts = {}
    for token in sorted({int(token) for token in ids}):
        if token >= 0:
            texts[token] = token_text(tokenizer, token)
    return texts


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
