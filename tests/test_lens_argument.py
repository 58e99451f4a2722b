"""`lens=` in every recipe: a transport at each site, the last layer as it is, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import strict_local
import tiny
import torch
from lenses import FORMS, lens_of_kind, random_lens
from test_remote import NOT_THERE

import lens_recipes as lr
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.lenses.lens import Lens
from lens_recipes.trace.transport import Affine

IDS = tiny.random_ids(batch=2, length=7, seed=5)
FAMILIES = ["llama", "gpt2", "gemma2", "cohere", "granite", "falcon", "mamba", "opt_project"]


def identity_lens(model):
    parts = lr.anatomy(model)
    eye = torch.eye(parts.d_model)
    return Lens("linear", {layer: Affine(eye) for layer in (EMBEDDING, *parts.layers[:-1])})


def streams_of(model, component, layer, position=-1):
    """Vectors of a site, `[prompt, d_model]`, by plain hooks."""
    module = model._module
    seen = []
    block = module.get_submodule(lr.anatomy(model).block(layer))
    if component == "resid_post":
        handle = block.register_forward_hook(
            lambda _m, _a, out: seen.append((out if torch.is_tensor(out) else out[0])[:, position])
        )
    else:
        handle = block.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(
                (args[0] if args else kwargs["hidden_states"])[:, position]
            ),
            with_kwargs=True,
        )
    with torch.no_grad():
        module(input_ids=IDS)
    handle.remove()
    return seen[0]


def logprobs(model, vectors):
    with torch.no_grad():
        return lr.lens_head(model)(vectors).log_softmax(-1)


def read(result, site):
    """Log-probabilities of all tokens at a site, `[token, vocab]`: all were targets."""
    return torch.from_numpy(result.target_logprobs[site])


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_transports_give_the_logit_lens_bit_for_bit(family):
    model = tiny.shared(family)
    plain = lr.logit_lens(model, IDS, targets=[1, 7])
    lensed = lr.logit_lens(model, IDS, targets=[1, 7], lens=identity_lens(model))
    for name in ("top_ids", "top_logprobs", "entropy", "kl_to_final", "target_logprobs"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(lensed, name))
    assert plain.lens.kind == "logit"
    assert lensed.lens.kind == "linear"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_residual", [False, True])
def test_a_transport_stands_between_a_site_and_the_models_own_head(family, is_residual):
    model = tiny.shared(family)
    lens = random_lens(model, is_residual=is_residual)
    result = lr.logit_lens(
        model,
        IDS,
        components=["resid_pre", "resid_post"],
        positions=-1,
        targets=list(range(lr.anatomy(model).vocab_size)),
        lens=lens,
    )
    for index, site in enumerate(result.sites):
        vectors = streams_of(model, site.component, site.layer)
        stream = site.layer - (site.component == "resid_pre")
        if stream in lens.transports:
            weight, bias, _ = lens.transports[stream]
            moved = vectors @ weight.T + bias
            vectors = moved + vectors if is_residual else moved
        expected = logprobs(model, vectors)
        torch.testing.assert_close(read(result, index), expected, rtol=1e-3, atol=1e-3)
    assert result.certificate.passed


def test_the_last_layer_is_read_as_it_is():
    model = tiny.shared("llama")
    plain = lr.logit_lens(model, IDS, layers=-1)
    lensed = lr.logit_lens(model, IDS, layers=-1, lens=random_lens(model))
    np.testing.assert_array_equal(plain.top_logprobs, lensed.top_logprobs)
    assert lensed.certificate == plain.certificate


def test_parts_take_the_linear_part_of_their_layers_transport():
    """Without the norm, logits are linear: what a block adds is the difference of its streams."""
    model = tiny.shared("llama")
    lens = random_lens(model)
    layer = 1
    same = dataclasses.replace(lens, transports={**lens.transports, 0: lens.transports[layer]})
    everything = list(range(tiny.VOCAB))
    parts = lr.logit_lens(
        model,
        IDS,
        layers=layer,
        components=["resid_pre", "attn_out", "mlp_out", "resid_post"],
        positions=-1,
        targets=everything,
        apply_norm=False,
        lens=same,
    )
    before, attention, mlp, after = parts.target_logits
    np.testing.assert_allclose(before + attention + mlp, after, atol=2e-4)
    heads = lr.logit_lens(
        model,
        IDS,
        layers=layer,
        components="head_out",
        positions=-1,
        targets=everything,
        apply_norm=False,
        lens=same,
    )
    np.testing.assert_allclose(heads.target_logits.sum(0), attention, atol=2e-4)


@pytest.mark.parametrize("unit", ["layer", "component", "head", "token"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere"])
def test_attribution_splits_the_logit_of_a_lens(family, unit):
    model = tiny.shared(family)
    lens = random_lens(model)
    who = lr.attribution(model, IDS, 7, against=9, unit=unit, at_layer=1, lens=lens)
    result = lr.logit_lens(model, IDS, layers=1, positions=-1, targets=[7, 9], lens=lens)
    difference = result.target_logits[0, :, 0] - result.target_logits[0, :, 1]
    np.testing.assert_allclose(who.capped_logit[:, 0], difference, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(who.total, who.logit, rtol=1e-3, atol=1e-3)
    assert who.lens.digest == lens.digest


def test_attribution_at_the_last_layer_is_the_models_own_whatever_the_lens():
    model = tiny.shared("llama")
    plain = lr.attribution(model, IDS, 7)
    lensed = lr.attribution(model, IDS, 7, at_layer=-1, lens=random_lens(model))
    np.testing.assert_array_equal(plain.values, lensed.values)


def test_a_generation_is_read_as_its_text_is(llama):
    lens = random_lens(llama)
    written = lr.generate_lens(
        llama, "the cat", max_new_tokens=4, do_sample=False, include_prompt=True, lens=lens
    )
    ids = [*written.inputs[0]["input_ids"], *written.tokens.next_id[written.tokens.generated]]
    text = lr.logit_lens(llama, [[int(token) for token in ids[:-1]]], lens=lens)
    np.testing.assert_allclose(written.top_logprobs, text.top_logprobs, atol=1e-3)
    plain = lr.generate_lens(llama, "the cat", max_new_tokens=4, do_sample=False)
    assert plain.responses == written.responses


def test_vectors_are_directions_or_whole_streams():
    model = tiny.shared("llama")
    lens = random_lens(model)
    vectors = streams_of(model, "resid_post", 1)
    everything = list(range(tiny.VOCAB))
    whole = lr.decode_vectors(
        model, vectors, lens=lens, layer=1, with_bias=True, targets=everything
    )
    cells = lr.logit_lens(model, IDS, layers=1, positions=-1, targets=everything, lens=lens)
    np.testing.assert_allclose(whole.target_logprobs, cells.target_logprobs, atol=1e-3)
    once = lr.decode_vectors(model, vectors, lens=lens, layer=1, targets=everything)
    twice = lr.decode_vectors(model, 2 * vectors, lens=lens, layer=-3, targets=everything)
    np.testing.assert_allclose(once.target_logprobs, twice.target_logprobs, atol=1e-3)
    assert np.abs(once.target_logprobs - whole.target_logprobs).max() > 0.1


def test_whole_streams_far_from_the_fit_are_named(llama):
    rows = tiny.random_ids(batch=60, length=20, seed=0).tolist()
    lens = lr.fit_lens(llama, rows, quality_tokens=0)
    vector = streams_of(llama, "resid_post", 1)[:1]
    near = lr.decode_vectors(llama, vector, lens=lens, layer=1, with_bias=True)
    assert "far_off" not in near.provenance
    both = torch.cat([vector, 100 * vector])
    far = lr.decode_vectors(llama, both, ["near", "far"], lens=lens, layer=1, with_bias=True)
    assert far.provenance["far_off"] == [1]
    assert "far: over four times as long" in far.summary()
    direction = lr.decode_vectors(llama, both, lens=lens, layer=1)
    assert "far_off" not in direction.provenance


@pytest.mark.parametrize("family", ["gpt2", "cohere"])
@pytest.mark.parametrize("kind", FORMS)
def test_a_strict_server_reads_the_same(family, kind, monkeypatch):
    model = lr.load(tiny.for_text(family), tokenizer=tiny.tiny_tokenizer())
    lens = lens_of_kind(model, kind)
    vectors = torch.randn(2, lr.anatomy(model).d_model, generator=torch.Generator().manual_seed(1))

    def everything(remote):
        return [
            lr.logit_lens(
                model, "the cat", components=["resid_post", "attn_out"], lens=lens, remote=remote
            ),
            lr.attribution(
                model, "the cat", 7, unit="component", at_layer=1, lens=lens, remote=remote
            ),
            lr.decode_vectors(model, vectors, lens=lens, layer=0, remote=remote),
            lr.generate_lens(
                model, "the cat", max_new_tokens=3, do_sample=False, lens=lens, remote=remote
            ),
        ]

    here = everything(False)
    strict_local.install(monkeypatch, *NOT_THERE)
    for near, far in zip(here, everything("local"), strict=True):
        names = ["values"] if isinstance(near, lr.Attribution) else ["top_logprobs", "entropy"]
        for name in names:
            np.testing.assert_allclose(getattr(near, name), getattr(far, name), atol=5e-4)
        assert near.lens == far.lens


def test_only_the_transports_of_the_sites_travel(llama):
    lens = random_lens(llama)
    one = lr.estimate(lr.logit_lens, llama, "the cat", layers=[1], lens=lens)
    every = lr.estimate(lr.logit_lens, llama, "the cat", lens=lens)
    none = lr.estimate(lr.logit_lens, llama, "the cat", layers=[1])
    matrix_bytes = lr.anatomy(llama).d_model ** 2 * 4
    assert every.bytes_up - one.bytes_up > matrix_bytes / 2
    assert one.bytes_up - none.bytes_up < 2 * matrix_bytes


def test_the_lens_is_part_of_the_result_and_of_its_file(llama, tmp_path):
    lens = dataclasses.replace(random_lens(llama), source="somewhere.safetensors")
    result = lr.logit_lens(llama, "the cat", lens=lens)
    assert result.lens.digest == lens.digest
    assert result.lens.source == "somewhere.safetensors"
    assert result.lens.layers == lens.layers
    result.save(tmp_path / "result.json")
    assert lr.LensResult.load(tmp_path / "result.json").lens == result.lens
    other = lr.logit_lens(llama, "the cat", lens=random_lens(llama, seed=1))
    assert other.lens.digest != lens.digest


def test_a_result_is_verified_with_its_lens(llama):
    lens = random_lens(llama)
    result = lr.logit_lens(llama, "the cat", positions=-1, lens=lens)
    who = lr.attribution(llama, "the cat", 7, at_layer=1, lens=lens)
    assert result.verify(llama, lens=lens).certificate.passed
    assert who.verify(llama, lens=lens).certificate.passed
    with pytest.raises(lr.LensError, match=r"digest .* was read with"):
        result.verify(llama, lens=random_lens(llama, seed=1))
    with pytest.raises(lr.LensError, match="is not there: pass it"):
        result.verify(llama)
    changed = dataclasses.replace(result, entropy=result.entropy + 0.1)
    with pytest.raises(lr.LensError, match="not what this model says"):
        changed.verify(llama, lens=lens)


def test_layers_that_a_lens_lacks_are_passed_over_or_refused(llama):
    lens = random_lens(llama, layers=[1])
    result = lr.logit_lens(llama, "the cat", lens=lens)
    assert [site.layer for site in result.sites] == [1, 3]
    with pytest.raises(ValueError, match=r"no transport for resid_post of layer 0.* \[1, 3\]"):
        lr.logit_lens(llama, "the cat", layers=[0, 1], lens=lens)
    with pytest.raises(ValueError, match="no transport for embed of layer 0"):
        lr.logit_lens(llama, "the cat", components="embed", lens=lens)
    with pytest.raises(ValueError, match="no transport for layer 2"):
        lr.attribution(llama, "the cat", 7, at_layer=2, lens=lens)
    with pytest.raises(ValueError, match="no transport for layer 2"):
        lr.decode_vectors(llama, torch.ones(lr.anatomy(llama).d_model), layer=2, lens=lens)


def test_a_lens_needs_a_layer_and_a_layer_a_lens(llama):
    vector = torch.ones(lr.anatomy(llama).d_model)
    with pytest.raises(ValueError, match="pass layer="):
        lr.decode_vectors(llama, vector, lens=random_lens(llama))
    with pytest.raises(ValueError, match="belong to a lens"):
        lr.decode_vectors(llama, vector, layer=1)
    with pytest.raises(ValueError, match="at_layer"):
        lr.attribution(llama, "the cat", 7, lens=random_lens(llama))


@pytest.mark.parametrize("wrong", [3, ["logit"], {"source": 1}, np.ones(3)])
def test_what_is_no_lens_is_refused(llama, wrong):
    with pytest.raises(ValueError, match="is no lens"):
        lr.logit_lens(llama, "the cat", lens=wrong)


def test_none_and_logit_are_the_logit_lens(llama):
    plain = lr.logit_lens(llama, "the cat")
    named = lr.logit_lens(llama, "the cat", lens="logit")
    np.testing.assert_array_equal(plain.top_logprobs, named.top_logprobs)
    assert named.lens.kind == "logit"
    assert "lens" not in plain.provenance


def test_half_precision_is_kept_and_the_product_is_not_rounded():
    model = lr.load(tiny.FAMILIES["llama"]().to(torch.bfloat16))
    lens = random_lens(model)
    vectors = streams_of(model, "resid_post", 1)
    weight, bias, _ = lens.transports[1]
    moved = lens.transports[1].transform_hidden(vectors)
    assert moved.dtype == torch.bfloat16
    exact = (vectors.double() @ weight.double().T + bias.double()).to(torch.bfloat16)
    torch.testing.assert_close(moved.double(), exact.double(), rtol=2**-7, atol=1e-6)
    assert lr.logit_lens(model, IDS, lens=lens).certificate.passed
