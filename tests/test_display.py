"""Tokens are legible and inert in every view."""

from __future__ import annotations

import html
import re

import pytest
import tiny
from hostile import HOSTILE, assert_inert, cell_words, hostile_texts
from hypothesis import given
from hypothesis import strategies as st

import lens_recipes as lr
from lens_recipes.arrays.text import escape_plotly, plotly_safe, visible_token
from lens_recipes.views.words import prompt_end


@pytest.fixture(scope="module")
def hostile(llama):
    """A result in which every text is one of the hostile ones."""
    result = lr.logit_lens(llama, "some words to begin with", targets=[260, 261])
    return hostile_texts(tiny.believed(result))


def test_whitespace_and_control_characters_are_visible():
    assert visible_token(" a\n\t") == "·a↵⇥"
    assert visible_token("") == "∅"
    assert visible_token("\u00a0") == "⍽"
    assert visible_token(" a\u00a0b\u202fc\u2003") == "·a⍽b⍽c·"  # a no-break space is no space
    assert prompt_end("Ça va\u00a0?") == "Ça va⍽?"
    assert visible_token("\x00\u202e\u200b", 20) == "⟨00⟩⟨202E⟩⟨200B⟩"
    assert visible_token("x" * 300, 5) == "xxxx…"


@given(st.text())
def test_no_text_can_become_markup_or_tex(text):
    safe = plotly_safe(text, 1000)
    assert not set("<>$") & set(safe)
    assert html.unescape(safe).strip("\u2068\u2069") == visible_token(text, 1000)
    assert "<" not in escape_plotly(text)


@pytest.mark.parametrize("metric", ["prob", "rank", "entropy", "kl", "logit"])
def test_a_heatmap_shows_hostile_tokens_as_they_are_written(hostile, metric):
    of = "final" if metric in ("rank", "logit") else None
    figure = lr.heatmap(hostile, metric=metric, of=of)
    assert_inert(figure)
    written = cell_words(figure)
    assert all("<" not in word for row in written for word in row)
    words = {html.unescape(word).strip("\u2068\u2069") for row in written for word in row}
    assert words <= {visible_token(text, 10) for text in HOSTILE}


@pytest.mark.parametrize("metric", ["prob", "logprob", "rank", "logit", "logit_diff"])
def test_no_token_acts_in_lines(hostile, metric):
    of = [int(i) for i in hostile.target_ids[0]]  # two may have one text
    assert_inert(
        lr.trajectory(hostile, metric=metric, of=of, position=[-1, 0] if metric == "prob" else -1)
    )
    every = range(0, len(hostile.tokens), 4)
    assert_inert(lr.trajectory(hostile, of="final", position=every))
    assert_inert(lr.top_tokens(hostile))


def test_a_written_page_cannot_be_broken_out_of(hostile, tmp_path):
    lr.write_html(
        lr.heatmap(hostile, title="</script><script>alert(1)</script>"), tmp_path / "a.html"
    )
    page = (tmp_path / "a.html").read_text()
    assert "alert(1)</script>" not in page
    assert "cdn.plot.ly" in page
    lr.write_html(lr.heatmap(hostile), tmp_path / "b.html", offline=True)
    assert not re.search("<script[^>]* src=", (tmp_path / "b.html").read_text())


def test_a_table_shows_hostile_tokens(hostile):
    text = lr.table(hostile)
    assert "∅" in text or "⟨00⟩" in text
    assert "\x00" not in text
    assert hostile.summary()
