"""Tables of results whose every field is hostile: no cell is a formula, markup or another row."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from hostile import FIELD, hostile_fields
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_attribution_views import BAD, attribution
from test_generation_figures import generation
from test_hostile_pages import with_targets

import lens_recipes as lr
from lens_recipes.arrays.text import legible_line
from lens_recipes.views.tables.markdown.syntax import escape_sentence, label_code, text_code
from lens_recipes.views.tables.programs.tsv import text_field

FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "＝1", "−1", "'=1", "''", "'a"]  # fmt: skip
OURS = {"h3", "p", "code", "strong", "table", "thead", "tbody", "tr", "th", "td"}
BEGINS_A_FORMULA = tuple("=+-@＝＋－＠\t\r")


def hostile_results():
    """A stream, parts with heads, and the logits of a failed certificate."""
    yield hostile_fields(with_targets(generation(steps=(4, 2), sharp=1.0)))
    yield hostile_fields(with_targets(generation(names=("attn_out", "mlp_out"), heads=2)))
    yield hostile_fields(attribution("token", [["a", "b"]], certificate=BAD))


class Parsed(HTMLParser):
    """What a page of Markdown has: tags, what they ask for, and its text."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(attrs)

    def handle_data(self, data):
        self.text += data


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), dialect="excel-tab", strict=True))


def read_back(field: str) -> str:
    """As references say that a program reads a text of a table."""
    return field[1:] if re.match("''*[=+@＝＋－＠-]", field) else field


def numbers_of(row: dict[str, str]) -> list[str]:
    texts = re.compile(r"top\d+|target\d*|input|component|part|source_text|against|mark|lens.*")
    return [value for name, value in row.items() if value and not texts.fullmatch(name)]


def test_no_field_of_a_table_is_a_formula_or_a_row():
    for result in hostile_results():
        text = lr.table(result, format="tsv")
        assert not set("\u202e\ud800\x00\r") & set(text)
        rows = records(text)
        assert len(rows) == len(text.split("\n")) - 1
        for row in rows:
            assert None not in row
            for value in row.values():
                assert not value.startswith(BEGINS_A_FORMULA) or re.fullmatch(
                    r"-[\d.e+-]+|-inf", value
                )
            for value in numbers_of(row):
                float(value)
        shown = {read_back(row["input"]) for row in rows}
        assert shown == {legible_line(FIELD).replace(" ", "·")}


def test_numbers_below_zero_stay_numbers():
    rows = records(lr.table(attribution("component"), format="tsv"))
    assert any(row["value"].startswith("-") for row in rows)
    for row in rows:
        float(row["value"])


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_a_text(text):
    result = generation()
    result = dataclasses.replace(result, texts=dict.fromkeys(result.texts, text))
    for row in records(lr.table(result, format="tsv")):
        assert not row["top1"].startswith(BEGINS_A_FORMULA)
        assert read_back(row["top1"]) == legible_line(text).replace(" ", "·")


@given(text=st.text())
def test_a_text_is_read_back(text):
    field = text_field(text)
    assert not field.startswith(BEGINS_A_FORMULA)
    assert read_back(field) == legible_line(text)
    assert not set("\t\n\r\x0b\x0c\x85\u2028") & set(field)


def test_no_field_acts_in_markdown():
    for result in hostile_results():
        markdown = lr.table(result, format="markdown")
        page = Parsed(markdown)
        assert page.tags <= OURS
        assert {name for name, _ in page.attributes} <= {"style"}
        assert {value for _, value in page.attributes} <= {"text-align:right"}
        assert not re.search(r"(?i)://|www\.|\w@\w", re.sub("`[^`]*`", "", markdown))


@given(text=st.one_of(st.text(), st.text(alphabet="`|<>&$*_#[]()!~-=+\\\n \"'1a.:@/w")))
def test_no_text_acts_in_a_cell(text):
    line = legible_line(text)
    for shown in (text_code(line), label_code(f"3.{text}"), escape_sentence(text)):
        if "\n" in shown:
            raise AssertionError(shown)
        cell = shown.replace("|", "&#124;")
        page = Parsed(f"| a | b |\n| --- | --- |\n| {cell} | 7 |\n\nafter")
        assert page.tags <= OURS
        assert page.attributes == set()
        assert page.text.split()[-2:] == ["7", "after"]


def test_addresses_are_no_links():
    for address in ("https://x.invalid/a", "www.x.invalid", "a@x.invalid", "mailto:a"):
        for shown in (escape_sentence(f"see {address}"), text_code(f"<{address}>")):
            assert address not in shown
            assert "<!-- -->" in shown
    assert text_code("www.x.invalid") == "`www.x.invalid`"
