"""Markdown in which no token has an effect: code, plain sentences and pipe tables."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lens_recipes.arrays.text import visible_token

# What GitHub, or another renderer of pipe tables, acts on even between backticks.
ACTS_IN_CODE = set("|`\\<>&$")


def _entities(characters: Iterable[str]) -> dict[int, str]:
    """Return a table for `str.translate` that writes some characters as HTML entities."""
    return {ord(character): f"&#{ord(character)};" for character in characters}


# What GitHub acts on in prose. No line of a table begins with anything else that it acts on.
PROSE_ENTITIES = _entities("\\`*_[]<>|&$~#@")

CODE_ENTITIES = _entities(string.punctuation + string.whitespace)


class Column(NamedTuple):
    """The heading of a column, which is Markdown already, and whether the column holds numbers."""

    heading: str
    numeric: bool


def pipe_table(columns: list[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return a pipe table, numbers to the right. The cells of `rows` are Markdown already."""
    headings = [column.heading for column in columns]
    alignment = ["---:" if column.numeric else "---" for column in columns]
    lines = [headings, alignment, *rows]
    return "\n".join(_table_line(cells) for cells in lines)


def _table_line(cells: Sequence[str]) -> str:
    """Return a line of a pipe table. A pipe within a cell is written as an entity."""
    safe_cells = [cell.replace("|", "&#124;") for cell in cells]
    return f"| {' | '.join(safe_cells)} |"


def token_code(token: str, width: int = 12) -> str:
    """Return one token as code: legible, cut to `width` characters, and inert in a pipe table.

    >>> token_code(" Paris"), token_code("|")
    ('`·Paris`', '<code>&#124;</code>')
    """
    return text_code(visible_token(token, width))


def text_code(text: str) -> str:
    """Return a legible text on one line as code that is inert in a pipe table."""
    if ACTS_IN_CODE.isdisjoint(text):
        return f"`{text}`"
    # What stands inside an HTML element is still Markdown: no punctuation may be left in it.
    return f"<code>{text.translate(CODE_ENTITIES)}</code>"


def escape_sentence(text: str) -> str:
    """Return a sentence in which nothing is markup."""
    return text.translate(PROSE_ENTITIES)
