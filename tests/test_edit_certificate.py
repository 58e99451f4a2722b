"""An edit changes what it says and nothing else, and the certificate proves it, or fails."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tiny
import torch
from edited_families import PAIR, RAGGED, Family
from hooked_edits import HookedEdit

import lens_recipes as lr
from lens_recipes.arrays.edits.site_code import site_code, site_of_code
from lens_recipes.models.structure.known import known_model
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.trace.edits import apply
from lens_recipes.trace.edits.changes import KeepAsIs
from lens_recipes.trace.edits.probe import NOT_ASKED, SiteProof, worst_of

EVERYWHERE = [
    lr.ablate(component="embed"),
    lr.ablate(layer=1, component="resid_pre"),
    lr.ablate(layer=1, component="attn_out"),
    lr.ablate(layer=2, component="head_out", head=[0, 3]),
    lr.ablate(layer=2, component="resid_mid"),
    lr.ablate(layer=2, component="mlp_out"),
    lr.ablate(layer=3),
]
NUMBERS = ("top_logprobs", "entropy", "kl_to_final", "logsumexp", "target_logits")


def lens(model, prompts=PAIR, **options):
    targets = list(range(lr.anatomy(model).vocab_size))
    return lr.logit_lens(model, prompts, targets=targets, track=None, top_k=3, **options)


def assert_bit_equal(one, other):
    for name in NUMBERS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


# -- properties of an edited run ---------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "mixtral"])
def test_writing_back_what_was_there_changes_no_bit(family, monkeypatch):
    monkeypatch.setattr(EditBatches, "change_of", lambda *_: KeepAsIs())
    model = tiny.shared(family)
    edited = lens(model, edits=EVERYWHERE, components=("resid_post", "attn_out"))
    assert_bit_equal(edited, lens(model, components=("resid_post", "attn_out")))
    assert edited.certificate.max_edit_error == 0


def test_prompts_with_padding_keep_every_bit_too(llama, monkeypatch):
    monkeypatch.setattr(EditBatches, "change_of", lambda *_: KeepAsIs())
    assert_bit_equal(lens(llama, RAGGED, edits=EVERYWHERE), lens(llama, RAGGED))


@pytest.mark.parametrize("component", ["embed", "resid_pre", "resid_mid"])
def test_patching_all_of_a_stream_gives_the_run_of_its_source(component):
    model = tiny.shared("llama")
    place = {} if component == "embed" else {"layer": 0}
    target, source = PAIR
    patched = lens(model, target, edits=lr.patch(source, component=component, **place))
    plain = lens(model, source)
    np.testing.assert_allclose(patched.target_logits[-1], plain.target_logits[-1], atol=1e-5)


def test_patching_every_part_gives_the_run_of_its_source():
    target, source = PAIR
    model = tiny.shared("gemma2")
    parts = [lr.patch(source, component=name) for name in ("attn_out", "mlp_out")]
    patched = lens(model, target, edits=[lr.patch(source, component="embed"), *parts])
    np.testing.assert_allclose(
        patched.target_logits[-1], lens(model, source).target_logits[-1], atol=1e-5
    )


def test_the_order_of_the_list_does_not_matter():
    model = tiny.shared("llama")
    vector = np.linspace(-1, 1, 32)
    edits = [
        lr.steer(vector, layer=1, scale=0.5),
        lr.ablate(layer=1, positions=3),
        lr.ablate(layer=1, component="attn_out", to=vector),
        lr.steer(40, layer=1, scale=-0.2),
        lr.patch(PAIR[1], layer=1, component="resid_mid", positions=2),
        lr.swap(3, 5, layers=[1, 2], positions=[0, 1]),
    ]
    first = lens(model, edits=edits)
    for order in (edits[::-1], edits[3:] + edits[:3]):
        assert_bit_equal(lens(model, edits=order), first)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "mamba"])
def test_what_lies_outside_the_causal_cone_keeps_every_bit(family):
    model = tiny.shared(family)
    anatomy_layers = lr.anatomy(model).layers
    plain = lens(model)
    for place in Family(model).places():
        if place.component == "embed":
            continue
        vector = np.linspace(-3, 3, Family(model).width(place))
        edited = lens(model, edits=lr.ablate(**place.named, to=vector, positions=[4, 5]))
        before = np.tile(np.arange(7) < 4, 2)
        earlier = [n for n, layer in enumerate(anatomy_layers) if layer < place.layer]
        for name in ("entropy", "target_logits"):
            one, other = getattr(edited, name), getattr(plain, name)
            assert np.array_equal(one[:, before], other[:, before])
            assert np.array_equal(one[earlier], other[earlier])
            assert not np.array_equal(one[-1, ~before], other[-1, ~before])


def test_several_edits_in_one_block_are_made_as_the_block_runs():
    """Heads, then what attention adds, then the stream in the middle: each sees what was made before."""
    family = Family(tiny.shared("llama"))
    generator = torch.Generator().manual_seed(2)
    head, attn, middle, mlp = (torch.randn(n, generator=generator) for n in (8, 32, 32, 32))

    def set_at(position, value):
        def change(current):
            changed = current.clone()
            changed[position] = value
            return changed

        return change

    def add(value):
        return lambda current: current + value

    edits = [
        lr.ablate(layer=1, component="head_out", head=2, to=head, positions=[1, 2]),
        lr.steer(attn, layer=1, component="attn_out", scale=1.0, normalize=False),
        lr.ablate(layer=1, component="resid_mid", to=middle, positions=3),
        lr.steer(middle, layer=1, component="resid_mid", scale=0.5, normalize=False),
        lr.steer(mlp, layer=1, component="mlp_out", scale=2.0, normalize=False),
        lr.ablate(layer=1, component="resid_pre", to=mlp, positions=5),
    ]
    hooks = [
        HookedEdit(1, "resid_pre", None, set_at(5, mlp)),
        HookedEdit(1, "head_out", 2, set_at([1, 2], head)),
        HookedEdit(1, "attn_out", None, add(attn)),
        HookedEdit(1, "mlp_out", None, add(2 * mlp)),
        HookedEdit(1, "resid_mid", None, lambda x: set_at(3, middle)(x) + 0.5 * middle),
    ]
    result, logits = family.edited(PAIR, edits)
    for number, token_ids in enumerate(PAIR):
        expected = family.hooked.logits(token_ids, *hooks)
        torch.testing.assert_close(logits[number], expected, atol=1e-4, rtol=1e-5)
    assert result.certificate.max_edit_error < 1e-6


# -- what the model itself says ----------------------------------------


def test_the_certificate_says_what_the_model_says_of_the_edited_sites():
    model = lr.load(tiny.llama())
    certificate = lens(model, edits=EVERYWHERE).certificate
    assert certificate.edit_identity_error == 0
    assert certificate.edit_cone_error == 0
    assert "writing back what is there 0, outside the causal cone 0" in str(certificate)
    codes = set(known_model(model).edit_proofs)
    sites = {site_of_code(code) for code in codes}
    assert len(sites) == 7  # the two heads are columns of one tensor
    assert lr.Site(3) in sites


def test_a_model_is_asked_once_for_each_site(monkeypatch):
    from lens_recipes.run.edits import probe

    asked = []
    ask = probe.ask_model

    def counted(model, probe):
        asked.append([site_of_code(code) for code in probe.codes])
        return ask(model, probe)

    monkeypatch.setattr(probe, "ask_model", counted)
    model = lr.load(tiny.llama())
    lens(model, edits=lr.ablate(layer=1))
    lens(model, edits=lr.patch(PAIR[0], layer=[1, 2]))
    lens(model, edits=lr.steer(3, layer=[1, 2]))
    assert asked == [[lr.Site(1)], [lr.Site(2)]]
    model._module.model.layers[0].register_forward_hook(lambda *_: None)
    lens(model, edits=lr.ablate(layer=1))
    assert len(asked) == 3


def failing(edits, module=None, model=None, **options):
    """What the certificate of an edited run says that does not hold."""
    model = lr.load(tiny.llama() if module is None else module) if model is None else model
    with pytest.raises(lr.LensError) as refusal:
        lens(model, edits=edits, **options)
    kept = lens(model, edits=edits, strict=False, **options)
    assert not kept.certificate.passed
    assert not kept.certificate.edits_hold
    return re.split(r"NOT CERTIFIED.*?cone [^ ]*\. ", str(refusal.value))[1]


SITES = [
    lr.ablate(component="embed", positions=1),
    lr.ablate(layer=1, component="resid_pre", positions=1),
    lr.ablate(layer=1, component="attn_out", positions=1),
    lr.ablate(layer=1, component="head_out", head=1, positions=1),
    lr.ablate(layer=1, component="resid_mid", positions=1),
    lr.ablate(layer=1, component="mlp_out", positions=1),
    lr.ablate(layer=1, positions=1),
]
NAMES = ["embed", "1.resid_pre", "1.attn_out", "1.head_out.1", "1.resid_mid", "1.mlp_out", "1"]


@pytest.mark.parametrize(("edit", "name"), zip(SITES, NAMES, strict=True), ids=NAMES)
def test_an_edit_that_is_not_made_fails(edit, name, monkeypatch):
    monkeypatch.setattr(apply, "put_back", lambda *_: None)
    assert f"at {name} " in failing(edit)


@pytest.mark.parametrize(("edit", "name"), zip(SITES, NAMES, strict=True), ids=NAMES)
def test_an_edit_of_the_wrong_prompt_fails(edit, name, monkeypatch):
    put_back = apply.put_back

    def in_wrong_rows(module, side, output, tensor):
        put_back(module, side, output, tensor.roll(1, 0))

    monkeypatch.setattr(apply, "put_back", in_wrong_rows)
    words = failing(edit)
    assert f"at {name} " in words or name in words


@pytest.mark.parametrize(("edit", "name"), zip(SITES, NAMES, strict=True), ids=NAMES)
def test_an_edit_of_the_token_before_fails(edit, name, monkeypatch):
    put_back = apply.put_back

    def at_wrong_tokens(module, side, output, tensor):
        put_back(module, side, output, tensor.roll(-1, 1))

    monkeypatch.setattr(apply, "put_back", at_wrong_tokens)
    assert failing(edit)


def test_a_module_that_the_model_does_not_listen_to_fails():
    """Its block goes on with what the MLP kept for itself, and not with what the MLP gave."""
    module = tiny.llama()
    block = module.model.layers[1]
    forward = block.mlp.forward

    def keeping(x):
        block.mlp.kept = forward(x)
        return block.mlp.kept.clone()

    def deaf(hidden_states, **kwargs):
        residual = hidden_states
        hidden_states, _ = block.self_attn(
            hidden_states=block.input_layernorm(hidden_states), **kwargs
        )
        hidden_states = residual + hidden_states
        given = block.mlp(block.post_attention_layernorm(hidden_states))
        return hidden_states + block.mlp.kept + 0 * given

    block.mlp.forward, block.forward = keeping, deaf
    edit = lr.steer(np.ones(32), layer=1, component="mlp_out", normalize=False)
    try:
        words = failing(edit, module)
    except lr.LensError as refusal:
        words = str(refusal)
    assert "1.mlp_out" in words or "layer 1" in words


def test_a_model_that_mixes_prompts_fails():
    """Its third block sees the mean over all prompts, as a norm over the batch would."""
    module = tiny.llama()

    class MixesPrompts(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, hidden):
            normed = self.norm(hidden)
            return normed + normed.mean(0, keepdim=True)

    block = module.model.layers[2]
    block.input_layernorm = MixesPrompts(block.input_layernorm)
    words = failing(lr.ablate(layer=1), module)
    assert words.startswith("A change at 1 moves earlier tokens")


def test_a_model_that_never_says_the_same_twice_fails():
    module = tiny.llama()
    mlp = module.model.layers[2].mlp
    forward = mlp.forward
    calls = []

    def drifting(x):
        calls.append(1)
        return forward(x) * (1 + 1e-3 * len(calls))

    mlp.forward = drifting
    assert failing(lr.ablate(layer=1), module).startswith("Writing back what is there at 1 ")


def test_the_middle_of_a_block_is_measured(monkeypatch):
    """What attention adds is scaled behind the engine's back: the sum is not what was asked."""
    undone = apply.undone
    monkeypatch.setattr(apply, "undone", lambda operations, value: 1.01 * undone(operations, value))
    model = lr.load(tiny.llama())
    assert "at 1.resid_mid do not hold" in failing(SITES[4], model=model)


# -- the certificate as a value ----------------------------------------


def test_a_certificate_with_edits_is_saved_and_read(tmp_path):
    result = lens(tiny.shared("llama"), edits=lr.ablate(layer=1, component="head_out", head=2))
    path = tmp_path / "edited.json"
    result.save(path)
    loaded = lr.LensResult.load(path)
    assert loaded.certificate == result.certificate
    assert "causal cone" in str(loaded.certificate)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"edit_identity_error": 0.1}, "Writing back what is there at 3.attn_out changes"),
        ({"edit_identity_error": float("nan")}, "Writing back what is there"),
        ({"edit_cone_error": 0.1}, "moves earlier tokens, earlier layers or other prompts"),
        ({"edit_cone_error": float("inf")}, "goes nowhere"),
        ({"max_edit_error": 0.1}, "do not hold what was asked"),
    ],
)
def test_each_error_of_an_edit_fails_a_certificate_in_words(field, words):
    good = lens(tiny.shared("llama"), edits=lr.ablate(layer=1)).certificate
    broken = dataclasses.replace(good, worst_edit="3.attn_out", **field)
    assert not broken.passed
    with pytest.raises(lr.LensError, match=re.escape(words)):
        broken.check()


def test_a_site_is_one_number_and_back():
    for site in (
        lr.Site(0, "embed"),
        lr.Site(79, "head_out", 127),
        lr.Site(500),
        lr.Site(3, "mlp_out"),
    ):
        assert site_of_code(float(np.float32(site_code(site)))) == site
    assert site_of_code(-1) is None
    assert site_of_code(float("nan")) is None


def test_the_worst_of_several_sites_is_named():
    assert worst_of({}) == NOT_ASKED
    nan = float("nan")
    worst = worst_of(
        {1.0: SiteProof(0.0, 1e-7), 2.0: SiteProof(nan, 0.0), 3.0: SiteProof(0.0, 0.5)}
    )
    assert worst.code == 2
    assert np.isnan(worst.identity_error)
    assert worst.cone_error == 0.5
