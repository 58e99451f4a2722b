"""Markdown in which no token has an effect: code, plain sentences and pipe tables."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lens_recipes.arrays.text import legible_line, visible_token

# What GitHub, or another renderer of pipe tables, acts on even between backticks.
ACTS_IN_CODE = set("|`\\<>&$")

LABEL_WIDTH = 40  # characters of the name of a site


def _entities(characters: Iterable[str]) -> dict[int, str]:
    """Return a table for `str.translate` that writes some characters as HTML entities."""
    return {ord(character): f"&#{ord(character)};" for character in characters}


# What GitHub acts on in prose. No line of a table begins with anything else that it acts on.
PROSE_ENTITIES = _entities("\\`*_[]<>|&$~#@")

CODE_ENTITIES = _entities(string.punctuation + string.whitespace)

# GitHub makes links of addresses that are in no code, whatever stands for their letters. A comment
# parts them.
ADDRESS = re.compile(r"@|://|www\.|xmpp:|mailto:", re.IGNORECASE)

PARTED = {ord(character): f"&#{ord(character)};<!-- -->" for character in ".:@"}

PLAIN_LABEL = re.compile(r"[0-9A-Za-z–]*(\.[0-9A-Za-z_]+)*")


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
    return f"<code>{_translated(text, CODE_ENTITIES)}</code>"


def label_code(label: str) -> str:
    """Return the name of a site: as it is where nothing in it can act, otherwise as code.

    >>> label_code("3"), label_code("3.attn_out"), label_code("3.<b>")
    ('3', '3.attn_out', '<code>3&#46;&#60;b&#62;</code>')
    """
    if PLAIN_LABEL.fullmatch(label):
        return label
    return token_code(label, LABEL_WIDTH)


def escape_sentence(text: str) -> str:
    """Return a sentence in which nothing is markup.

    >>> escape_sentence("a_b\\n# c")
    'a&#95;b↵&#35; c'
    """
    return _translated(legible_line(text), PROSE_ENTITIES)


def _translated(text: str, entities: dict[int, str]) -> str:
    """Return a text with entities in place of some characters, and with no address in it."""
    if ADDRESS.search(text):
        entities = entities | PARTED
    return text.translate(entities)
