"""`plain_logit_lens`, the whole idea, and `lens_head`, the line that people get wrong."""

from __future__ import annotations

import nnsight
import numpy as np
import oracle
import pytest
import strict_local
import tiny
import torch
from test_remote import NOT_THERE

import lens_recipes as lr
from lens_recipes.trace.operations import first_of
from lens_recipes.trace.transport import IDENTITY

PROMPTS = ["the cat", "a much longer prompt, with more words"]


def is_plain(module):
    """Whether a model names its parts as `plain_logit_lens` expects, and does nothing else."""
    names = {name for name, _ in module.named_modules()}
    if not {"model.layers", "model.norm", "lm_head"} <= names:
        return False
    found = lr.anatomy(lr.load(module))
    at_home = (found.blocks, found.norm, found.unembed) == ("model.layers", "model.norm", "lm_head")
    return at_home and len(found.tail) == 2


PLAIN = [family for family, builder in tiny.FAMILIES.items() if is_plain(builder())]


def test_many_families_are_plain():
    assert "llama" in PLAIN
    assert len(PLAIN) >= 5


@pytest.mark.parametrize("family", PLAIN)
def test_logit_lens_is_the_plain_one(family):
    model = lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())
    prompts = [[7, 8, 9, 10, 11, 12], [13, 14, 15]]
    result = lr.logit_lens(model, prompts, positions=-1, top_k=4)
    plain = lr.plain_logit_lens(model, [torch.tensor([ids]) for ids in prompts])
    assert_same(result, plain)


def test_texts_are_read_as_ids_are(llama):
    assert_same(
        lr.logit_lens(llama, PROMPTS, positions=-1, top_k=4), lr.plain_logit_lens(llama, PROMPTS)
    )


def assert_same(result, plain):
    """The top tokens of each prompt have the log-probabilities that the plain logits give them."""
    for prompt, logits in enumerate(plain):
        assert len(logits) == len(result.sites)
        logprobs = logits.float().log_softmax(-1)
        expected = logprobs.gather(-1, torch.from_numpy(result.top_ids[:, prompt]).long())
        np.testing.assert_allclose(result.top_logprobs[:, prompt], expected, atol=2e-5)
        largest = logprobs.topk(result.top_ids.shape[-1], -1).values
        np.testing.assert_allclose(result.top_logprobs[:, prompt], largest, atol=2e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_head_gives_this_models_logits_and_an_early_exits(family):
    """Whatever this model does after its last block: norm, projections, scale, softcap."""
    model = tiny.shared(family)
    module = model._module
    ids = tiny.random_ids(batch=1, length=5)
    head, parts = lr.lens_head(model), lr.anatomy(model)
    with torch.inference_mode(), model.trace(input_ids=ids):
        logits = nnsight.save(
            [head(first_of(model.get(parts.block(n)).output)[:, -1]) for n in parts.layers]
        )
    expected = oracle.early_exit_logits(module, ids)[:, :, -1]
    scale = expected.abs().max()
    loose = 2e-3 if family == "rwkv_halved" else 1e-5  # see tests/test_families.py
    assert (torch.stack(logits) - expected).abs().max() <= loose * scale


def test_the_head_takes_any_axes_and_leaves_out_the_norm(llama):
    head = lr.lens_head(llama)
    hidden = torch.randn(2, 3, llama.config.hidden_size, generator=torch.Generator().manual_seed(0))
    module = llama._module
    with torch.no_grad():
        expected = module.lm_head(module.model.norm(hidden))
        torch.testing.assert_close(head(hidden), expected)
        torch.testing.assert_close(head(hidden[0, 0]), expected[0, 0])
        torch.testing.assert_close(head(hidden, apply_norm=False), module.lm_head(hidden))


def test_a_transport_stands_before_the_norm(llama):
    class Doubled(type(IDENTITY)):
        def transform_hidden(self, hidden):
            return 2 * hidden

    head = lr.lens_head(llama)
    hidden = torch.randn(3, llama.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = head(hidden, apply_norm=False, transport=Doubled())
        torch.testing.assert_close(moved, head(2 * hidden, apply_norm=False))
        torch.testing.assert_close(head(hidden), head(hidden, transport=IDENTITY))


def test_the_head_travels_to_a_server_that_lacks_this_package(llama, monkeypatch):
    blocks = llama.model.layers
    head = lr.lens_head(llama)
    with torch.inference_mode(), llama.trace(PROMPTS[0]):
        here = nnsight.save([head(block.output[:, -1]) for block in blocks])
    strict_local.install(monkeypatch, *NOT_THERE)
    travelling = lr.lens_head(llama, remote="local")
    with torch.inference_mode(), llama.trace(PROMPTS[0], remote="local"):
        there = nnsight.save([travelling(block.output[:, -1]) for block in blocks])
    torch.testing.assert_close(torch.stack(there), torch.stack(here))
