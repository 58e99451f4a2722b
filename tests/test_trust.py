"""What may be believed: `readable` says where the lens is better than a uniform guess."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import lens_recipes as lr

DATA = Path(__file__).parent / "data"
IDS = tiny.random_ids(2, 6, seed=3)
SUFFIXES = (".json", ".npz")


@pytest.fixture(scope="module")
def model():
    return tiny.shared("llama")


@pytest.fixture(scope="module")
def result(model):
    return lr.logit_lens(model, IDS)


@pytest.fixture(scope="module")
def expected(model):
    """Where KL(model ‖ lens) is at most KL(model ‖ uniform), by Hugging Face and torch alone."""
    module = model._module
    with torch.no_grad():
        output = module(IDS, output_hidden_states=True)
        early = [module.lm_head(module.model.norm(stream)) for stream in output.hidden_states[1:-1]]
    own = output.logits.double().log_softmax(-1)
    lens = torch.stack([*early, output.logits]).double().log_softmax(-1)
    to_lens = (own.exp() * (own - lens)).sum(-1)
    to_uniform = (own.exp() * (own + math.log(own.shape[-1]))).sum(-1)
    return (to_lens <= to_uniform).flatten(1).numpy()


def test_readable_is_what_is_better_than_a_uniform_guess(result, expected):
    assert result.readable.dtype == bool
    assert expected[-1].all()
    assert not expected.all()
    np.testing.assert_array_equal(result.readable, expected)


def test_it_is_known_without_the_last_layer_and_of_each_prompt(model, result, expected):
    alone = lr.logit_lens(model, IDS, layers=[0, 2])
    np.testing.assert_array_equal(alone.readable, expected[[0, 2]])
    np.testing.assert_array_equal(result[1].readable, expected[:, 6:])


def test_it_is_the_same_where_a_server_would_run_it(llama):
    here = lr.logit_lens(llama, "one two three four")
    sent = lr.logit_lens(llama, "one two three four", remote="local")
    assert not here.readable.all()
    np.testing.assert_array_equal(sent.readable, here.readable)


def test_a_generation_knows_it_at_each_step(model):
    said = lr.generate_lens(model, IDS[:1], max_new_tokens=4, include_prompt=True)
    written = [int(token) for token in said.tokens.id]
    again = lr.logit_lens(model, [written])
    assert said.readable.shape == (4, len(written))
    np.testing.assert_array_equal(said.readable, again.readable)


def test_a_lens_that_transfers_everywhere_is_readable_everywhere():
    """Blocks that add nothing leave a stream that every layer reads as the last one does."""
    module = tiny.llama()
    with torch.no_grad():
        for block in module.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
    assert lr.logit_lens(lr.load(module), IDS).readable.all()


def test_vectors_have_no_output_that_they_could_be_measured_by(model):
    vectors = lr.decode_vectors(model, torch.randn(3, 32, generator=torch.Generator()))
    assert vectors.readable.all()


def test_a_frame_says_it_in_each_row(result):
    frame = result.to_frame()
    top = frame[(frame["role"] == "top") & (frame["k"] == 0)]
    shown = top.pivot(index="layer", columns=["prompt", "position"], values="readable")
    np.testing.assert_array_equal(shown.to_numpy(), result.readable)


# -- files ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_keeps_it(tmp_path, result, suffix):
    result.save(tmp_path / f"a{suffix}")
    loaded = lr.LensResult.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(loaded.readable, result.readable)
    np.testing.assert_array_equal(loaded.model_entropy, result.model_entropy)


def test_the_json_says_it_for_other_programs(tmp_path, result):
    result.save(tmp_path / "a.json")
    stored = json.loads((tmp_path / "a.json").read_text())["arrays"]
    assert stored["readable"] == result.readable.tolist()


def test_a_file_that_claims_more_than_its_numbers_is_refused(tmp_path, result):
    path = tmp_path / "a.json"
    result.save(path)
    stored = json.loads(path.read_text())
    stored["arrays"]["readable"] = np.ones_like(result.readable).tolist()
    path.write_text(json.dumps(stored))
    with pytest.raises(lr.LensError, match="readable is not what follows from the other numbers"):
        lr.LensResult.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_an_earlier_version_is_read_by_its_last_layer(suffix):
    old = lr.LensResult.load(DATA / f"lens{suffix}")
    to_uniform = math.log(old.provenance["vocab_size"]) - old.entropy[-1]
    assert (old.kl_to_final[-1] < 1e-3).all()
    np.testing.assert_array_equal(old.readable, old.kl_to_final <= to_uniform + 1e-4)


def test_verify_holds_the_entropy_against_the_model(tmp_path, model, result):
    claimed = dataclasses.replace(result, model_entropy=result.model_entropy + 1)
    with pytest.raises(lr.LensError, match=r"model_entropy\[0\]"):
        claimed.verify(model)
