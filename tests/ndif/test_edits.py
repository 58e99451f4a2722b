"""Every kind of edit on a real server, for callers that it trusts and for strangers: the run that is edited here."""

from __future__ import annotations

import numpy as np
import pytest

import lens_recipes as lr

PROMPTS = ["One two three", "The quick brown fox jumps over the lazy dog."]
SOURCE = "The capital of France is Paris, and the capital of Italy is Rome."
POSITIONS = {"positions": [0, 2]}


def kinds() -> dict[str, lr.Edit | list[lr.Edit]]:
    """Every kind of edit, every kind of site."""
    vector = np.linspace(-2, 2, 32)
    return {
        "zero": lr.ablate(layer=1, component="attn_out", **POSITIONS),
        "vector": lr.ablate(layer=1, component="mlp_out", to=vector),
        "mean": lr.ablate(layer=2, component="resid_pre", to="mean", over=[SOURCE], positions=1),
        "reference": lr.ablate(layer=2, component="head_out", head=1, to="mean"),
        "resample": lr.ablate(layer=2, to="resample", positions=[0, 1]),
        "patch": lr.patch(SOURCE, layer=1, component="resid_mid", **POSITIONS),
        "patch inside": lr.patch(1, layer=1, component="head_out", head=[0, 3], positions=1),
        "embed": lr.patch(SOURCE, component="embed", positions=1, source_positions=4),
        "steer": lr.steer(vector, layer=[1, 2], scale=0.5),
        "token": lr.steer(("a", "e"), layer=1, scale=0.4),
        "swap": lr.swap("a", "e", layers=[1, 2]),
        "live": lr.swap("a", "e", layers=2, clamp=False, positions=-1),
        "several": [
            lr.ablate(layer=1, component="attn_out", positions=1),
            lr.ablate(layer=1, component="resid_mid", to="mean", over=[SOURCE], positions=2),
            lr.steer("a", layer=1, component="mlp_out"),
        ],
    }


@pytest.mark.parametrize("kind", kinds())
def test_an_edited_run_is_the_same_there(any_server, client, here, kind):
    edits = kinds()[kind]
    options = {"components": ("resid_post", "attn_out"), "targets": ["a", "e"], "edits": edits}
    there = lr.logit_lens(client(any_server, "tiny"), PROMPTS, **options)
    local = lr.logit_lens(here("tiny"), PROMPTS, **options)
    for name in ("entropy", "target_logits", "logsumexp", "kl_to_final"):
        np.testing.assert_allclose(getattr(there, name), getattr(local, name), atol=2e-4)
    assert there.certificate.passed
    assert there.certificate.edit_identity_error == 0
    assert there.certificate.edit_cone_error < 1e-6
    assert [str(edit) for edit in there.edits] == [str(edit) for edit in local.edits]


def test_a_real_model_is_edited_there(any_server, client, here):
    """The direction of a token takes the whole unembedding, of which a stranger sees no weight."""
    prompt = "The capital of France is"
    edits = [
        lr.steer((" Rome", " Paris"), layer=20, scale=0.3, positions=-1),
        lr.ablate(layer=23, component="head_out", head=4, to="mean", over=[SOURCE]),
        lr.patch("The capital of Spain is", layer=12, positions=3),
    ]
    options = {"positions": -1, "targets": [" Paris", " Rome"], "edits": edits}
    there = lr.logit_lens(client(any_server), prompt, **options)
    local = lr.logit_lens(here("smollm2"), prompt, **options)
    np.testing.assert_allclose(there.target_logits, local.target_logits, atol=2e-2)
    assert there.certificate.passed
    assert there.certificate.edit_cone_error is not None


def test_what_is_estimated_is_what_is_sent(server, client):
    model = client(server, "tiny")
    edits = lr.patch(SOURCE, layer=1, positions=1)
    plain = lr.estimate(lr.logit_lens, model, PROMPTS)
    edited = lr.estimate(lr.logit_lens, model, PROMPTS, edits=edits)
    assert edited.tokens > plain.tokens
    job = lr.submit(lr.logit_lens, model, PROMPTS, edits=edits)
    assert job.result().certificate.passed


def test_a_job_with_edits_goes_on_in_another_process(server, client, here, tmp_path):
    model = client(server, "tiny")
    edits = [lr.steer(np.ones(32), layer=1), lr.patch(SOURCE, layer=2, positions=[0, 1])]
    path = tmp_path / "job.json"
    lr.submit(lr.logit_lens, model, PROMPTS, edits=edits, positions=-1).save(path)
    there = lr.Job.load(path, model).result()
    local = lr.logit_lens(here("tiny"), PROMPTS, edits=edits, positions=-1)
    np.testing.assert_allclose(there.entropy, local.entropy, atol=1e-4)
