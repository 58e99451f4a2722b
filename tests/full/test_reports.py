"""The report of a large result, and of results of every kind, in a real browser."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import test_generation_figures
import test_report
from test_report import click, numbers, state

import lens_recipes as lr


def test_the_table_has_the_numbers_of_the_second_prompt(result, opened):
    test_report.test_the_table_has_the_numbers_of_the_arrays(result, opened, prompt=1)


def test_results_of_every_kind_can_be_opened(llama, opened):
    heads = lr.logit_lens(llama, "some words", components="head_out")
    vectors = lr.decode_vectors(llama, np.eye(3, llama.config.hidden_size, dtype=np.float32))
    said = lr.generate_lens(llama, "some words", max_new_tokens=3, do_sample=False)
    for result in (
        heads,
        vectors,
        said,
        lr.logit_lens(llama, "some", positions=-1),
        lr.logit_lens(llama, "x", layers=0),
    ):
        page = opened(result)
        assert page.locator("#every tr").count() >= 1
        page.locator("#map").focus()
        page.keyboard.press("Enter")
        assert page.locator("#pins button").count() == 1
        table = numbers(page)[1]
        assert np.isfinite(table[0]).all()


def large(monkeypatch, layers=80, tokens=512, tracked=40):
    monkeypatch.setattr(test_generation_figures, "LAYERS", layers)
    monkeypatch.setattr(test_generation_figures, "K", 5)
    rng = np.random.default_rng(0)
    shape = (layers, tokens, tracked)
    return dataclasses.replace(
        test_generation_figures.generation(steps=(tokens,)),
        tracked_ids=np.argsort(rng.random((tokens, test_generation_figures.V)))[:, :tracked].astype(
            np.int32
        ),
        tracked_logprobs=rng.uniform(-12, 0, shape).astype(np.float32),
    )


def test_eighty_layers_and_512_tokens_stay_small_and_quick(opened, monkeypatch, tmp_path, capsys):
    result = large(monkeypatch)
    page = opened(result)
    size = (tmp_path / "0.html").stat().st_size
    assert size < 12_000_000
    with capsys.disabled():
        took = float(page.get_attribute("body", "data-ready")) / 1000
        print(
            f"\n80 layers x 512 tokens: {size / 1e6:.1f} MB, interactive {took:.1f} s after "
            "loading began"
        )
    kept = page.evaluate("[size('tracked', 1), data.texts.length]")
    assert 0 < kept[0] < 40
    assert f"the {kept[0]} most likely" in page.locator("header").inner_text()
    best = np.sort(result.tracked_logprobs.max(0), axis=-1)[:, ::-1][:, : kept[0]].sum()
    held = page.evaluate(
        "tokens().reduce((sum, t) => sum + Array.from({ length: size('tracked', 1) }, (_, m) => "
        "Math.max(...data.sites.map((_, s) => at('tracked_logprobs', s, t, m)))).reduce((a, b) => "
        "a + b), 0)"
    )
    assert held == pytest.approx(best, rel=1e-4)
    click(page, 40, 3)
    assert state(page)["token"] == 3
