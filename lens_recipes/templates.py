"""The HTML that is filled in: jinja2 over the files of `web/`, with every text escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def _templates() -> Environment:
    loader = PackageLoader(__package__, "web")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def template(name: str) -> Template:
    """A file of `web/`, to be filled in."""
    return _templates().get_template(name)


def script(name: str) -> str:
    """A file of `web/` as it is."""
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0]
