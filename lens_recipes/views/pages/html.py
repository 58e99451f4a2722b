"""Web pages that need nothing else: no network, and no text on them acts as HTML. The templates lie in `web/`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lens_recipes.arrays.text import escape_page_text, escape_plotly

PLOTLY = "plotly.min.js"

# No request leaves a page, whatever is on it.
POLICY = (
    "connect-src 'none'; img-src data: blob:; font-src 'none'; media-src 'none'; frame-src 'none'; object-src 'none'; "
    "form-action 'none'; base-uri 'none'"
)


def page(title: str, pieces: Iterable[str], *, inline: bool) -> str:
    """A page of figures, as HTML.

    Its policy says nothing of scripts: plotly's own are on it, and on a disk 'self' is not the file beside it.

    Args:
        title: As it is to be read.
        pieces: HTML.
        inline: Whether plotly.js is on the page, or in the file `PLOTLY` beside it.
    """
    return template("figures.html.j2").render(
        title=Markup(escape_plotly(title)),
        policy=Markup(POLICY),
        plotly=Markup(get_plotlyjs()) if inline else "",
        plotly_file="" if inline else PLOTLY,
        pieces=[Markup(piece) for piece in pieces],
    )  # fmt: skip


def script_page(name: str, code: str, **words: Any) -> str:
    """A page with plotly.js and one script of ours, as HTML; by its policy nothing else runs on it or is asked for.

    Args:
        name: A template of `web/`, which extends `page.html.j2`.
        code: A script of `web/`.
        words: What else the template says; a `str` is escaped.
    """
    ours, plotly = script(code), get_plotlyjs()
    hashes = " ".join(f"'sha256-{_hash(text)}'" for text in (plotly, ours))
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; {POLICY}"
    return template(name).render(
        policy=Markup(policy), plotly=Markup(plotly), script=Markup(ours), **words
    )  # fmt: skip


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def figure_json(text: str) -> Markup:
    """Any text for a page, as it was written: spaces and lines kept, control characters by number."""
    return Markup(escape_page_text(text))


def fact_list(texts: dict[str, str]) -> str:
    """Names and what is to be read beside them, as it was written."""
    return _piece("facts", [(name, figure_json(text)) for name, text in texts.items()])


def links(targets: Iterable[tuple[str, str]]) -> str:
    """(address, inert text) of pages in the same folder."""
    return _piece("links", [(address, Markup(text)) for address, text in targets])


def _piece(name: str, items: list[Any]) -> str:
    return getattr(template("pieces.html.j2").module, name)(items)


def embedded_figure(figure: go.Figure, name: str) -> str:
    """A figure that stays as it is until it is touched; `name` is its own on the page."""
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        auto_play=False,
        div_id=name,
        config={"displaylogo": False},
    )
    return f'<div class="figure">{drawn}</div>'


@cache
def _templates() -> Environment:
    loader = PackageLoader(__package__, "web")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )


def template(name: str) -> Template:
    """A file of `web/`, to be filled in."""
    return _templates().get_template(name)


def script(name: str) -> str:
    """A file of `web/` as it is."""
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0]
