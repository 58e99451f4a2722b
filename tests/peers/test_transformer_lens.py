"""Jacobian lenses of TransformerLens give its own matrices and readouts here, and ours give ours there."""

from __future__ import annotations

import pytest
import tiny
import torch
from readouts import logprobs_of

import lens_recipes as lr
from lens_recipes.trace.transport import Affine

FAMILIES = ["llama", "gpt2", "gemma2", "qwen2"]
# Three of them are long enough, which is too few for a fit to hold one out.
PROMPTS = [tiny.random_ids(1, length, seed=length)[0].tolist() for length in (17, 18, 24, 40)]
IDS = PROMPTS[2]


def our_lens(parts):
    """A lens with transports that are no fit of anything."""
    generator = torch.Generator().manual_seed(1)
    transports = {}
    for layer in parts.layers[:-1]:
        noise = torch.randn(parts.d_model, parts.d_model, generator=generator)
        transports[layer] = Affine(torch.eye(parts.d_model) + 0.1 * noise)
    return lr.Lens("jacobian", transports)


@pytest.fixture(scope="module")
def answers(run_peer, tmp_path_factory):
    """What TransformerLens says of each family, all in one process."""
    folder = tmp_path_factory.mktemp("transformer_lens")
    tasks = {}
    for family in FAMILIES:
        saved = tiny.save(tiny.for_text(family), folder / family)
        model = lr.load(str(saved))
        our_lens(lr.anatomy(model)).save(
            folder / f"{family}-ours.pt", format="jacobian", dtype=torch.float32
        )
        tasks[family] = {
            "model": str(saved),
            "prompts": PROMPTS,
            "write": str(folder / f"{family}-theirs.pt"),
            "read": str(folder / f"{family}-ours.pt"),
            "ids": IDS,
        }
    return tasks, run_peer("side_of_transformer_lens.py", tasks, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_fit_gives_their_matrices(family, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    lens = lr.fit_lens(model, PROMPTS, kind="jacobian", quality_tokens=0)
    assert lens.record.n_prompts == len(PROMPTS) - 1  # one is too short
    theirs = answered[family]["jacobians"]
    assert sorted(theirs) == lens.layers
    for layer, transport in lens.transports.items():
        scale = theirs[layer].abs().max()
        assert (transport.weight - theirs[layer]).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_their_file_gives_their_readout(family, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    lens = lr.load_lens(tasks[family]["write"], model)
    assert (lens.kind, lens.record.first_position) == ("jacobian", 16)
    result = lr.logit_lens(model, [IDS], lens=lens, top_k=tiny.STRING_VOCAB)
    for layer, logits in answered[family]["theirs"].items():
        found = logprobs_of(result, layer)
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_file_gives_our_readout_there(family, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    lens = our_lens(lr.anatomy(model))
    result = lr.logit_lens(model, [IDS], lens=lens, top_k=tiny.STRING_VOCAB)
    for layer, logits in answered[family]["ours"].items():
        found = logprobs_of(result, layer)
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=0, atol=2e-4)
