"""The text of a token, and how it is shown: legible, and without effect wherever it is shown.

A token can hold anything: line breaks, control characters, HTML, TeX, right-to-left text. Whatever
is shown to a person passes through one of these functions.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Collection

from lens_recipes.terminal import legible_character, replace_each

EACH_TARGET = "each prompt's target"  # what targets are called that differ from prompt to prompt

_RIGHT_TO_LEFT_CLASSES = ("R", "AL", "AN")

_WHITESPACE_SYMBOLS = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})

_ISOLATE, _END_OF_ISOLATE = "\u2068", "\u2069"


def visible_token(token: str, width: int = 12) -> str:
    """Return one token as a person can read it, cut to `width` characters.

    Whitespace and control characters become visible: "·" is a space before or in a word, "␣" a
    token of spaces alone, "⍽" a no-break space, "↵" a line break, "⇥" a tab, "∅" no text.

    >>> visible_token(" Paris"), visible_token(" "), visible_token(""), visible_token("\\n\\n")
    ('·Paris', '␣', '∅', '↵↵')
    """
    if not token:
        shown = "∅"
    elif token.strip(" ") == "":
        shown = "␣" * len(token)  # beside a full stop, a lone middle dot would not be seen
    else:
        # One character more than there is room for shows that it was cut.
        shown = legible(token[: width + 1])
    if len(shown) > width:
        return shown[: width - 1] + "…"
    return shown


def legible(text: str) -> str:
    r"""Return a text of which every character can be seen, its spaces and line breaks too.

    >>> legible(" Paris\n")
    '·Paris↵'
    """
    return replace_each(text.translate(_WHITESPACE_SYMBOLS), legible_character)


def plotly_safe(token: str, width: int = 12) -> str:
    """Return one token for a plotly label, as `visible_token` shows it, and without effect there.

    Plotly acts on tags, entities and TeX. Right-to-left text is isolated, so that it does not turn
    round what stands beside it.
    """
    shown = visible_token(token, width)  # cut before escaping, never mid-entity
    safe = escape_plotly(shown)
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT_CLASSES for char in shown):
        return f"{_ISOLATE}{safe}{_END_OF_ISOLATE}"
    return safe


def escape_plotly(text: object) -> str:
    """Return any text for plotly, as it is written, and without effect there.

    No tag, entity or TeX in it acts, nothing turns the text round, and what has no look of its own
    is written by number. Each text in a figure or a page that is not one of ours goes through here:
    tokens, names of models, components and metrics, whatever a saved result says of itself.
    """
    shown = replace_each(
        str(text), lambda char: char if char in " \n\t" else legible_character(char)
    )
    return html.escape(shown, quote=False).replace("$", "&#36;")


def escape_page_text(text: str) -> str:
    """Return a whole text for a page, with its spaces and lines, legible and without effect."""
    return escape_plotly(text or "∅")


def legible_line(text: str) -> str:
    r"""Return a whole text on one line, with its spaces: all else that has no look becomes visible.

    >>> legible_line("fine\n\x1b[2J")
    'fine↵⟨1B⟩[2J'
    """
    symbols = {char: symbol for char, symbol in _WHITESPACE_SYMBOLS.items() if char != ord(" ")}
    shown = text.translate(symbols)
    return replace_each(shown, lambda char: char if char == " " else legible_character(char))


def number_ranges(numbers: Collection[int]) -> list[str]:
    """Return whole numbers, ascending, with those in a row as one range.

    >>> number_ranges([0, 1, 2, 5, 7, 8])
    ['0–2', '5', '7–8']
    """
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number for number in numbers if number + 1 not in numbers)
    ranges = []
    for start, end in zip(starts, ends, strict=True):
        ranges.append(str(start) if start == end else f"{start}–{end}")
    return ranges


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun, which for several is `nouns`, or ends with an s.

    >>> counted(1, "token"), counted(3, "token"), counted(2, "batch", "batches")
    ('1 token', '3 tokens', '2 batches')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {nouns or noun + 's'}"
