"""Edits: an edited run is that of the same model with hooks, and proves itself."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import lens_recipes as lr

IDS = tiny.random_ids(batch=2, length=7, seed=5).tolist()
FAMILIES = ["llama", "gpt2", "gemma2", "granite", "falcon", "mamba"]


def hooked_logits(model, rows, edit_block):
    """Logits after the last token of each row, with a hook that edits the stream after block 1."""
    module = model._module
    block = module.get_submodule(lr.anatomy(model).block(1))

    def hook(_module, _args, output):
        stream = (output if torch.is_tensor(output) else output[0]).clone()
        edit_block(stream)
        return stream if torch.is_tensor(output) else (stream, *output[1:])

    handle = block.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return module(input_ids=torch.tensor(rows)).logits[:, -1]
    finally:
        handle.remove()


def own_logprobs(result):
    """What the model itself gave to every target after the last token, `[prompt, target]`."""
    return result.target_logprobs[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_that_is_ablated_is_that_of_a_hook(family):
    model = tiny.shared(family)
    vocab = list(range(lr.anatomy(model).vocab_size))

    def zero(stream):
        stream[:, 2] = 0

    expected = hooked_logits(model, IDS, zero).log_softmax(-1)
    result = lr.logit_lens(
        model, IDS, positions=-1, targets=vocab, edits=lr.ablate(layer=1, positions=2)
    )
    np.testing.assert_allclose(own_logprobs(result), expected, atol=2e-5)
    assert result.certificate.passed
    assert result.certificate.max_edit_error == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_the_whole_stream_gives_the_run_of_the_source(family):
    model = tiny.shared(family)
    vocab = list(range(lr.anatomy(model).vocab_size))
    target, source = IDS
    plain = lr.logit_lens(model, source, positions=-1, targets=vocab)
    patched = lr.logit_lens(
        model, target, positions=-1, targets=vocab, edits=lr.patch(source, layer=1)
    )
    np.testing.assert_allclose(own_logprobs(patched), own_logprobs(plain), atol=2e-5)


def logprobs_of(edits, prompts=IDS):
    """What the model said of every token, edited, `[site, token, target]`."""
    model = tiny.shared("llama")
    vocab = list(range(lr.anatomy(model).vocab_size))
    result = lr.logit_lens(model, prompts, targets=vocab, edits=edits, controls=0)
    return result.target_logprobs


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_length_of_a_direction_does_not_matter(size):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(6))
    small = logprobs_of(lr.steer(direction, layer=1))
    np.testing.assert_allclose(logprobs_of(lr.steer(size * direction, layer=1)), small, atol=1e-4)


def test_the_unit_of_a_scale_is_what_the_model_has_there():
    """Whatever else is done at the site: what is added is added to what was set."""
    model = tiny.shared("llama")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(6))
    site = {"layer": 1, "component": "mlp_out"}
    kept = []
    mlp = model._module.model.layers[1].mlp
    handle = mlp.register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.no_grad():
        model._module(input_ids=torch.tensor(IDS[:1]))
    handle.remove()
    median = kept[0][0].norm(dim=-1).median()
    set_to = lr.ablate(**site, to=0.5 * median * direction / direction.norm())
    steered = [lr.ablate(**site), lr.steer(direction, **site, scale=0.5)]
    np.testing.assert_allclose(
        logprobs_of(steered, IDS[:1]), logprobs_of(set_to, IDS[:1]), atol=1e-4
    )
    twice = [lr.steer(direction, **site, scale=0.5), lr.steer(direction, **site, scale=0.25)]
    once = lr.steer(direction, **site, scale=0.75)
    np.testing.assert_allclose(logprobs_of(twice), logprobs_of(once), atol=1e-4)


def test_a_scale_in_units_of_nothing_is_refused():
    silent = [lr.ablate(layer=1), lr.steer(7, layer=2, component="resid_pre")]
    with pytest.raises(ValueError, match="most vectors of a prompt are zero"):
        logprobs_of(silent)


def test_directions_that_are_none_or_the_same_are_refused():
    plain = tiny.llama()
    with torch.no_grad():
        rows = plain.lm_head.weight
        rows[41] = 2 * rows[40]
        rows[42] = 0
        rows[43] = -rows[40]
    model = lr.load(plain)
    for edit in (lr.steer(42, layer=1), lr.swap(40, 42, layers=1)):
        with pytest.raises(ValueError, match="has no direction here"):
            lr.logit_lens(model, IDS, edits=edit, controls=0)
    with pytest.raises(ValueError, match="the same direction"):
        lr.logit_lens(model, IDS, edits=lr.swap(40, 41, layers=1), controls=0)
    for edit in (lr.steer((40, 41), layer=1), lr.swap(40, 43, layers=1)):
        lr.logit_lens(model, IDS, edits=edit, controls=0)  # these differ in length, or in sign


def test_what_rounding_leaves_nothing_of_is_refused():
    half = lr.load(tiny.llama().bfloat16())
    lr.logit_lens(half, IDS, edits=lr.steer(7, layer=1, scale=0.05), controls=0)
    lr.logit_lens(half, IDS, edits=lr.steer(7, layer=1, scale=0), controls=0)
    with pytest.raises(ValueError, match="rounding in bfloat16"):
        lr.logit_lens(half, IDS, edits=lr.steer(7, layer=1, scale=1e-4), controls=0)
    lr.logit_lens(tiny.shared("llama"), IDS, edits=lr.steer(7, layer=1, scale=1e-4), controls=0)


@pytest.mark.parametrize("family", ["granite", "minicpm3"])
def test_a_middle_of_nothing_leaves_no_rounding_behind(family):
    """A multiplier stands before it: what its sum lacks, norms after it would blow up."""
    model = tiny.shared(family)
    vocab = list(range(lr.anatomy(model).vocab_size))
    edits = [
        lr.ablate(layer=1, component="resid_mid"),
        lr.ablate(layer=1, component="mlp_out"),
    ]
    result = lr.logit_lens(model, IDS, targets=vocab, edits=edits, controls=0)
    whole = lr.logit_lens(model, IDS, targets=vocab, edits=lr.ablate(layer=1), controls=0)
    np.testing.assert_allclose(result.target_logprobs[1:], whole.target_logprobs[1:], atol=2e-5)
