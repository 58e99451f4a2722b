"""Text for a terminal: as it is written, and without effect there.

Whatever others have written (a config, a file, a server's answer, a token) may hold what a terminal
acts on: escape sequences, controls, turns of the text. Errors and consoles pass all text through
`escape_terminal`.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from typing import Any

# Bidirectional classes of the characters that only turn text round.
_TEXT_DIRECTION_CLASSES = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")

# Unicode categories of the characters that have no look of their own.
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")

NO_BREAK_SPACES = ("\u00a0", "\u202f")  # the second one is narrow


class PrintedText(str):
    """A text that a notebook shows as `print` does, and not as a string with its quotation marks.

    It is a string in all else.
    """

    __slots__ = ()

    _white_space = "pre"  # wide lines of a table are scrolled

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the text to IPython, line by line."""
        show_lines(printer, self)

    def _repr_html_(self) -> str:
        """Return the text for a notebook's page."""
        style = f"font-family: monospace; white-space: {self._white_space}; overflow-x: auto"
        return f'<pre style="{style}">{html.escape(self)}</pre>'


class PrintedSentences(PrintedText):
    """The same for sentences, whose long lines are wrapped."""

    __slots__ = ()

    _white_space = "pre-wrap"


def show_lines(printer: Any, text: str) -> None:
    """Show a text to IPython's pretty printer as it is written."""
    for number, line in enumerate(text.splitlines()):
        if number > 0:
            printer.break_()
        printer.text(line)


def escape_terminal(text: str) -> str:
    """Return a whole text for a terminal, as it is written.

    Only what the terminal would act on rather than show is written by number.

    >>> escape_terminal("fine\\n\\x1b[2J")
    'fine\\n⟨1B⟩[2J'
    """
    return replace_each(
        text, lambda char: legible_character(char) if _acts_on_terminal(char) else char
    )


def replace_each(text: str, replace: Callable[[str], str]) -> str:
    """Return a text with each character replaced; each is looked at once, however long the text."""
    replaced = {}
    for char in set(text):
        if replace(char) != char:
            replaced[ord(char)] = replace(char)
    return text.translate(replaced) if replaced else text


def one_line(text: str, n_shown: int = 500) -> str:
    """Return what others say as one line of an own sentence: escaped, and cut where it is long."""
    return escape_terminal(" ".join(text.split())[:n_shown])


def _acts_on_terminal(char: str) -> bool:
    """Return whether a terminal would act on a character: a control, or a turn of the text."""
    is_control = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return is_control or unicodedata.bidirectional(char) in _TEXT_DIRECTION_CLASSES


def legible_character(char: str) -> str:
    """Return a character so that it can be seen.

    Control and format characters (NUL, zero-width, bidi overrides) are written by number. A
    no-break space is another token than a space, and looks so.

    >>> legible_character("\\u200b"), legible_character("\\u00a0"), legible_character("\\u3000")
    ('⟨200B⟩', '⍽', '·')
    """
    category = unicodedata.category(char)
    if category in _INVISIBLE_CATEGORIES:
        return f"⟨{ord(char):02X}⟩"
    if char in NO_BREAK_SPACES:
        return "⍽"
    if category == "Zs":  # a space of any width
        return "·"
    return char
