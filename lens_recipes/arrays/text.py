"""The text of a token, and how it is shown: legible, and inert in whatever it is shown in."""

from __future__ import annotations

import html
import unicodedata

_TURNS = (
    "LRE",
    "RLE",
    "LRO",
    "RLO",
    "PDF",
    "LRI",
    "RLI",
    "FSI",
    "PDI",
)  # characters that only turn text round

_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})


def visible_token(token: str, width: int = 12) -> str:
    """One token as a person can read it: whitespace and control characters visible, cut to `width` characters.

    >>> visible(" Paris"), visible(" "), visible(""), visible("\\n\\n")
    ('·Paris', '␣', '∅', '↵↵')
    """
    spaces_only = token.strip(" ") == ""  # beside a full stop, a lone middle dot would not be seen
    shown = "␣" * len(token) if spaces_only else "".join(map(_legible, token.translate(_VISIBLE)))
    shown = shown or "∅"
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def plotly_safe(token: str, width: int = 12) -> str:
    """One token for a plotly label: `visible`, and no tag, entity or TeX that plotly would act on."""
    shown = visible_token(token, width)  # cut before escaping, never mid-entity
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown):
        shown = (
            f"\u2068{shown}\u2069"  # isolated, so that it does not turn round what stands beside it
        )
    return escape_plotly(shown)


def escape_plotly(text: str) -> str:
    """Any text for plotly, as it is written: no tag, entity or TeX in it has an effect."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def escape_page_text(text: str) -> str:
    """A whole text for a page, with its spaces and lines; otherwise as `visible` and `inert`."""
    return escape_plotly(
        "".join(char if char in " \n\t" else _legible(char) for char in text) or "∅"
    )


def escape_terminal(text: str) -> str:
    """A whole text for a terminal: as it is, but by number what the terminal would act on rather than show.

    >>> printable("fine\\n\\x1b[2J")
    'fine\\n⟨1B⟩[2J'
    """
    return "".join(_legible(char) if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    control = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return control or unicodedata.bidirectional(char) in _TURNS


def _legible(char: str) -> str:
    """Control and format characters (NUL, zero-width, bidi overrides) by number: they have no look of their own."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨{ord(char):02X}⟩"
    return "·" if category == "Zs" else char
