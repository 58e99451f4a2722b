"""What takes long with real weights, or a compiler."""

from __future__ import annotations

import signal
from functools import partial

import loopback
import pytest
import test_cli_generate
import test_generation
import test_wrapped
from loopback import SMOLLM2, Loopback
from test_estimate import estimate

import lens_recipes as lr
from lens_recipes.models import smollm2 as smollm2_files


@pytest.mark.parametrize("step", sorted(set(range(test_generation.NEW)) - {0, 3}))
def test_a_stop_string_ends_a_row_wherever_it_is(smollm2, step):
    test_generation.test_a_stop_string_ends_a_row_wherever_it_is(smollm2, step)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("sampler", test_generation.SAMPLERS)
def test_sampled_text_is_that_of_the_same_seed(smollm2, seed, sampler):
    test_generation.test_sampled_text_is_that_of_the_same_seed(smollm2, seed, sampler)


def test_a_model_compiled_inside_is_read_through_its_original():
    test_wrapped.test_a_compiled_model_is_read_through_its_original(inside=True)


def test_a_real_signal(smollm2, tmp_path):
    """The first characters come while it writes; then Ctrl-C."""
    file = tmp_path / "a.json"
    program = test_cli_generate._program(
        "Once upon a time", "--greedy", "--max-new-tokens", "400", "--json", str(file)
    )
    begun = program.stdout.read(5)
    program.send_signal(signal.SIGINT)
    rest, err = program.communicate(timeout=120)
    assert program.returncode == 130, err.decode()
    assert b"finish: interrupted" in rest
    assert b"Traceback" not in err
    result = lr.LensResult.load(file)
    assert (begun + rest).decode().startswith(result.responses[0].text)
    assert 1 <= len(result.tokens) < 400


def test_the_estimate_of_a_real_model(smollm2_client):
    """A random model's numbers are noise to a compressor; these are not."""
    for recipe in (
        partial(lr.logit_lens, prompts="The capital of France is Paris, and the capital of Italy"),
        partial(lr.logit_lens, prompts="The capital of France is", positions=-1, track=None),
        partial(lr.attribution, prompts="The capital of France is", targets=260, unit="head"),
    ):
        said, record = estimate(recipe, smollm2_client), recipe(smollm2_client).provenance["jobs"]
        assert said.bytes_up == pytest.approx(record["bytes_up"], rel=0.02)
        assert said.bytes_back == pytest.approx(record["bytes_back"], rel=0.2)


@pytest.fixture
def smollm2_client(smollm2, tmp_path):
    """SmolLM2 as a caller of a server has it, and the server."""
    loopback.lay_out(tmp_path, SMOLLM2, smollm2_files.folder())
    with loopback.hub_at(tmp_path), Loopback(smollm2) as server:
        yield lr.load(SMOLLM2, remote=server.url)


def test_every_component_of_every_layer_adds_up(smollm2):
    result = lr.logit_lens(
        smollm2, "The capital of France is",
        components=("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed"),
    )  # fmt: skip
    assert len(result.sites) == 5 * 30 + 1
    assert result.certificate.max_total_error < 1e-5
