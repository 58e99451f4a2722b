"""A linear lens fitted on a real server, for callers that it trusts and for strangers: the one that is fitted here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lens_recipes as lr
from lens_recipes.recipes.lenses.estimators.linear import LinearEstimator

TEXT = "{}. Roses are red, violets are blue, and the sky above the sea is grey until the sun comes up again. "


def texts(n_texts: int) -> list[str]:
    """Texts of a few lengths."""
    return [TEXT.format(number) * (1 + number % 3) for number in range(n_texts)]


def assert_same_fit(there: lr.Lens, here: lr.Lens, atol: float) -> None:
    """The same lens up to the rounding of another machine's products."""
    assert there.layers == here.layers
    assert there.record.n_tokens == here.record.n_tokens
    assert there.record.settings["ridge"] == here.record.settings["ridge"]
    for layer in here.layers:
        mine, theirs = here.transports[layer].weight, there.transports[layer].weight
        assert (mine - theirs).abs().max() < atol * mine.abs().max(), layer
    np.testing.assert_allclose(there.quality.kl, here.quality.kl, atol=1e-2)
    np.testing.assert_allclose(there.quality.logit_kl, here.quality.logit_kl, atol=2e-3)
    for name, value in here.sums.items():
        if value.is_floating_point():
            size = float(value.abs().max())
            torch.testing.assert_close(there.sums[name], value, rtol=0, atol=1e-5 * size)


def test_the_lens_of_a_server_is_the_one_that_is_fitted_here(any_server, client, here):
    model = client(any_server, "tiny")
    said = lr.estimate(lr.fit_lens, model, texts(60), tokens=10_000)
    assert said.seconds is None
    there = lr.fit_lens(model, texts(60), tokens=10_000)
    assert_same_fit(there, lr.fit_lens(here("tiny"), texts(60), tokens=10_000), atol=1e-2)
    assert there.quality.refit_kl == []


def test_chosen_layers_of_a_real_model_come_back(server, client, here):
    model = client(server, "smollm2")
    options = {"layers": ["embed", 20], "tokens": 1_500, "quality_tokens": 32}
    there = lr.fit_lens(model, texts(60), **options)
    assert_same_fit(there, lr.fit_lens(here("smollm2"), texts(60), **options), atol=2e-2)


def test_a_fit_goes_on_where_a_server_went_away(
    server, client, here, settings, tmp_path, monkeypatch
):
    settings(tokens_per_job=200)
    path = tmp_path / "lens.safetensors"
    model = client(server, "tiny")
    sums_of = LinearEstimator.sums_of
    sent = []

    def failing(self, batch):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(batch.n_tokens)
        return sums_of(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LinearEstimator, "sums_of", failing)
        with pytest.raises(KeyboardInterrupt, match="to go on"):
            lr.fit_lens(model, texts(40), tokens=10_000, path=path)
    resumed = lr.fit_lens(model, texts(40), tokens=10_000, path=path)
    assert_same_fit(resumed, lr.fit_lens(here("tiny"), texts(40), tokens=10_000), atol=1e-2)


def test_a_server_does_not_write_the_text(server, client):
    with pytest.raises(lr.LensError, match="Pass texts="):
        lr.fit_lens(client(server, "tiny"))
