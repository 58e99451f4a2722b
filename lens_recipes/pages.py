"""Figures on web pages that need nothing else: no network, and no text on them acts as HTML."""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from .display import inert, prose

PLOTLY = "plotly.min.js"
# No request leaves a page, whatever is on it. Scripts are not in the list: on a disk, 'self' is not the file beside it.
POLICY = (
    "connect-src 'none'; img-src data: blob:; font-src 'none'; media-src 'none'; frame-src 'none'; object-src 'none'; "
    "form-action 'none'; base-uri 'none'"
)
STYLE = """
body { font: 15px/1.5 Inter, Helvetica, Arial, sans-serif; margin: 2em; color: #222; }
h1 { font-size: 1.4em; }
dl { display: grid; grid-template-columns: max-content minmax(0, 60em); gap: .5em 1.5em; }
dt { color: #666; }
dd { margin: 0; }
pre { font: 14px/1.5 ui-monospace, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
nav a { display: inline-block; white-space: pre; margin: 0 .7em .2em 0; }
.figure { overflow-x: auto; margin: 2em 0; }
"""


def page(title: str, pieces: Iterable[str], *, inline: bool) -> str:
    """A whole page of HTML.

    Args:
        title: As it is to be read.
        pieces: HTML.
        inline: Whether plotly.js is on the page, or in the file `PLOTLY` beside it.
    """
    script = f"<script>{get_plotlyjs()}</script>" if inline else f'<script src="{PLOTLY}"></script>'
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{inert(title)}</title>\n<style>{STYLE}</style>\n{script}\n</head>\n<body>\n<h1>{inert(title)}</h1>",
            *pieces,
            "</body>\n</html>\n",
        ]
    )


def facts(texts: dict[str, str]) -> str:
    """Names and what is to be read beside them, as it was written."""
    rows = [f'<dt>{inert(name)}</dt><dd><pre dir="auto">{prose(text)}</pre></dd>' for name, text in texts.items()]
    return "\n".join(["<dl>", *rows, "</dl>"])


def links(targets: Iterable[tuple[str, str]]) -> str:
    """(address, inert text) of pages in the same folder."""
    return "\n".join(["<nav>", *(f'<a href="{address}">{text}</a>' for address, text in targets), "</nav>"])


def picture(figure: go.Figure, name: str) -> str:
    """A figure that stays as it is until it is touched; `name` is its own on the page."""
    drawn = figure.to_html(
        full_html=False, include_plotlyjs=False, auto_play=False, div_id=name, config={"displaylogo": False}
    )
    return f'<div class="figure">{drawn}</div>'
