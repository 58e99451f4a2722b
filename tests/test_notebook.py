"""What a notebook shows of a result is its numbers, small, readable on any ground, and nothing but text."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from hostile import HOSTILE, hostile_texts

import lens_recipes as lr
from lens_recipes.arrays.text import visible_token
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.words import probability

TAGS = {
    "div",
    "p",
    "pre",
    "strong",
    "small",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "code",
    "b",
    "span",
}
HOLLOW = {"style", "title"}  # the attributes


class Page(HTMLParser):
    """Tags, attributes, the text of each <code> and <pre>, and (attributes, text) of each cell of each row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.codes: list[str] = []
        self.pre = self.other = ""
        self.rows: list[list[list]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([dict(attrs), ""])
        elif tag == "code":
            self.codes.append("")
        elif tag == "span":
            self.rows[-1][-1][0]["bar"] = dict(attrs)["style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "code" in self.open:
            self.codes[-1] += data
        elif "pre" in self.open:
            self.pre += data
        else:
            self.other += data
        if self.open[-1:] and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1][1] += data


def shown(result) -> Page:
    html = result._repr_html_()
    assert len(html.encode()) < 60_000
    return Page(html)


@pytest.fixture(scope="module")
def paris(smollm2):
    prompts = ["The capital of France is", "Hello"]
    return tiny.believed(lr.logit_lens(smollm2, prompts, targets=[" Paris", " London"]))


@pytest.fixture(scope="module")
def who(smollm2):
    return lr.attribution(
        smollm2, "The capital of France is", " Paris", against=" London", unit="head"
    )


def test_a_lens_shows_its_summary_and_its_layers(paris):
    page, one = shown(paris), paris[0]
    assert page.pre == paris.summary()
    assert str(paris.certificate) in page.other
    head, *rows = page.rows
    assert [text for _, text in head] == ["after", *map(visible_token, one.tokens.text)]
    assert [row[0][1] for row in rows] == [f"layer {layer}" for layer in range(29, -1, -3)]
    for row, s in zip(rows, range(29, -1, -3), strict=True):
        for t, (attributes, text) in enumerate(row[1:]):
            assert text == visible_token(one.text(one.top_ids[s, t, 0]))
            assert f"{text} {probability(one.top_logprobs[s, t, 0])}" in attributes["title"]
    assert "10 of 30 layers, 5 tokens, prompt 0 of 2" in page.other
    bold = [re.findall("<b>", row) for row in paris._repr_html_().split("<tr>")[2:]]
    assert list(map(len, bold)) == (one.final_ranks[::-3] == 0).sum(1).tolist()


def contrast(a: str, b: str) -> float:
    """Of two colours "#rrggbb" (WCAG 2.2)."""

    def luminance(color: str) -> float:
        channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_can_be_read_and_bright_is_probable(paris):
    some = np.log(np.linspace(0.001, 1, paris.top_ids[..., 0].size, dtype=np.float32)).reshape(
        paris.entropy.shape
    )
    tops = np.broadcast_to(some[..., None], paris.top_logprobs.shape)
    html = dataclasses.replace(paris, top_logprobs=tops)[0]._repr_html_()
    pairs = re.findall(r"background: (#\w{6}); color: (#\w{6})\" title", html)
    assert len(pairs) == 50
    assert all(contrast(ground, ink) > 4.5 for ground, ink in pairs)
    assert {ink for _, ink in pairs} == {"#000000", "#ffffff"}
    assert contrast(pairs[0][0], "#000000") > contrast(
        pairs[-1][0], "#000000"
    )  # the surest is first


def test_an_attribution_shows_its_largest_parts_to_both_sides(who):
    page = shown(who)
    assert page.pre == who.summary()
    assert [text for _, text in page.rows[0]] == ["part", "logits", "hurts", "helps"]
    for (part, value), (name, number, hurts, helps) in zip(
        who.top(10), page.rows[1:], strict=False
    ):
        assert (name[1], float(number[1].replace("−", "-"))) == (
            str(part),
            pytest.approx(value, abs=0.005),
        )
        assert ("bar" in helps[0], "bar" in hurts[0]) == (value > 0, value < 0)
    widths = [
        int(re.search(r"width: (\d+)", (row[2][0] | row[3][0])["bar"])[1])
        for row in page.rows[1:11]
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 160
    assert [row[0][1] for row in page.rows[11:]] == [
        f"all the others ({len(who.parts) - 10})",
        "total",
    ]
    assert float(page.rows[-1][1][1]) == pytest.approx(who.total[0, 0], abs=0.005)
    assert page.codes[-2:] == ["·Paris − ·London", "after token 4, ·is"]


def test_what_is_not_certified_says_so(paris, who):
    for result in (paris, who):
        wrong = dataclasses.replace(result.certificate, max_logit_error=9.0)
        page = shown(dataclasses.replace(result, certificate=wrong))
        assert "strong" in page.tags
        assert "NOT CERTIFIED" in page.other
        assert "strong" not in shown(result).tags


def test_no_token_is_anything_but_text(paris, who):
    hostile = hostile_texts(paris)
    ids = dict(zip(paris.texts, (HOSTILE * len(paris.texts))[: len(paris.texts)], strict=True))
    parts = dataclasses.replace(
        who, texts={i: HOSTILE[i % len(HOSTILE)] for i in who.texts}, provenance=hostile.provenance
    )
    for result in (hostile, dataclasses.replace(hostile, texts=ids), parts):
        page = shown(result)
        assert page.tags <= TAGS
        assert page.attributes <= HOLLOW
        assert page.pre == escape_terminal(result.summary())
        assert (
            "$" not in page.other
        )  # Jupyter would take it for TeX; in <code> and <pre> it does not look
    one, page = hostile[0], shown(hostile)
    words = [visible_token(one.text(i)) for s in range(29, -1, -3) for i in one.top_ids[s, :, 0]]
    assert page.codes == [*map(visible_token, one.tokens.text), *words]


def test_vectors_generations_and_long_prompts_are_shown(smollm2):
    vectors = lr.decode_vectors(
        smollm2, np.eye(20, 576, dtype=np.float32), [f"v{n}" for n in range(20)]
    )
    page = shown(vectors)
    assert [text for _, text in page.rows[0]] == ["vector", *(f"v{n}" for n in range(12))]
    assert "12 of 20 vectors" in page.other
    said = lr.generate_lens(smollm2, "The capital of France is", max_new_tokens=3, do_sample=False)
    assert [text for _, text in shown(said).rows[0]] == [
        "after",
        *map(visible_token, said.tokens.text),
    ]
    long = lr.logit_lens(smollm2, "so " * 40, layers=slice(-3, None))
    assert "3 layers, 12 of" in shown(long).other
    heads = lr.logit_lens(smollm2, "Hello", components="head_out", heads=[0, 1])
    assert [row[0][1] for row in shown(heads).rows[1:3]] == ["29.head_out.1", "29.head_out.0"]
    assert "12 of 60 sites" in shown(heads).other
    several = lr.logit_lens(
        smollm2, "Hello", components=("attn_out", "mlp_out"), layers=[3, 4], positions=-1
    )
    assert [row[0][1] for row in shown(several).rows[1:]] == [
        "4.mlp_out",
        "4.attn_out",
        "3.mlp_out",
        "3.attn_out",
    ]


def test_what_is_not_a_number_is_still_shown(paris, who):
    tops = np.full_like(paris.top_logprobs, math.nan)
    assert "#9a9a9a" in dataclasses.replace(paris, top_logprobs=tops)._repr_html_()
    values = who.values.copy()
    values[0], values[1] = math.nan, math.inf
    page = shown(dataclasses.replace(who, values=values))
    assert [row[1][1] for row in page.rows[1:3]] == ["nan", "+inf"]
    assert not any("bar" in cell[0] for row in page.rows[1:3] for cell in row)


def test_text_stays_text_in_a_notebook(paris, who, monkeypatch):
    """There rich would show it by itself, and `print(result)` would print nothing."""
    texts = list(map(str, (paris, who)))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert list(map(str, (paris, who))) == texts
    assert all("·Paris" in text for text in texts)
