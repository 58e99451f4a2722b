"""Markdown in which no token has an effect: code, plain sentences and pipe tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lens_recipes.arrays.text import visible_token

# What GitHub acts on in prose. No line of a table begins with anything else that it acts on.
MARKUP = set("\\`*_[]<>|&$~#@")

# What GitHub, or another renderer of pipe tables, acts on even between backticks.
NOT_IN_CODE = set("|`\\<>&$")


class Column(NamedTuple):
    """The heading of a column, which is Markdown already, and whether the column holds numbers."""

    heading: str
    numeric: bool


def pipe_table(columns: list[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return a pipe table, numbers to the right. The cells of `rows` are Markdown already."""
    headings = [column.heading for column in columns]
    alignment = ["---:" if column.numeric else "---" for column in columns]
    lines = [_table_line(headings), _table_line(alignment)]
    lines += [_table_line(row) for row in rows]
    return "\n".join(lines)


def _table_line(cells: Sequence[str]) -> str:
    """Return a line of a pipe table. A pipe within a cell is written by number."""
    safe_cells = [cell.replace("|", _by_number("|")) for cell in cells]
    return f"| {' | '.join(safe_cells)} |"


def token_code(token: str, width: int = 12) -> str:
    """Return one token as code: legible, cut to `width` characters, and inert in a pipe table.

    >>> token_code(" Paris"), token_code("|")
    ('`·Paris`', '<code>&#124;</code>')
    """
    return text_code(visible_token(token, width))


def text_code(text: str) -> str:
    """Return a legible text on one line as code that is inert in a pipe table."""
    if NOT_IN_CODE.isdisjoint(text):
        return f"`{text}`"
    # What stands inside an HTML element is still Markdown: all punctuation goes by number.
    inert = "".join(_by_number(char) if _is_punctuation(char) else char for char in text)
    return f"<code>{inert}</code>"


def escape_sentence(text: str) -> str:
    """Return a sentence in which nothing is markup."""
    return "".join(_by_number(char) if char in MARKUP else char for char in text)


def _is_punctuation(char: str) -> bool:
    """Check whether a character is one of ASCII's that is neither a letter nor a digit."""
    return char.isascii() and not char.isalnum()


def _by_number(char: str) -> str:
    """Return a character as an HTML entity, such as "&#124;"."""
    return f"&#{ord(char)};"
