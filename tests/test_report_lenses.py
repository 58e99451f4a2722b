"""The report of one prompt under several lenses, in a real browser: each lens's numbers, and their difference."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from test_lens_argument import random_lens
from test_report import browser, cells, numbers, opened, state

import lens_recipes as lr
from lens_recipes.arrays.metrics import metric_values
from lens_recipes.arrays.metrics.seen import seen_by
from lens_recipes.arrays.text import visible_token
from lens_recipes.lenses.lens import LensRecord

__all__ = ["browser", "opened"]  # fixtures

PROMPTS = ["some words to begin with", "and others"]
TARGETS = [[260, 261], [262, 263]]


@pytest.fixture(scope="module")
def results(llama):
    """The logit lens, and two others, one of which was not fitted at the first positions."""
    linear = random_lens(llama)
    jacobian = random_lens(llama, kind="jacobian", seed=1)
    jacobian = dataclasses.replace(jacobian, record=LensRecord(first_position=3))
    names = ("embed", "resid_post")
    return [
        lr.logit_lens(llama, PROMPTS, components=names, targets=TARGETS, top_k=4, lens=lens)
        for lens in (None, linear, jacobian)
    ]


def shown_lens(page):
    return page.evaluate(
        "[...document.querySelectorAll('#lens option')].map((o) => o.textContent)[state.lens]"
    )


def test_the_switch_shows_each_lens_and_the_difference_of_two(results, opened):
    page = opened(results[0], options={"beside": results[1:]})
    names = ["logit lens", "linear lens", "Jacobian lens"]
    assert page.locator("#lens option").all_inner_texts() == names
    page.focus("#lens")
    for lens, result in enumerate(results):
        assert shown_lens(page) == names[lens]
        one = result[0]
        for metric, of in (("prob", "top"), ("kl", ""), ("rank", "0")):
            page.evaluate(f"go({{ metric: '{metric}', of: '{of}', minus: -1 }})")
            asked = {"top": None, "": None, "0": int(one.target_ids[0, 0])}[of]
            expected = metric_values(one, metric, asked)[0]
            labels, table = numbers(page)
            assert labels == [*map(str, one.sites), "output"]
            np.testing.assert_allclose(table[:-1], expected, rtol=2e-3, atol=2e-4)
        words = page.evaluate(
            "[...document.querySelectorAll('#words text')].map((t) => t.textContent.slice(1, -1))"
        )
        assert words[: len(one.tokens)] == [
            visible_token(one.text(i)) for i in one.top_ids[0, :, 0]
        ]
        headings = page.locator("#columns bdi").all_inner_texts()
        assert [text.startswith("†") for text in headings] == (~one.fitted).tolist()
        notes = [note for note in page.locator("header [data-lens]").all() if note.is_visible()]
        assert all(note.get_attribute("data-lens") == str(lens) for note in notes)
        page.keyboard.press("ArrowDown")  # the next lens, by the keyboard alone

    # The difference of the last and the first, in every cell.
    page.evaluate("go({ lens: 2, minus: 0, metric: 'logprob', of: 'final', all: true })")
    first, last = results[0][0], results[2][0]
    drawn = page.evaluate("document.getElementById('heatmap').data[0]")
    expected = last.final_logprobs - first.final_logprobs
    np.testing.assert_allclose(np.array(drawn["z"])[:-1], expected, rtol=1e-4, atol=1e-4)
    assert drawn["zmin"] == -drawn["zmax"]
    assert "Jacobian lens − logit lens" in page.locator("#whose").inner_text()
    higher_is_blue = drawn["colorscale"][-1][1]
    page.evaluate("go({ metric: 'rank', of: '0' })")
    drawn = page.evaluate("document.getElementById('heatmap').data[0]")
    expected = np.log10(last.target_ranks[..., 0] + 1) - np.log10(first.target_ranks[..., 0] + 1)
    np.testing.assert_allclose(np.array(drawn["z"])[:-1], expected, rtol=1e-4, atol=1e-4)
    assert drawn["colorscale"][0][1] == higher_is_blue  # a lower rank is better
    page.evaluate("go({ all: false })")
    grey = page.evaluate("document.getElementById('heatmap').data[1].z")
    both = first.readable & last.readable
    assert (np.array(grey[:-1]) == 1).tolist() == (~both).tolist()

    # The address holds it.
    again = opened(
        results[0], options={"beside": results[1:]}, fragment=page.evaluate("location.hash")
    )
    assert {**state(again), "pins": 0} == {**state(page), "pins": 0}
    assert again.locator("#minus option").all_inner_texts() == ["nothing", *names[:2]]


def test_the_tokens_stand_by_which_lens_sees_them_earlier(results, opened):
    page = opened(results[0], options={"beside": results[1:]}, fragment="#prompt=1")
    singles = [result[1] for result in results]
    start = page.evaluate("data.prompts[1].start")
    for position in (0, len(singles[0].tokens) - 1):
        page.evaluate(f"go({{ token: {start + position} }})")
        rows = [row for row in seen_by(singles, position=position) if row.distance != 0]
        shown = {re.sub(r" #\d+$", "", row[0]): row[1:] for row in cells(page, "#earlier tbody tr")}
        assert len(cells(page, "#earlier tbody tr")) == len(rows)
        for row in rows:
            assert shown[visible_token(row.text, 24)] == [place.short for place in row.places]
    token = page.locator("#earlier button").first
    name = token.inner_text()
    token.click()
    assert name in page.locator("#pins button").first.inner_text()


def test_a_page_of_one_lens_has_no_switch_and_says_which_it_is(results, opened):
    for result, name in zip(results, (None, "linear lens", "Jacobian lens"), strict=True):
        page = opened(result)
        assert page.locator("#lens").is_hidden()
        assert page.locator("#minus").is_hidden()
        assert page.locator("#seen").is_hidden()
        proof = page.locator(".proof").inner_text()
        assert "lens" not in proof if name is None else name in proof
    assert "never fitted" in page.locator("header").inner_text()


def test_layers_that_not_all_lenses_have_are_left_out(llama, results, tmp_path):
    layers = lr.anatomy(llama).layers
    some = lr.logit_lens(
        llama, PROMPTS, targets=TARGETS, layers=layers[1:], lens=random_lens(llama)
    )
    lr.report(results[0], tmp_path / "page.html", beside=some)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert [site["layer"] for site in data["sites"]] == list(layers[1:])
    assert all(lens["arrays"]["kl"]["shape"][0] == len(layers) - 1 for lens in data["lenses"])
    left_out = len(results[0].sites) - len(data["sites"])
    assert f"{left_out} sites that not every lens was read at" in text


def test_what_cannot_stand_on_one_page_is_refused(llama, results, tmp_path):
    other = lr.logit_lens(llama, ["other words to begin with now", "and others"], targets=TARGETS)
    path = tmp_path / "page.html"
    for beside, words in (
        (other, "different tokens"),
        (lr.logit_lens(llama, PROMPTS, targets=[[1, 2], [3, 4]]), "the same targets"),
        ("linear", "takes lens results"),
    ):
        with pytest.raises(ValueError, match=words):
            lr.report(results[0], path, beside=beside)
    assert not path.exists()
