"""Fits on disjoint texts, merged: exactly the fit on all of them."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import tiny
import torch
from tiny import FAMILIES, shared

import lens_recipes as lr
from lens_recipes.lenses import merge as merging
from lens_recipes.lenses.solve.solution import add_sums, half_of
from lens_recipes.trace.transport import Affine

ROWS = tiny.random_ids(96, 20, seed=3).tolist()


def fitted(**options):
    """A fit on the tests' rows, unmeasured."""
    model = options.pop("model", None) or shared("llama")
    return lr.fit_lens(model, **{"texts": ROWS, "tokens": 10_000, "quality_tokens": 0, **options})


@pytest.mark.parametrize("n_shards", [2, 5])
def test_the_shards_of_a_text_come_together_to_the_whole(n_shards):
    whole = fitted()
    shards = [fitted(shard=(number, n_shards)) for number in range(1, n_shards + 1)]
    merged = lr.Lens.merge(shards)
    assert merged.layers == whole.layers
    assert sorted(merged.sums["rows"].tolist()) == sorted(whole.sums["rows"].tolist())
    for name, value in whole.sums.items():
        if name != "rows":
            size = float(value.abs().max())
            torch.testing.assert_close(merged.sums[name], value, rtol=0, atol=1e-6 * size)
    for layer in whole.layers:
        expected = whole.transports[layer]
        size = float(expected.weight.abs().max())
        torch.testing.assert_close(
            merged.transports[layer].weight, expected.weight, rtol=0, atol=1e-4 * size
        )
    assert merged.record.n_tokens == whole.record.n_tokens
    assert merged.record.n_prompts == whole.record.n_prompts
    assert merged.record.settings["ridge"] == whole.record.settings["ridge"]
    assert "shard" not in merged.record.settings
    assert merged.quality is None
    assert merged.source == f"{n_shards} fits merged"
    measured = lr.lens_quality(merged, shared("llama"), ROWS[:4])
    assert measured.n_tokens > 0


def test_a_merged_lens_can_be_merged_on():
    shards = [fitted(shard=(number, 3)) for number in (1, 2, 3)]
    at_once = lr.Lens.merge(shards)
    stepwise = lr.Lens.merge([lr.Lens.merge(shards[:2]), shards[2]])
    assert stepwise.digest == at_once.digest


def test_shards_are_read_one_by_one(tmp_path, monkeypatch):
    """The sums of a shard are let go before those of the next but one are read."""
    paths = [tmp_path / f"{number}.safetensors" for number in (1, 2, 3, 4)]
    for number, path in enumerate(paths, 1):
        fitted(shard=(number, 4), path=path)
    read = merging.read_sums
    kept, alive = [], []

    def watched(path, digest):
        sums = read(path, digest)
        kept.append(weakref.ref(sums["a.xx"]))
        alive.append(sum(reference() is not None for reference in kept))
        return sums

    monkeypatch.setattr(merging, "read_sums", watched)
    merged = lr.Lens.merge(lr.load_lens(path) for path in paths)
    assert max(alive) <= 2
    again = lr.Lens.merge([lr.load_lens(path) for path in paths])
    assert again.digest == merged.digest


def test_text_that_is_in_two_fits_is_refused():
    first = fitted(shard=(1, 2))
    with pytest.raises(ValueError, match="would count twice"):
        lr.Lens.merge([first, first])
    with pytest.raises(ValueError, match="would count twice"):
        lr.Lens.merge([fitted(texts=ROWS[:40]), fitted(texts=ROWS[20:])])


def test_what_does_not_belong_together_is_refused():
    first, second = fitted(shard=(1, 2)), fitted(shard=(2, 2))
    cases = [
        ([], "no lenses to merge"),
        ([first, dataclasses.replace(second, sums=None)], "does not hold what its fit added up"),
        ([first, fitted(shard=(2, 2), layers=[0, 1])], "different streams"),
        ([first, dataclasses.replace(second, kind="jacobian")], "merge one kind at a time"),
        ([dataclasses.replace(first, kind="tuned")], "received a tuned lens"),
        ([first, fitted(model=shared("mistral"), shard=(2, 2))], "the model differs"),
    ]
    for lenses, words in cases:
        with pytest.raises(ValueError, match=words):
            lr.Lens.merge(lenses)


def test_jacobians_are_weighted_by_their_prompts():
    def lens(seed: int, n_prompts: int, rows: list[int]):
        generator = torch.Generator().manual_seed(seed)
        sums = {"rows": torch.tensor(rows)}
        for half in "ab":
            sums[f"{half}.jacobian"] = (
                torch.randn(2, 4, 4, generator=generator).double() * n_prompts
            )
            sums[f"{half}.n_prompts"] = torch.tensor([n_prompts])
        both = half_of(sums, "a")
        add_sums(both, half_of(sums, "b"))
        transports = {
            layer: Affine((both["jacobian"][layer] / (2 * n_prompts)).float()) for layer in (0, 1)
        }
        return lr.Lens("jacobian", transports, sums=sums)

    one, other = lens(0, 3, [1]), lens(1, 7, [2])
    merged = lr.Lens.merge([one, other])
    for layer in (0, 1):
        expected = 0.3 * one.transports[layer].weight + 0.7 * other.transports[layer].weight
        torch.testing.assert_close(merged.transports[layer].weight, expected)
        assert merged.transports[layer].bias is None


def test_halves_are_balanced_whatever_is_left_out():
    """Which half a row is in is its own matter: shards, too, have two halves."""
    for shard in (None, (1, 2), (3, 4)):
        lens = fitted(shard=shard, texts=tiny.random_ids(400, 9, seed=1).tolist())
        counts = [int(lens.sums[f"{half}.n_tokens"]) for half in "ab"]
        assert min(counts) > 0.6 * max(counts)


def test_the_families_of_the_tests_have_streams_of_one_width():
    """What `merge` and the sums rely on."""
    for family in ("gpt2", "opt_project", "mamba"):
        assert family in FAMILIES
        sums = fitted(model=shared(family), texts=ROWS[:24]).sums
        assert sums["a.xx"].shape == sums["a.xy"].shape
