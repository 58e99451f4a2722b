"""Edits on families of all kinds beside plain hooks; tests/full does all of it on every family."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
from edited_families import PAIR, RAGGED, Family
from hooked_edits import token_direction

import lens_recipes as lr
from lens_recipes.trace.edits.directions import Directions

# Grouped queries, parallel blocks, norms after parts, experts, a hybrid, state spaces, multipliers,
# a layer scale, norms of the stream itself, a recurrence, an image decoder, projected embeddings.
FAMILIES = [
    "gpt2", "gpt_neox", "gptj", "falcon", "bloom", "opt_project", "opt_350m", "openai_gpt", "llama",
    "qwen3", "gemma2", "olmo2", "cohere", "granite", "minicpm3", "doge", "minimax", "mixtral",
    "gpt_oss", "mamba", "mamba2", "falcon_h1", "recurrent_gemma", "rwkv", "mllama", "nanochat",
]  # fmt: skip
IN_BATCHES = ("zero at 2", "mean", "patch", "resample in the batch", "steer by two tokens", "swap")
ALONE = ("zero", "a vector", "patch", "steer by a token", "swap live")
PADDED = ("zero", "resample from others", "patch in the batch", "steer by a vector", "swap")


@functools.cache
def family_named(name: str) -> Family:
    return Family(tiny.shared(name))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("prompts", "cases"), [(PAIR, IN_BATCHES), (PAIR[:1], ALONE)], ids=["batch", "alone"]
)
def test_an_edited_model_is_one_with_hooks(name, prompts, cases):
    family = family_named(name)
    compared = [family.check(place, prompts, cases) for place in family.places()]
    assert len(compared) >= 4
    assert all(compared)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon", "mixtral", "mamba", "rwkv"])
def test_prompts_of_different_lengths_are_edited_as_each_alone(name):
    """Most share a batch, padded on the left; a recurrence gets a batch of each length."""
    model = lr.load(tiny.for_text(name), tokenizer=tiny.tiny_tokenizer())
    family = Family(model)
    for place in family.places():
        assert family.check(place, RAGGED, PADDED)


@pytest.mark.parametrize("weights", ["rows", "calls"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere", "opt_project", "minicpm3"])
def test_the_direction_of_a_token_is_the_gradient_of_its_logit(name, weights, monkeypatch):
    """With the norm held: from the token's row of the unembedding, or by calls of the module alone."""
    found = []
    vector = Directions.vector

    def kept(self, direction):
        if weights == "calls":
            self.weight = None
        found.append(vector(self, direction))
        return found[-1]

    monkeypatch.setattr(Directions, "vector", kept)
    model = tiny.shared(name)
    lr.logit_lens(model, PAIR[0], edits=lr.steer((40, 77), layer=0))
    (direction,) = found
    expected = token_direction(model, 40, 77)
    torch.testing.assert_close(direction / direction.norm(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert_lm", "modernbert_decoder"])
def test_a_head_with_an_activation_gives_no_token_a_direction(name):
    with pytest.raises(ValueError, match="activation between the stream and the logits"):
        lr.logit_lens(tiny.shared(name), PAIR[0], edits=lr.steer(40, layer=1))
