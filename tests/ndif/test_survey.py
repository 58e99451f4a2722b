"""A survey on a real server, for callers that it trusts and for strangers: the one that is made here, and it survives."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.arrays.survey.arrays import SURVEY_AXES

engine = importlib.import_module("lens_recipes.recipes.survey.survey")

LAYERS = [0, 20, 23, 29]
BLOCK, N_ITEMS = 16, 40  # two blocks, and half a one: three jobs


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", BLOCK)


@pytest.fixture
def items():
    """Some capitals, of which a few are left out, each with its answer's rank and controls."""
    from lens_recipes.recipes.survey.items import own_set, records

    assert own_set("capitals").is_file()
    return [dict(record.fields) for record in itertools.islice(records("capitals"), N_ITEMS)]


def assert_close(there, here) -> None:
    """The same numbers, but for the rounding of another process."""
    assert there.sites == here.sites
    assert there.names == here.names
    assert there.left_out == here.left_out
    for name in SURVEY_AXES:
        mine, theirs = getattr(here, name), getattr(there, name)
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(theirs, mine, atol=2e-3, err_msg=name)
        elif name.endswith("ranks"):
            np.testing.assert_allclose(theirs, mine, atol=3, rtol=1e-3, err_msg=name)
        elif name != "top_ids":
            np.testing.assert_array_equal(theirs, mine, err_msg=name)
    assert (there.top_ids == here.top_ids).mean() > 0.99


def test_a_survey_of_a_server_is_the_one_that_is_made_here(any_server, client, here, items):
    for options in ({}, {"edits": lr.ablate(layer=23, component="head_out", head=4)}):
        there = lr.survey(client(any_server, "smollm2"), items, layers=LAYERS, **options)
        assert_close(there, lr.survey(here("smollm2"), items, layers=LAYERS, **options))
        assert there.certificate.passed
        assert there.provenance["remote"] is True
        assert there.summary().splitlines()[0].startswith("survey of ")


def test_what_a_server_has_done_is_kept_when_the_survey_stops(
    any_server, client, items, tmp_path, monkeypatch
):
    model = client(any_server, "smollm2")
    whole = lr.survey(model, items, layers=LAYERS)
    ask = engine.run_block
    calls = []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(*arguments, **options)

    monkeypatch.setattr(engine, "run_block", stopped)
    with pytest.raises(KeyboardInterrupt, match="holds 2 blocks of 16 items"):
        lr.survey(model, items, layers=LAYERS, path=tmp_path / "kept")
    calls[:] = [1] * 10
    resumed = lr.survey(model, items, layers=LAYERS, path=tmp_path / "kept")
    assert len(calls) == 11  # the third block alone
    assert_close(resumed, whole)
    parts = [lr.survey(model, items, layers=LAYERS, shard=(number, 2)) for number in (1, 2)]
    assert_close(lr.Survey.merge(parts), whole)
