"""Every family, every layer, against the early-exit oracle: the model itself, stopped after that layer."""

from __future__ import annotations

from functools import partial

import numpy as np
import oracle
import pytest
import tiny
import torch
from agreement import assert_ranks, assert_same_as, assert_top_ids

import lens_recipes as lr
from lens_recipes.models.lens_head import plain_head
from lens_recipes.models.structure.head_path import without_devices
from lens_recipes.recipes import logit_lens as _logit_lens

# The model halves its stream between blocks; an early exit is halved once more by every block it
# passes through,
# which only the norm's epsilon shows.
LOOSE = {"rwkv_halved": 2e-3}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_is_the_early_exit(family):
    model = tiny.shared(family)
    module = model._module
    ids = tiny.random_ids(batch=2, length=9, seed=3)
    expected = oracle.early_exit_logits(module, ids).numpy()  # [layer, batch, position, vocab]
    final = oracle.plain_logits(module, ids).numpy()
    result = lr.logit_lens(model, ids, targets=[7, 11], top_k=4)

    assert result.certificate.passed
    assert len(result.sites) == len(expected)
    expected = expected.reshape(
        len(expected), -1, expected.shape[-1]
    )  # tokens packed, as in the result
    final = final.reshape(-1, final.shape[-1])
    close = LOOSE.get(family, 2e-4)
    for site, logits in enumerate(expected):
        reference = oracle.metrics(logits, final, k=4)
        assert_top_ids(result.top_ids[site], reference["logprobs"], close)
        np.testing.assert_allclose(result.top_logprobs[site], reference["top_logprobs"], atol=close)
        np.testing.assert_allclose(result.entropy[site], reference["entropy"], atol=close)
        np.testing.assert_allclose(result.kl_to_final[site], reference["kl_to_final"], atol=close)
        np.testing.assert_allclose(result.target_logits[site], logits[:, [7, 11]], atol=close * 5)
        for column, target in enumerate((7, 11)):
            ranks = result.target_ranks[site, :, column]
            assert_ranks(ranks, reference["logprobs"], target, close)
        following = result.tokens.next_id
        has_next = following >= 0
        at = reference["logprobs"][np.arange(len(following))[has_next], following[has_next]]
        np.testing.assert_allclose(result.next_logprobs[site, has_next], at, atol=close)
        assert np.isnan(result.next_logprobs[site, ~has_next]).all()


@pytest.mark.parametrize("family", tiny.REFUSED)
def test_what_cannot_be_read_is_refused_with_a_reason(family):
    with pytest.raises(lr.LensError) as refusal:
        lr.logit_lens(lr.load(tiny.REFUSED[family]()), tiny.random_ids(batch=1, length=4))
    assert len(str(refusal.value).split()) > 8


@pytest.mark.parametrize(
    "family", ["gemma2", "cohere", "minicpm3", "opt_project", "falcon_h1", "gpt2", "bert_lm"]
)
def test_anatomy_without_weights_is_the_same(family):
    """What a remote run relies on: the shapes alone tell the same story as the numbers."""
    model = tiny.shared(family)
    module = model._module
    with torch.device("meta"):
        skeleton = type(module)(module.config)
    here, there = lr.anatomy(model), lr.anatomy(lr.load(skeleton))
    assert str(here) == str(there)
    assert without_devices(here.tail) == without_devices(there.tail)


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "cohere", "minicpm3", "phi", "gptj", "falcon_h1", "opt_project"]
)
def test_tiles_of_the_weight_and_calls_of_the_module_agree(family, monkeypatch):
    """The short cut for a plain local unembedding, and the way for every other: the same numbers."""
    model = tiny.shared(family)
    ids = tiny.random_ids(batch=2, length=6)
    assert plain_head(model, lr.anatomy(model)) is not None
    quick = lr.logit_lens(model, ids, targets=[9])
    monkeypatch.setattr(_logit_lens, "plain_head", lambda *_: None)
    assert_same_as(quick, partial(lr.logit_lens, model, ids, targets=[9]), atol=1e-4)
