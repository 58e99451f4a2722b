"""How a token is shown: legible, and inert in whatever it is shown in."""

from __future__ import annotations

import html
import unicodedata

_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})


def visible(token: str, width: int = 12) -> str:
    """One token as a person can read it: whitespace and control characters visible, cut to `width` characters.

    >>> visible(" Paris"), visible(""), visible("\\n\\n")
    ('·Paris', '∅', '↵↵')
    """
    shown = "".join(map(_legible, token.translate(_VISIBLE))) or "∅"
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def plotly_safe(token: str, width: int = 12) -> str:
    """One token for a plotly label: `visible`, and no tag, entity or TeX that plotly would act on."""
    shown = visible(token, width)  # cut before escaping, never mid-entity
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown):
        shown = f"\u2068{shown}\u2069"  # isolated, so that it does not turn round what stands beside it
    return inert(shown)


def inert(text: str) -> str:
    """Any text for plotly, as it is written: no tag, entity or TeX in it has an effect."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def _legible(char: str) -> str:
    """Control and format characters (NUL, zero-width, bidi overrides) by number: they have no look of their own."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨{ord(char):02X}⟩"
    return "·" if category == "Zs" else char
