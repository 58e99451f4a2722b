"""Texts of all kinds through every field and argument of every figure, page, table and script.

What is shown of a text may differ. What stands around it, element by element, statement by
statement, cell by cell, must be what stands around a plain word.
"""

from __future__ import annotations

import csv
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import hostile
import pasted
import pytest
import test_hostile_pages as pages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_attribution_views import BAD, attribution
from test_generation_figures import generation
from test_hostile_scripts import (  # noqa: F401 - fixtures
    any_name,
    config_folder,
    model_named,
    source,
    without_name,
)
from test_hostile_tables import Parsed, read_back

import lens_recipes as lr
from lens_recipes.arrays.text import legible_line
from lens_recipes.views.pages import html as html_of_pages
from lens_recipes.views.pages import report as report_page
from lens_recipes.views.plotly_js.bundle import PlotlyScripts
from lens_recipes.views.words import whole_text

PLAIN = "word"

# What breaks out of something, and what goes on inside of it.
PIECES = [
    *hostile.HOSTILE, hostile.FIELD, '"""', "'''", "\\", "#", "{{ x }}", "{% x %}", "{", "}", "-->", "<!--", "]]>",
    "<a href=javascript:alert(1)>", "</svg>", "</textarea>", "&#60;", "&#x3c;b>", "=1", "+", "-", "@", "`", "``", "[a](b)",
    "![a](b)", "https://x.invalid", "www.x.invalid", "\r\n", "\u2028", "\x85", "\ufeff", "\u2066", "\ufffe", "\N{BULLET}",
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=5).map("".join),
    st.text(max_size=40),
).filter(lambda text: text not in ("embed", "head_out", "vector", "resid_post", "smollm2"))

FUZZ = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def lens(text: str, names=("resid_post",)):
    """A generation of one prompt in which every text is this one."""
    return hostile.hostile_fields(pages.with_targets(generation(steps=(3,), names=names)), text)


def logits(text: str, unit: str = "token", **options):
    return hostile.hostile_fields(attribution(unit, [["a", "b"]], **options), text)


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, and addresses that they ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        asked = [value for name, value in attrs if name in ("src", "href", "action", "data")]
        self.found.append((tag, *(name for name, _ in attrs), *map(str, asked)))

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}",))

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_decl(self, decl):
        self.found.append(("declaration", decl))

    def handle_pi(self, data):
        self.found.append(("instruction", data))


def elements(path: Path) -> list[tuple[str, ...]]:
    return Elements(path.read_text(encoding="utf-8")).found


@pytest.fixture
def without_plotly(monkeypatch):
    """Pages without plotly.js, which has seven hundred thousand letters."""
    for module in (html_of_pages, report_page):
        monkeypatch.setattr(module, "packed_plotly", lambda: PlotlyScripts("", ()))


# -- figures -----------------------------------------------------------

FIGURES = pages.LENS_FIGURES | pages.LINE_FIGURES


@pytest.mark.parametrize("name", FIGURES)
@settings(FUZZ, max_examples=40)
@given(text=TEXTS)
def test_figures_of_a_lens(name, text):
    hostile.assert_inert(FIGURES[name](lens(text)))


@pytest.mark.parametrize("name", pages.LOGIT_FIGURES)
@settings(FUZZ, max_examples=40)
@given(text=TEXTS)
def test_figures_of_a_logit(name, text):
    hostile.assert_inert(pages.LOGIT_FIGURES[name](logits(text)))


@settings(FUZZ, max_examples=25)
@given(text=TEXTS)
def test_titles_and_names(text):
    plain = lens(PLAIN)
    for draw in (lr.heatmap, lr.trajectory, lr.rank_flow, lr.generation_steps, lr.layer_profile):
        hostile.assert_inert(draw(plain, title=text))
    hostile.assert_inert(lr.compare(plain, plain, names=(f"A{text}", f"B{text}"), title=text))


# -- pages -------------------------------------------------------------


@settings(FUZZ, max_examples=200)
@given(text=TEXTS)
def test_the_report(without_plotly, tmp_path, text):
    if not (tmp_path / "plain.html").exists():
        lr.report(lens(PLAIN), tmp_path / "plain.html", title=PLAIN)
    lr.report(lens(text), tmp_path / "a.html", title=text)
    assert elements(tmp_path / "a.html") == elements(tmp_path / "plain.html")


@pytest.mark.parametrize("place", ["a.html", "a"])
@settings(FUZZ, max_examples=30)
@given(text=TEXTS)
def test_the_pages_of_a_generation(without_plotly, tmp_path, place, text):
    for folder, word in (("plain", PLAIN), ("hostile", text)):
        (tmp_path / folder).mkdir(exist_ok=True)
        if folder == "hostile" or not (tmp_path / folder / place).exists():
            lr.write_generation(lens(word), tmp_path / folder / place)
    plain = sorted((tmp_path / "plain").rglob("*.html"))
    for file in plain:
        other = tmp_path / "hostile" / file.relative_to(tmp_path / "plain")
        assert elements(other) == elements(file)


@settings(FUZZ, max_examples=40)
@given(text=TEXTS)
def test_the_page_of_a_figure(tmp_path, text):
    for name, word in (("plain.html", PLAIN), ("a.html", text)):
        if name == "a.html" or not (tmp_path / name).exists():
            lr.write_html(lr.heatmap(lens(word), title=word), tmp_path / name)
    assert elements(tmp_path / "a.html") == elements(tmp_path / "plain.html")


@settings(FUZZ, max_examples=80)
@given(text=TEXTS)
def test_a_notebook(text):
    for made in (lens, lambda word: lens(word, ("attn_out", "mlp_out")), logits):
        shown, plain = Elements(made(text)._repr_html_()), Elements(made(PLAIN)._repr_html_())
        assert shown.found == plain.found


# -- tables ------------------------------------------------------------


def results(text: str):
    yield lens(text)
    yield lens(text, ("attn_out", "mlp_out"))
    yield logits(text, certificate=BAD)
    yield logits(text, "component")


@settings(FUZZ, max_examples=150)
@given(text=TEXTS)
def test_tab_separated_values(text):
    whole = whole_text(text)
    shown = {legible_line(text), whole, whole.replace("·", " ")}
    for result, plain in zip(results(text), results(PLAIN), strict=True):
        rows, plain_rows = (
            list(csv.reader(io.StringIO(lr.table(one, format="tsv")), "excel-tab", strict=True))
            for one in (result, plain)
        )
        assert len(rows) == len(plain_rows)
        for row, plain_row in zip(rows, plain_rows, strict=True):
            for field, plain_field in zip(row, plain_row, strict=True):
                if plain_field == PLAIN:
                    assert read_back(field) in shown
                elif PLAIN not in plain_field:
                    assert field == plain_field


@settings(FUZZ, max_examples=150)
@given(text=TEXTS)
def test_markdown(text):
    for result, plain in zip(results(text), results(PLAIN), strict=True):
        shown, expected = (Parsed(lr.table(one, format="markdown")) for one in (result, plain))
        assert shown.tags <= expected.tags | {"code"}
        assert shown.attributes == expected.attributes
        assert shown.text.count("\n") == expected.text.count("\n")


# -- scripts -----------------------------------------------------------


@pytest.mark.parametrize("recipe", pasted.OF_TEXT)
@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
@settings(FUZZ, max_examples=50)
@given(text=TEXTS)
def test_scripts(any_name, recipe, remote, text):  # noqa: F811
    if os.path.isdir(text):  # which a server cannot find
        return
    script = lr.paste(recipe, text, remote=remote)
    assert model_named(script) == text
    assert without_name(script) == without_name(lr.paste(recipe, PLAIN, remote=remote))
