"""How long a prompt may be and which ids it may have is what the model can run, no less and no more."""

from __future__ import annotations

import logging

import numpy as np
import oracle
import pytest
import tiny
import torch
import transformers as hf
from torch import nn

import lens_recipes as lr
from lens_recipes.models.handle import context_length

POSITIONS = tiny.POSITIONS


def roberta():
    """66 positions, of which the first two are never used."""
    config = hf.RobertaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS + 2,
        is_decoder=True,
        pad_token_id=1,
    )
    return tiny._build(config)


def scaled_llama(**rope):
    config = tiny.llama().config.to_dict()
    parameters = {"rope_theta": 10000.0, **rope}
    return tiny._build(hf.LlamaConfig(**{**config, "rope_parameters": parameters}))


def yarn():
    return scaled_llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=POSITIONS)


def dynamic():
    return scaled_llama(rope_type="dynamic", factor=2.0)


def random_ids(length: int) -> torch.Tensor:
    return tiny.random_ids(1, length, seed=length)


def assert_right(model, ids: torch.Tensor) -> None:
    """The lens after the last token is the early exit's, at every layer."""
    result = lr.logit_lens(model, ids, positions=-1, top_k=3)
    expected = oracle.early_exit_logits(model._module, ids)[:, 0, -1]
    expected = torch.as_tensor(expected).log_softmax(-1)
    shown = torch.tensor(result.top_ids[:, 0].astype(np.int64))
    torch.testing.assert_close(
        torch.tensor(result.top_logprobs[:, 0]), expected.gather(-1, shown), rtol=0, atol=2e-4
    )
    assert result.certificate.passed


HARD = {
    "gpt2": tiny.FAMILIES["gpt2"],  # a table
    "opt": tiny.FAMILIES["opt"],  # a table whose first two rows are left out
    "roberta": roberta,
    "openai_gpt": tiny.FAMILIES["openai_gpt"],
    "gptj": tiny.FAMILIES["gptj"],  # rotations out of a table
    "mpt": tiny.FAMILIES["mpt"],  # distances out of a table
}


@pytest.mark.parametrize("name", HARD)
def test_a_table_of_positions_is_filled_and_no_further(name):
    model = lr.load(HARD[name]())
    assert lr.anatomy(model).n_positions == POSITIONS
    assert_right(model, random_ids(POSITIONS))
    too_long = random_ids(POSITIONS + 1)
    with pytest.raises(ValueError, match=rf"{POSITIONS + 1} tokens long; .* holds {POSITIONS}"):
        lr.logit_lens(model, too_long)
    with pytest.raises((IndexError, RuntimeError)):  # what the model itself says
        model._module(too_long, use_cache=False)


@pytest.mark.parametrize(
    ("build", "made_for"),
    [(tiny.llama, POSITIONS), (yarn, 4 * POSITIONS), (dynamic, None)],
    ids=["plain", "YaRN", "dynamic"],
)
def test_rotations_go_on_and_beyond_what_they_were_made_for_it_is_said(build, made_for, caplog):
    model = lr.load(build())
    assert lr.anatomy(model).n_positions is None
    assert context_length(model) == made_for
    with caplog.at_level(logging.WARNING, logger="lens_recipes"):
        assert_right(model, random_ids(POSITIONS + 6))
    assert len(caplog.records) == (made_for == POSITIONS)
    if made_for == POSITIONS:
        assert f"{POSITIONS + 6} tokens long, and this model is made for 64" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lens_recipes"):
        assert_right(model, random_ids(POSITIONS))
        assert_right(model, random_ids(4 * POSITIONS + 1))
    assert len(caplog.records) == (made_for is not None)


def test_long_prompts_are_as_alone_where_rotations_depend_on_the_length():
    prompts = [random_ids(length)[0].tolist() for length in (9, 70, POSITIONS, 80)]
    together = lr.logit_lens(lr.load(dynamic()), prompts, positions=-1)
    for number, prompt in enumerate(prompts):
        alone = lr.logit_lens(lr.load(dynamic()), prompt, positions=-1)
        np.testing.assert_allclose(
            together[number].model_logprobs, alone.model_logprobs, rtol=0, atol=1e-4
        )


def test_writing_goes_as_far_as_the_model():
    model = lr.load(yarn())
    ids = random_ids(POSITIONS - 2)[0].tolist()
    written = lr.generate_lens(model, ids, max_new_tokens=6, do_sample=False)
    expected = model._module.generate(
        torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert written.tokens.next_id.tolist() == expected[0, len(ids) :].tolist()
    with pytest.raises(ValueError, match="there is room for 2 new tokens"):
        lr.generate_lens(lr.load(tiny.gpt2()), ids, max_new_tokens=6)


# -- ids ---------------------------------------------------------------


def with_head(n_embeddings: int, n_logits: int):
    """A Llama whose prompts and whose answers are made of different numbers of tokens."""
    module = tiny.llama()
    generator = torch.Generator().manual_seed(5)
    module.model.embed_tokens = nn.Embedding(n_embeddings, 32)
    module.lm_head = nn.Linear(32, n_logits, bias=False)
    for weight in (module.model.embed_tokens.weight, module.lm_head.weight):
        weight.data = torch.randn(weight.shape, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("n_embeddings", "n_logits"), [(120, 90), (90, 120)])
def test_prompts_have_the_ids_of_the_embedding_and_targets_those_of_the_head(
    n_embeddings, n_logits
):
    model = lr.load(with_head(n_embeddings, n_logits))
    ids = torch.tensor([[7, n_embeddings - 1, 8, 9]])
    assert_right(model, ids)
    with pytest.raises(ValueError, match=f"id {n_embeddings} .* ids are 0 to {n_embeddings - 1}"):
        lr.logit_lens(model, [[7, n_embeddings]])
    result = lr.logit_lens(model, ids, targets=n_logits - 1)
    assert np.isfinite(result.target_logprobs).all()
    with pytest.raises(ValueError, match=f"ids are 0 to {n_logits - 1}"):
        lr.logit_lens(model, ids, targets=n_logits)
    with pytest.raises(ValueError, match=f"ids are 0 to {n_logits - 1}"):
        lr.attribution(model, ids, targets=n_logits)
    with pytest.raises(ValueError, match=f"top_k={n_logits + 1}"):
        lr.logit_lens(model, ids, top_k=n_logits + 1)


def test_a_token_that_no_logit_is_about_has_no_probability():
    """It follows in the prompt, but the model could not have said it."""
    model = lr.load(with_head(120, 90))
    result = lr.logit_lens(model, [[7, 119, 8, 9]])
    assert result.tokens.next_id.tolist() == [-1, 8, 9, -1]
    assert np.isnan(result.next_logprobs[:, 0]).all()
    assert np.isfinite(result.next_logprobs[:, 1:3]).all()
    assert result.tokens.text[1] == "#119"
    assert lr.table(result)
    written = lr.generate_lens(
        model, [[7, 119, 8, 9]], max_new_tokens=3, do_sample=False, include_prompt=True
    )
    assert written.tokens.next_id.tolist()[:3] == [-1, 8, 9]
    assert str(written)
