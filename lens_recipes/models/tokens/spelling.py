"""How a tokenizer spells text in its tokens.

In GPT-2's alphabet of bytes, in bytes as they are, with SentencePiece's mark for a space, or
plainly. The text of a token is plain here: several tokens may have the same one.
"""

from __future__ import annotations

import codecs
import re
import weakref
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

# -- bytes that are no character ---------------------------------------


def _bytes_in_brackets(error: UnicodeError) -> tuple[str, int]:
    """Return the bytes that could not be decoded as `⟨F0⟩`, and where decoding goes on."""
    assert isinstance(error, UnicodeDecodeError)
    broken = error.object[error.start : error.end]
    return "".join(f"⟨{byte:02X}⟩" for byte in broken), error.end


codecs.register_error("lens_brackets", _bytes_in_brackets)

_BRACKETED_BYTE = re.compile(r"⟨([0-9A-F]{2})⟩")


def decode(raw: bytes) -> str:
    """Return bytes as text; those that are no character as `⟨F0⟩`."""
    return raw.decode("utf-8", errors="lens_brackets")


def encode(text: str) -> bytes:
    """Return the bytes of a text in which `⟨F0⟩` stands for a byte."""
    raw = b""
    for number, part in enumerate(_BRACKETED_BYTE.split(text)):
        is_byte = number % 2 == 1
        raw += bytes([int(part, 16)]) if is_byte else part.encode("utf-8", "surrogatepass")
    return raw


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


BYTE_OF_CHAR = _byte_of_char()
CHAR_OF_BYTE = {byte: char for char, byte in BYTE_OF_CHAR.items()}

# -- the tokens of one tokenizer ---------------------------------------

SPACE_MARK = "▁"

# A byte as SentencePiece writes it where a text has a character outside of its vocabulary.
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Alphabet(Enum):
    """What the tokens of a tokenizer are written in."""

    GPT2_BYTES = "a printable stand-in for each byte"
    RAW_BYTES = "bytes"
    SPACE_MARKS = "text with ▁ for a space"
    PLAIN = "text"


class Spelling(NamedTuple):
    """How the tokens of one tokenizer are written.

    Attributes:
        size: How many tokens it had when it was looked at.
        alphabet: What they are written in.
        added: The tokens that were added to its vocabulary, special ones among them: their text by
            id. They are written as they are.
        added_ids: Their ids by text.
        raw_ids: The id of each token that is bytes.
    """

    size: int
    alphabet: Alphabet
    added: dict[int, str]
    added_ids: dict[str, int]
    raw_ids: dict[bytes, int]

    def plain_text(self, piece: str | bytes) -> str:
        """Return the text of a token that was not added."""
        if isinstance(piece, bytes):
            return decode(piece)
        if self.alphabet is Alphabet.GPT2_BYTES:
            if all(char in BYTE_OF_CHAR for char in piece):
                return decode(bytes(BYTE_OF_CHAR[char] for char in piece))
            return piece
        byte = byte_of_token(piece)
        if byte is not None:
            return decode(bytes([byte]))
        if self.alphabet is Alphabet.SPACE_MARKS:
            return piece.replace(SPACE_MARK, " ")
        return piece

    def may_share(self, piece: str | bytes, text: str) -> bool:
        """Return whether another token may have the text of a token that was not added."""
        if text in self.added_ids:
            return True
        if self.alphabet in (Alphabet.GPT2_BYTES, Alphabet.RAW_BYTES):
            return False  # no two tokens are the same bytes
        return byte_of_token(piece) is not None or " " in text

    def pieces(self, text: str) -> list[str]:
        """Return how tokens that were not added may be written that have this text.

        First as the tokenizer itself writes it.
        """
        raw = encode(text)
        if self.alphabet is Alphabet.GPT2_BYTES:
            return ["".join(CHAR_OF_BYTE[byte] for byte in raw), text]
        pieces = [text]
        if self.alphabet is Alphabet.SPACE_MARKS:
            pieces.insert(0, text.replace(" ", SPACE_MARK))
        if len(raw) == 1:
            pieces += [f"<0x{raw[0]:02X}>", f"<0x{raw[0]:02x}>"]
        return pieces


def byte_of_token(piece: str | bytes) -> int | None:
    """Return the byte that a token like `<0x0A>` stands for; None for any other."""
    found = _BYTE_TOKEN.fullmatch(piece) if isinstance(piece, str) else None
    return None if found is None else int(found[1], 16)


_spellings: weakref.WeakKeyDictionary[Any, Spelling] = weakref.WeakKeyDictionary()


def spelling_of(tokenizer: Any) -> Spelling:
    """Return how a tokenizer's tokens are written; looked up again when tokens were added."""
    size = len(tokenizer)
    known = _spellings.get(tokenizer)
    if known is None or known.size != size:
        known = _spellings[tokenizer] = _look_up(tokenizer, size)
    return known


def _look_up(tokenizer: Any, size: int) -> Spelling:
    """Ask a tokenizer for its added tokens, and in what it writes the others."""
    added = _added_tokens(tokenizer)
    raw_ids: dict[bytes, int] = {}
    if isinstance(_first_other(tokenizer, added, size), bytes):
        alphabet = Alphabet.RAW_BYTES
        for token in range(size):
            piece = read_piece(tokenizer, token)
            if isinstance(piece, bytes) and token not in added:
                raw_ids.setdefault(piece, token)
    else:
        alphabet = _alphabet(tokenizer, added)
    return Spelling(
        size=size,
        alphabet=alphabet,
        added=added,
        added_ids={text: token for token, text in added.items()},
        raw_ids=raw_ids,
    )


def _added_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the text of each token that was added to a vocabulary, by its id."""
    decoder = getattr(tokenizer, "added_tokens_decoder", None)
    if isinstance(decoder, Mapping):
        return {int(token): str(added) for token, added in decoder.items()}
    # mistral-common adds none. Its special tokens are no text that it would read, either.
    special = {}
    for token in getattr(tokenizer, "all_special_ids", []):
        special[int(token)] = str(tokenizer.convert_ids_to_tokens(int(token)))
    return special


def _first_other(tokenizer: Any, added: dict[int, str], size: int) -> str | bytes | None:
    """Return the first token that was not added, as it is written."""
    for token in range(size):
        if token not in added:
            return read_piece(tokenizer, token)
    return None


def _alphabet(tokenizer: Any, added: dict[int, str]) -> Alphabet:
    """Return what tokens are written in, as the tokenizer's own steps say it.

    Failing that, as its vocabulary looks. A mark that was added to it spells no space.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for step in ("decoder", "pre_tokenizer", "normalizer"):
        state = _state(getattr(backend, step, None))
        if '"ByteLevel"' in state:
            return Alphabet.GPT2_BYTES
        if SPACE_MARK in state:
            return Alphabet.SPACE_MARKS
    pieces = [piece for piece, token in tokenizer.get_vocab().items() if token not in added]
    if any(SPACE_MARK in piece for piece in pieces):
        return Alphabet.SPACE_MARKS
    return Alphabet.GPT2_BYTES if "Ġ" in pieces else Alphabet.PLAIN


def _state(step: Any) -> str:
    """Return one step of a fast tokenizer as JSON; nothing for one that someone wrote in Python."""
    if step is None:
        return ""
    try:
        return step.__getstate__().decode()
    except Exception:  # tokenizers raises Exception itself
        return ""


def read_piece(tokenizer: Any, token: int) -> str | bytes | None:
    """Return a token as the tokenizer writes it; None where it has none of that id."""
    try:
        return _raw_piece(tokenizer, token) or tokenizer.convert_ids_to_tokens(int(token))
    except Exception:  # some raise for an id that they do not have, each what it likes
        return None


def _raw_piece(tokenizer: Any, token: int) -> bytes:
    """Return the bytes of one of mistral-common's tokens; none for any other.

    As text, all that are no whole character would be the same �.
    """
    # Its own attributes: a tokenizer of transformers searches long for one that it does not have.
    inside = vars(tokenizer).get("tokenizer")
    instruct = getattr(inside, "instruct_tokenizer", None)
    read = getattr(getattr(instruct, "tokenizer", None), "id_to_byte_piece", None)
    return b"" if read is None else read(int(token))  # none for special tokens, too


def read_id(tokenizer: Any, piece: str) -> int | None:
    """Return the id of a token as it is written; None where there is none."""
    token = tokenizer.convert_tokens_to_ids(piece)
    if token is None or read_piece(tokenizer, token) != piece:  # most give the unknown token's id
        return None
    return int(token)
