"""Every recipe on a real server, for callers that it trusts and for strangers: the same as here, and as estimated."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from agreement import assert_same_as
from lenses import FORMS, lens_of_kind

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
PROMPTS = [
    FRANCE,
    "Two plus two is",
    "Roses are red, violets are blue, and the sky above the sea is",
    "Hello",
]
OF_GENERATION = ("next_logprob", "sampler_logprob")
ATTRIBUTED = ("values", "total", "logit", "capped_logit")


@pytest.fixture
def both(any_server, client, here):
    """Run a recipe there: certified, and as large as was estimated. With it, how to run it here."""

    def run(name, recipe, *arguments, **options):
        model = client(any_server, name)
        expected = lr.estimate(recipe, model, *arguments, **options)
        there = recipe(model, *arguments, **options)
        used = there.provenance["jobs"]
        assert there.provenance["remote"] is True
        assert there.certificate is None or there.certificate.passed
        assert used["host"] == any_server.url
        assert used["jobs"] == expected.jobs
        assert used["bytes_up"] == pytest.approx(expected.bytes_up, rel=0.02)
        if used["bytes_back"] > 4000 and name == "smollm2":
            assert used["bytes_back"] == pytest.approx(expected.bytes_back, rel=0.2)
        return there, partial(recipe, here(name), *arguments, **options)

    return run


def assert_same_packing(there, here, atol=2e-3):
    """The same tokens and texts."""
    for name in ("prompt", "position", "id", "next_id", "generated"):
        np.testing.assert_array_equal(
            getattr(there.tokens, name), getattr(here.tokens, name), err_msg=name
        )
    for name in OF_GENERATION:
        assert (getattr(there.tokens, name) is None) == (getattr(here.tokens, name) is None)
        if getattr(here.tokens, name) is not None:
            np.testing.assert_allclose(
                getattr(there.tokens, name), getattr(here.tokens, name), atol=atol, err_msg=name
            )
    assert there.tokens.text == here.tokens.text
    assert there.prompts == here.prompts


def assert_same_lens(there, run_here):
    """The same tokens and texts, the same numbers up to rounding, the same ranks up to near ties."""
    here = run_here()
    assert_same_packing(there, here)
    assert there.sites == here.sites
    assert there.mark == here.mark
    assert_same_as(there, run_here, atol=2e-3)


def assert_same_attribution(there, here):
    assert_same_packing(there, here)
    assert there.parts == here.parts
    for name in ATTRIBUTED:
        np.testing.assert_allclose(
            getattr(there, name), getattr(here, name), atol=2e-3, err_msg=name
        )


# -- logit_lens --------------------------------------------------------

LENS = {
    "all": {"targets": [" Paris", " blue"]},
    "last": {"positions": -1, "track": None, "targets": [" Paris"]},
    "parts": {
        "components": ("resid_mid", "attn_out", "mlp_out", "head_out"), "layers": [0, 15, 29], "positions": [2, -1],
    },
    "raw": {"apply_norm": False, "layers": slice(None, None, 5), "track": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", LENS)
def test_the_lens(both, case):
    there, run_here = both("smollm2", lr.logit_lens, FRANCE, **LENS[case])
    assert_same_lens(there, run_here)
    if case == "parts":
        assert there.certificate.max_block_error < 1e-5
        assert there.certificate.max_head_error < 1e-4
    if case == "last":
        assert there.provenance["jobs"]["bytes_back"] < 12_000


def test_prompts_of_several_lengths_are_one_job(both):
    there, run_here = both(
        "smollm2", lr.logit_lens, PROMPTS, targets=[[" Paris"], [" four"], [" blue"], [" there"]]
    )
    assert there.provenance["jobs"]["jobs"] == 1
    assert_same_lens(there, run_here)


def test_many_prompts_are_several_jobs_and_a_file(both, settings, tmp_path):
    settings(tokens_per_job=12)
    there, run_here = both("tiny", lr.logit_lens, PROMPTS * 2, targets=[" Paris"])
    assert there.provenance["jobs"]["jobs"] > 2
    assert_same_lens(there, run_here)
    for name in ("result.json", "result.npz"):
        there.save(tmp_path / name)
        again = lr.LensResult.load(tmp_path / name)
        assert_same_packing(again, there, atol=0)
        for axis in AXES:
            np.testing.assert_array_equal(getattr(again, axis), getattr(there, axis), err_msg=axis)
        assert again.certificate == there.certificate
        assert again.provenance["jobs"] == there.provenance["jobs"]


# -- attribution -------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "against"), [("layer", "mean"), ("component", " London"), ("head", "mean")]
)
def test_attribution(both, unit, against):
    there, run_here = both(
        "smollm2",
        lr.attribution,
        [FRANCE, "Hello"],
        [" Paris", " Rome"],
        unit=unit,
        against=against,
    )
    here = run_here()
    assert there.against == here.against
    assert_same_attribution(there, here)


def test_attribution_to_a_layer_in_the_middle(both):
    there, run_here = both(
        "tiny",
        lr.attribution,
        PROMPTS,
        [" Paris"],
        unit="head",
        at_layer=1,
        positions=slice(-2, None),
    )
    assert_same_attribution(there, run_here())


def test_source_tokens_are_refused_before_anything_is_sent(server, client):
    known = len(server.stored("responses/"))
    with pytest.raises(lr.LensError, match=r'already runs eager.*unit="head" works'):
        lr.attribution(client(server), FRANCE, [" Paris"], unit="token")
    assert len(server.stored("responses/")) == known


# -- generate_lens -----------------------------------------------------


def assert_same_text(there, run_here):
    assert there.responses == run_here().responses
    assert_same_lens(there, run_here)


def test_greedy_text(both):
    options = {
        "max_new_tokens": 8,
        "do_sample": False,
        "include_prompt": True,
        "targets": [" Paris"],
    }
    there, run_here = both("smollm2", lr.generate_lens, FRANCE, **options)
    assert there.responses[0].finish == "length"
    assert_same_text(there, run_here)


def test_a_text_that_a_stop_string_ends_beside_one_that_goes_on(both):
    options = {"max_new_tokens": 6, "do_sample": False, "stop": " Paris", "layers": [0, 20, 29]}
    there, run_here = both("smollm2", lr.generate_lens, [FRANCE, ITALY], **options)
    assert [response.finish for response in there.responses] == ["stop", "length"]
    assert_same_text(there, run_here)


def test_a_text_that_eos_ends_beside_one_that_goes_on(both, here):
    """The end is whatever one of the two writes third, and the other never."""
    plain = lr.generate_lens(here("tiny"), [FRANCE, ITALY], max_new_tokens=6, do_sample=False)
    one, other = (part.tokens.next_id[part.tokens.generated].tolist() for part in plain)
    eos = next(id for id in one[2:4] if id not in other + one[:2])
    options = {"max_new_tokens": 6, "do_sample": False, "generation_config": {"eos_token_id": eos}}
    there, run_here = both("tiny", lr.generate_lens, [FRANCE, ITALY], **options)
    assert [response.finish for response in there.responses] == ["eos", "length"]
    assert_same_text(there, run_here)


def test_parts_of_a_text(both):
    """What is read must not change what is written: a stranger's reads come back to the model as copies."""
    components = ("embed", "resid_pre", "resid_mid", "attn_out", "mlp_out", "head_out")
    options = {"components": components, "max_new_tokens": 4, "do_sample": False}
    there, run_here = both("tiny", lr.generate_lens, FRANCE, **options)
    assert_same_text(there, run_here)


def test_on_step_is_told_of_every_token(server, client, here):
    told = {"there": [], "here": []}
    for where, model in {"there": client(server, "tiny"), "here": here("tiny")}.items():
        lr.generate_lens(
            model, [FRANCE, "Hello"], max_new_tokens=3, do_sample=False,
            on_step=lambda step, where=where: told[where].append((step.provenance["prompt"], step.tokens.next_id[-1])),
        )  # fmt: skip
    assert sorted(told["there"]) == sorted(told["here"])
    assert len(told["there"]) == 6


SAMPLED = {"max_new_tokens": 6, "temperature": 0.9, "top_p": 0.9, "sample_top_k": 40}


def test_a_seed_gives_the_same_text_where_the_caller_is_trusted(server, client, here):
    options = {**SAMPLED, "seed": 5}
    assert_same_text(
        lr.generate_lens(client(server), FRANCE, **options),
        partial(lr.generate_lens, here("smollm2"), FRANCE, **options),
    )


def test_a_seed_is_refused_to_a_stranger(sandbox_server, client):
    with pytest.raises(
        lr.RemoteLensError, match="random numbers it cannot set: leave out the seed"
    ) as caught:
        lr.generate_lens(client(sandbox_server, "tiny"), FRANCE, seed=5, **SAMPLED)
    assert not caught.value.may_finish
    assert "Nothing was computed" in str(caught.value)


def test_a_sampled_text_is_certified(any_server, client):
    there = lr.generate_lens(client(any_server, "tiny"), [FRANCE, "Hello"], **SAMPLED)
    assert there.certificate.passed
    assert there.tokens.generated.sum() == 12
    assert np.isfinite(there.tokens.sampler_logprob[there.tokens.generated]).all()


# -- decode_vectors ----------------------------------------------------


def test_vectors(both, here):
    rows = here("smollm2")._module.model.layers[29].mlp.down_proj.weight[:, :3].T.float()
    names = ["one", "another", "a third", "none"]
    vectors = torch.cat([rows, -rows[:1]])
    there, run_here = both("smollm2", lr.decode_vectors, vectors, names, targets=[" Paris"])
    assert there.tokens.text == names
    assert_same_lens(there, run_here)


# -- lenses with transports --------------------------------------------


@pytest.mark.parametrize("kind", FORMS)
def test_a_lens_travels_with_every_recipe(both, here, kind):
    lens = lens_of_kind(here("tiny"), kind)
    there, run_here = both(
        "tiny", lr.logit_lens, PROMPTS[:2], components=["resid_post", "attn_out"], lens=lens
    )
    assert there.lens == lens.used()
    assert_same_lens(there, run_here)
    there, run_here = both(
        "tiny", lr.generate_lens, FRANCE, max_new_tokens=3, do_sample=False, lens=lens
    )
    assert_same_lens(there, run_here)
    there, run_here = both("tiny", lr.attribution, FRANCE, [" Paris"], at_layer=1, lens=lens)
    assert_same_attribution(there, run_here())
    vectors = torch.randn(2, lens.d_model, generator=torch.Generator().manual_seed(0))
    there, run_here = both("tiny", lr.decode_vectors, vectors, lens=lens, layer=0)
    assert_same_lens(there, run_here)
