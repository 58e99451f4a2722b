"""What fitted lenses are worth on SmolLM2: on English that nothing was fitted on, beside the logit lens."""

from __future__ import annotations

import pydoc_data.topics

import numpy as np
import pytest

import lens_recipes as lr

LAYERS = [0, 12, 18, 24, 27]
TOKENS = 8_000  # of the model's own text


@pytest.fixture(scope="module")
def held_out(smollm2):
    """English prose, read as prompts are."""
    topics = pydoc_data.topics.topics
    words = " ".join(topics[name] for name in sorted(topics))
    return [smollm2.tokenizer(words[:4000]).input_ids[:250]]


@pytest.fixture(scope="module")
def linear(smollm2, tmp_path_factory):
    """A linear lens of all layers."""
    path = tmp_path_factory.mktemp("lens") / "linear.safetensors"
    return lr.fit_lens(smollm2, tokens=TOKENS, path=path)


def mean_kl(result: lr.LensResult) -> np.ndarray:
    """KL to the model's output, `[layer]`, without the first token, which has nothing before it."""
    return result.kl_to_final[:, 1:].mean(-1)


def test_a_linear_lens_is_far_nearer_than_none(smollm2, linear, held_out):
    logit = mean_kl(lr.logit_lens(smollm2, held_out))
    kl = mean_kl(lr.logit_lens(smollm2, held_out, lens=linear))
    assert (kl[:-1] < logit[:-1]).all()
    assert kl[:24].mean() <= 0.25 * logit[:24].mean()
    # What the fit measured itself says the same.
    assert linear.quality.is_better.all()
    quality = dict(zip(linear.quality.layers, linear.quality.kl, strict=True))
    for layer in LAYERS:
        assert quality[layer] == pytest.approx(kl[layer], rel=0.6)


def test_a_tuned_lens_is_nearer_than_a_linear_one(smollm2, held_out):
    kinds = {}
    for kind in ("linear", "tuned"):
        lens = lr.fit_lens(smollm2, kind=kind, tokens=TOKENS, layers=LAYERS, quality_tokens=0)
        kinds[kind] = mean_kl(lr.logit_lens(smollm2, held_out, layers=LAYERS, lens=lens))
    assert kinds["tuned"].mean() < kinds["linear"].mean()
    assert (kinds["tuned"] < kinds["linear"]).sum() >= len(LAYERS) - 1


@pytest.mark.parametrize("layer", [5, 20, 25])
def test_a_logit_of_a_lens_is_the_sum_of_many_parts(smollm2, linear, layer):
    """A fitted map magnifies rounding, which once made a sum of heads look wrong."""
    who = lr.attribution(
        smollm2,
        "The capital of Italy is",
        " Rome",
        against=" Paris",
        unit="head",
        at_layer=layer,
        lens=linear,
    )
    assert who.certificate.passed
    np.testing.assert_allclose(who.total, who.logit, atol=1e-3)


def test_a_refit_moves_the_lens_as_far_as_it_says(smollm2, linear, held_out):
    """Another seed writes another text."""
    other = lr.fit_lens(smollm2, tokens=TOKENS, layers=[12, 24], seed=1, quality_tokens=0)
    one = mean_kl(lr.logit_lens(smollm2, held_out, layers=[12, 24], lens=linear))
    two = mean_kl(lr.logit_lens(smollm2, held_out, layers=[12, 24], lens=other))
    np.testing.assert_allclose(one, two, rtol=0.3)
