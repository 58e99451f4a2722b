"""Build web pages that need no network, and on which no text acts as HTML.

The templates lie in `web/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from lens_recipes.arrays.text import escape_page_text, escape_plotly
from lens_recipes.views.plotly_js.bundle import packed_plotly
from lens_recipes.views.policy import content_policy, hashes_of_scripts, script_hash

PLOTLY_FILE = "plotly.min.js"

# Where a script beside the page is: on a server at the page's own address, on a disk in a file.
BESIDE = ["'self'", "file:"]


class Fact(NamedTuple):
    """A name, and the text beside it."""

    name: str
    text: str


class Fragment(NamedTuple):
    """A part of a page: HTML on which no text acts, and the hashes of the scripts in it."""

    html: str
    script_hashes: tuple[str, ...] = ()


class Link(NamedTuple):
    """The address of a page in the same folder, and the words of the link, safe as HTML."""

    address: str
    words: str


# -- pages -------------------------------------------------------------


def page(title: str, fragments: Iterable[Fragment], *, inline: bool) -> str:
    """Return a page of figures as HTML.

    By its policy nothing runs on it but plotly, the figures and our `figures.js`, and no request
    leaves it.

    Args:
        title: The title, as it is to be read.
        fragments: The parts of the page.
        inline: Whether plotly.js is on the page, or in `PLOTLY_FILE` beside it.
    """
    fragments = list(fragments)
    plotly = f'<script src="{PLOTLY_FILE}"></script>'
    plotly_sources: Iterable[str] = BESIDE
    if inline:
        plotly, plotly_sources = packed_plotly()
    hashes = [script for fragment in fragments for script in fragment.script_hashes]
    script = web_file("figures.js")
    return template("figures.html.j2").render(
        title=Markup(escape_plotly(title)),
        policy=Markup(content_policy([*plotly_sources, script_hash(script), *hashes])),
        script=Markup(script),
        plotly=Markup(plotly),
        fragments=[Markup(fragment.html) for fragment in fragments],
    )


def script_page(
    template_name: str, script_name: str, fragments: Iterable[Fragment] = (), **values: Any
) -> str:
    """Return a page with plotly.js and one script of ours as HTML.

    By its policy nothing else runs on it but the scripts of its fragments, and no request leaves
    it.

    Args:
        template_name: A template of `web/` that extends `page.html.j2`.
        script_name: A script of `web/`.
        fragments: Parts of the page, which the template finds among `values`.
        values: What else the template needs; a `str` is escaped.
    """
    script, plotly = web_file(script_name), packed_plotly()
    hashes = [each for fragment in fragments for each in fragment.script_hashes]
    policy = content_policy([*plotly.hashes, script_hash(script), *hashes])
    return template(template_name).render(
        policy=Markup(policy), plotly=Markup(plotly.html), script=Markup(script), **values
    )


# -- fragments ---------------------------------------------------------


def page_text(text: str) -> Markup:
    """Return any text as HTML that shows it as it was written, control characters by number."""
    return Markup(escape_page_text(text))


def heading(text: str) -> Fragment:
    """Return the heading of a section."""
    return Fragment(f"<h2>{page_text(text)}</h2>")


def fact_list(facts: Iterable[Fact]) -> Fragment:
    """Return facts as an HTML list."""
    escaped = [(page_text(fact.name), page_text(fact.text)) for fact in facts]
    return Fragment(fragment_macros().facts(escaped))


def link_list(links: Iterable[Link]) -> Fragment:
    """Return links as HTML."""
    safe = [(link.address, Markup(link.words)) for link in links]
    return Fragment(fragment_macros().links(safe))


def embedded_figure(figure: go.Figure, name: str) -> Fragment:
    """Return a figure as HTML, still until it is touched; `name` is its id on the page."""
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        auto_play=False,
        div_id=name,
        config={"displaylogo": False},
    )
    return Fragment(f'<div class="figure">{drawn}</div>', tuple(hashes_of_scripts(drawn)))


# -- files of web/ -----------------------------------------------------


def template(name: str) -> Template:
    """Return a template."""
    return environment().get_template(name)


def fragment_macros() -> Any:
    """Return the macros of `fragments.html.j2`, by name."""
    return template("fragments.html.j2").module


def web_file(name: str) -> str:
    """Return the text of a file as it is."""
    text, _, _ = web_loader().get_source(environment(), name)
    return text


@cache
def environment() -> Environment:
    """Return what fills in the templates, and fails where a value is missing."""
    return Environment(
        loader=web_loader(),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


@cache
def web_loader() -> PackageLoader:
    """Return what reads the files."""
    return PackageLoader(__package__, "web")
