"""Edits leave nothing behind, and do the same on a server and in a job's file."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import strict_local
import tiny
import torch
from lenses import random_lens
from loopback import NOT_THERE

import lens_recipes as lr
from lens_recipes.recipes import logit_lens as recipe
from lens_recipes.trace.edits import apply, changes

pytest_plugins = ["loopback"]

PROMPTS = ["the quick brown fox", "The capital of France is", "One two"]
VECTOR = np.linspace(-1, 1, 32)
KINDS = {
    "zero": lr.ablate(layer=1, component="attn_out", positions=[0, 1]),
    "vector": lr.ablate(layer=[1, 2], component="head_out", head=1, to=VECTOR[:8]),
    "mean": lr.ablate(layer=1, component="mlp_out", to="mean"),
    "mean over": lr.ablate(component="embed", to="mean", over=PROMPTS, positions=1),
    "resample": lr.ablate(layer=2, to="resample", positions=[0, 1]),
    "patch": lr.patch(PROMPTS[1], layer=1, component="resid_mid", positions=[0, -1]),
    "patch inside": lr.patch(1, layer=2, component="resid_pre", positions=1),
    "steer": lr.steer(VECTOR, layer=1, scale=0.5),
    "token": lr.steer((" the", " a"), layer=2, scale=0.5),
    "swap": lr.swap(" the", " a", layers=[1, 2]),
    "live": lr.swap(" the", " a", layers=1, clamp=False),
}
NUMBERS = ("entropy", "logsumexp", "kl_to_final", "target_logits")


def state_of(module):
    """Everything that a run could have left: hooks, forwards, weights, modes."""
    hooks, weights = {}, {}
    for name, part in module.named_modules():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        hooks[name] = [list(getattr(part, kind)) for kind in kinds] + [part.training]
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        weights[name] = weight.clone()
    return hooks, weights


def assert_same_state(module, before):
    hooks, weights = state_of(module)
    assert hooks == before[0]
    for name, weight in weights.items():
        assert torch.equal(weight, before[1][name]), name


def lens(model, prompts=PROMPTS, **options):
    return lr.logit_lens(model, prompts, targets=[7, 8], track=None, **options)


# -- nothing is left ---------------------------------------------------


def test_nothing_is_left_after_a_run(llama):
    plain = lens(llama)
    before = state_of(llama._module)
    for edit in KINDS.values():
        lens(llama, edits=edit)
    assert_same_state(llama._module, before)
    again = lens(llama)
    for name in NUMBERS:
        assert np.array_equal(getattr(again, name), getattr(plain, name))


@pytest.mark.parametrize(
    "error", [RuntimeError("inside"), KeyboardInterrupt()], ids=["error", "Ctrl-C"]
)
@pytest.mark.parametrize("place", ["change", "put back", "source", "readout"])
def test_nothing_is_left_after_an_exception(llama, monkeypatch, error, place):
    plain = lens(llama)
    lens(llama, edits=KINDS["patch"])  # the model is known, and asked
    before = state_of(llama._module)

    def raising(*_args, **_options):
        raise error

    with monkeypatch.context() as patch:
        if place == "change":
            patch.setattr(changes.CopySource, "apply", raising)
        elif place == "put back":
            patch.setattr(apply, "put_back", raising)
        elif place == "source":
            patch.setattr(recipe, "read_sources", raising)
        else:
            patch.setattr(recipe, "readout", raising)
        with pytest.raises(type(error)):
            lens(llama, edits=KINDS["patch"])
    assert_same_state(llama._module, before)
    for edits in (None, KINDS["patch"]):
        after = lens(llama, edits=edits)
        assert after.certificate.passed
        if edits is None:
            for name in NUMBERS:
                assert np.array_equal(getattr(after, name), getattr(plain, name))


def test_two_threads_edit_one_model_as_one_after_the_other(llama):
    expected = {name: lens(llama, edits=KINDS[name]) for name in ("zero", "steer", "patch")}
    expected["plain"] = lens(llama)
    before = state_of(llama._module)
    found = []

    def work(names):
        for name in names:
            found.append((name, lens(llama, edits=KINDS.get(name))))

    orders = (["zero", "plain", "patch", "steer"], ["plain", "steer", "zero", "patch"])
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for name, result in found:
        for number in NUMBERS:
            assert np.array_equal(getattr(result, number), getattr(expected[name], number))
    assert_same_state(llama._module, before)


# -- on a server -------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_strict_server_edits_the_same(llama, monkeypatch, kind):
    options = {"edits": KINDS[kind], "components": ("resid_post", "attn_out")}
    here = lens(llama, **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lens(llama, remote="local", **options)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=2e-5)
    assert there.certificate.passed
    assert there.certificate.edit_identity_error == here.certificate.edit_identity_error == 0
    assert there.certificate.edit_cone_error == 0


@pytest.mark.parametrize("family", ["gemma2", "mixtral", "mamba", "falcon_h1"])
def test_other_families_are_edited_there_too(family, monkeypatch):
    model = lr.load(tiny.for_text(family), tokenizer=tiny.tiny_tokenizer())
    edits = [KINDS["steer"], KINDS["token"], lr.ablate(layer=0, positions=1)]
    here = lens(model, edits=edits)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lens(model, edits=edits, remote="local")
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=5e-5)


def test_a_head_with_an_activation_is_refused_there(monkeypatch):
    model = lr.load(tiny.for_text("bert_lm"), tokenizer=tiny.tiny_tokenizer())
    strict_local.install(monkeypatch, *NOT_THERE)
    with pytest.raises(ValueError, match="activation between the stream and the logits"):
        lens(model, edits=lr.steer(7, layer=1), remote="local")


def test_an_estimate_counts_the_runs_that_edits_copy_from(llama):
    def tokens(edits, controls=0):
        prompts = [[7, 8, 9, 10], [8, 9, 10, 11]]
        estimate = lr.estimate(lr.logit_lens, llama, prompts, edits=edits, controls=controls)
        return estimate.tokens

    plain = tokens(None)
    asked = 3 * 2 * 4  # the model is asked about one site: three runs of two rows of four tokens
    assert plain == 8
    assert tokens(lr.ablate(layer=1)) == plain + asked
    assert tokens(lr.patch([3, 4, 5, 6], layer=1)) == plain + asked + 4
    assert tokens(lr.patch(0, layer=1)) == plain + asked + 4
    assert tokens(lr.ablate(layer=1, to="resample")) == plain + asked + 8
    beside = 1 + 3  # the unedited run, and each control
    assert tokens(lr.ablate(layer=1), controls=3) == (1 + beside) * plain + asked
    over = [[1, 2, 3], [4, 5]]
    assert tokens(lr.ablate(layer=1, to="mean", over=over)) == plain + asked + 5


def test_means_are_taken_once_in_a_run(llama, monkeypatch):
    from lens_recipes.trace.edits import sources

    taken = []
    read_means = sources.read_means
    monkeypatch.setattr(sources, "read_means", lambda *a: taken.append(1) or read_means(*a))
    prompts = [[7] * length for length in (3, 5, 60)]
    edit = lr.ablate(layer=1, to="mean", over=[[1, 2, 3]])
    monkeypatch.setattr("lens_recipes.run.batches.MAX_TOKENS", 8)
    result = lr.logit_lens(llama, prompts, edits=edit)
    assert result.certificate.passed
    assert len(taken) == 1


# -- jobs --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_with_edits_goes_on_from_its_file(client, server, llama, tmp_path, kind):
    options = {"targets": [7, 8], "track": None, "edits": KINDS[kind]}
    path = tmp_path / "edits.job"
    lr.submit(lr.logit_lens, client, PROMPTS, **options, path=path)
    there = lr.Job.load(path, client).result()
    here = lens(llama, edits=KINDS[kind])
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=3e-4)
    assert there.certificate.edit_cone_error == 0
    assert [str(edit) for edit in there.edits] == [str(edit) for edit in here.edits]
    json.dumps(there.provenance)


def test_a_lens_inside_an_edit_travels_and_is_loaded_again(client, server, llama, tmp_path):
    lens_file = tmp_path / "lens.safetensors"
    random_lens(llama).save(lens_file)
    edit = lr.steer(" the", layer=1, lens=lr.load_lens(lens_file, llama))
    path = tmp_path / "edits.job"
    lr.submit(lr.logit_lens, client, PROMPTS, targets=[7, 8], track=None, edits=edit, path=path)
    there = lr.Job.load(path, client).result()
    here = lens(llama, edits=edit)
    np.testing.assert_allclose(there.entropy, here.entropy, atol=3e-4)
    assert there.provenance["edits"] == here.provenance["edits"]
    assert str(lens_file) not in json.dumps(there.provenance["edits"]) or there.edits


def test_another_edit_is_another_job(client, server):
    """Each batch's digest says what was asked, so that no result is taken for that of another edit."""
    from lens_recipes.run.registry import prepare_run

    digests = set()
    for edit in [*KINDS.values(), lr.ablate(layer=1, component="attn_out"), None]:
        run = prepare_run(lr.logit_lens, client, PROMPTS, edits=edit)
        digests.add(run.batch_digests[0])
    assert len(digests) == len(KINDS) + 2


def test_a_result_says_its_edits_after_saving(llama, tmp_path):
    result = lens(llama, edits=[KINDS["token"], KINDS["vector"]])
    for path in (tmp_path / "edited.json", tmp_path / "edited.npz"):
        result.save(path)
        loaded = lr.LensResult.load(path)
        assert [str(edit) for edit in loaded.edits] == [str(edit) for edit in result.edits]
        assert loaded.certificate == result.certificate
