"""Tuned lenses of the package tuned-lens give its own readouts here, and ours give ours there."""

from __future__ import annotations

import pytest
import tiny
import torch
from readouts import logprobs_of

import lens_recipes as lr
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.trace.transport import Affine

FAMILIES = ["llama", "gpt2", "gpt_neox"]
IDS = tiny.random_ids(1, 12)[0].tolist()


def our_lens(parts):
    """A lens whose transports are not residual; some streams have none."""
    generator = torch.Generator().manual_seed(1)
    transports = {}
    for layer in (EMBEDDING, *parts.layers[1:-1]):
        weight = torch.eye(parts.d_model)
        weight = weight + 0.1 * torch.randn(weight.shape, generator=generator)
        transports[layer] = Affine(weight, torch.randn(parts.d_model, generator=generator))
    return lr.Lens("tuned", transports)


@pytest.fixture(scope="module")
def answers(run_peer, tmp_path_factory):
    """What tuned-lens says of each family, all in one process."""
    folder = tmp_path_factory.mktemp("tuned_lens")
    tasks = {}
    for family in FAMILIES:
        saved = tiny.save(tiny.for_text(family), folder / family)
        model = lr.load(str(saved))
        our_lens(lr.anatomy(model)).save(folder / f"{family}-ours", format="tuned", model=model)
        tasks[family] = {
            "model": str(saved),
            "write": str(folder / f"{family}-theirs"),
            "read": str(folder / f"{family}-ours"),
            "ids": IDS,
        }
    return tasks, run_peer("side_of_tuned_lens.py", tasks, folder)


def compare(model, lens, theirs):
    """Our readout of every stream that the lens has is theirs; hidden state i is the stream after block i − 1."""
    vocabulary = tiny.STRING_VOCAB
    after = lr.logit_lens(model, [IDS], lens=lens, top_k=vocabulary)
    before = lr.logit_lens(
        model, [IDS], lens=lens, layers=[0], components=["resid_pre"], top_k=vocabulary
    )
    compared = set()
    for index, logits in theirs.items():
        stream = index - 1
        if stream not in lens.transports:
            continue
        found = logprobs_of(before, 0) if stream == EMBEDDING else logprobs_of(after, stream)
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=0, atol=2e-4)
        compared.add(stream)
    assert compared == set(lens.transports)


@pytest.mark.parametrize("family", FAMILIES)
def test_their_folder_gives_their_readout(family, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    lens = lr.load_lens(tasks[family]["write"], model)
    assert lens.kind == "tuned"
    assert lens.layers == [EMBEDDING, 0, 1, 2][: len(lens.layers)]
    compare(model, lens, answered[family]["theirs"])


@pytest.mark.parametrize("family", FAMILIES)
def test_our_folder_gives_our_readout_there(family, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    compare(model, our_lens(lr.anatomy(model)), answered[family]["ours"])
