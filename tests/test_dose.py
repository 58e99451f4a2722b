"""The effect of an edit over its scale, and what ablations say of an attribution."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from test_effects import plain_logits

import lens_recipes as lr
from lens_recipes.trace.edits import apply

IDS = tiny.random_ids(batch=3, length=7, seed=5).tolist()


def vector(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(lr.anatomy(model).d_model, generator=generator)


# -- dose --------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_a_dose_that_is_not_made_fails(known, monkeypatch):
    model = lr.load(tiny.llama())
    edit = lr.ablate(layer=1, component="attn_out")
    if known:  # what the model says of the site was asked before
        lr.dose(model, IDS, edit, [1], controls=0)
    monkeypatch.setattr(apply, "put_back", lambda *_: None)
    with pytest.raises(lr.LensError, match="do not hold what was asked"):
        lr.dose(model, IDS, edit, [1], controls=0)


def test_a_dose_is_the_edit_at_each_scale():
    model = tiny.shared("llama")
    scales = [0.0, 0.5, -1.0]
    curve = lr.dose(model, IDS, lr.steer(vector(model), layer=1), scales, targets=[3, 4])
    assert curve.scales == [-1.0, 0.0, 0.5]
    for row, scale in enumerate(curve.scales):
        edit = lr.steer(vector(model), layer=1, scale=scale)
        alone = lr.logit_lens(model, IDS, targets=[3, 4], positions=-1, edits=edit)
        effects = alone.effects
        np.testing.assert_allclose(curve.logprobs[row], effects.target_logprobs[1], atol=1e-5)
        np.testing.assert_allclose(curve.kl[row], effects.kl[1], atol=1e-5)
        controls = effects.target_logprobs[2:]
        np.testing.assert_allclose(curve.control_logprobs[row], controls, atol=1e-5)
    np.testing.assert_allclose(curve.base_logprobs, effects.target_logprobs[0], atol=1e-5)


@pytest.mark.parametrize(
    "edit",
    [
        lr.ablate(layer=1, component="mlp_out"),
        lr.ablate(layer=1, component="head_out", head=1, to="resample"),
        lr.patch(IDS[1], layer=1),
        lr.swap(3, 4, layers=[0, 1]),
        lr.steer(5, layer=0),
    ],
    ids=str,
)
def test_nothing_of_an_edit_does_nothing(edit):
    curve = lr.dose(tiny.shared("llama"), IDS, edit, [0, 1], targets=3, controls=2)
    np.testing.assert_array_equal(curve.kl[0], 0)
    np.testing.assert_array_equal(curve.logprobs[0], curve.base_logprobs)
    np.testing.assert_array_equal(curve.control_kl[0], 0)
    assert (curve.kl[1] > 0).any()


def test_a_whole_share_is_the_edit():
    model = tiny.shared("llama")
    edit = lr.ablate(layer=1, component="mlp_out", to="resample")
    curve = lr.dose(model, IDS, edit, [1.0], targets=3, controls=1)
    whole = lr.logit_lens(model, IDS, targets=3, positions=-1, edits=edit, controls=1).effects
    np.testing.assert_allclose(curve.logprobs[0], whole.target_logprobs[1], atol=1e-5)
    np.testing.assert_allclose(curve.control_logprobs[0, 0], whole.target_logprobs[2], atol=1e-5)


def test_a_half_share_is_half_of_the_way():
    model = tiny.shared("llama")
    path = lr.anatomy(model).block(1)

    def halve(stream):
        stream[:, 2] *= 0.5

    expected = plain_logits(model, IDS, [(path, halve)])[:, -1].log_softmax(-1)[:, 3]
    curve = lr.dose(model, IDS, lr.ablate(layer=1, positions=2), [0.5], targets=3, controls=0)
    np.testing.assert_allclose(curve.logprobs[0, :, 0], expected, atol=2e-5)
    assert curve.controls == []
    assert curve.verdicts()[0].beyond is None


def test_small_scales_are_linear():
    model = tiny.shared("llama")
    edit = lr.steer(vector(model), layer=1)
    curve = lr.dose(model, IDS, edit, [-0.002, 0.001, 0.002], targets=[3], controls=0)
    effects = np.stack([effect.change for effect in curve.effects(0)])
    np.testing.assert_allclose(effects[2], 2 * effects[1], rtol=0.05, atol=1e-4)
    np.testing.assert_allclose(effects[0], -effects[2], rtol=0.05, atol=1e-4)


@pytest.mark.parametrize(
    ("edit", "scales", "words"),
    [
        (lr.ablate(layer=1), [0.5, 1.5], "from 0 to 1"),
        (lr.steer(3, layer=1), [], "one or more"),
        (lr.steer(3, layer=1), [float("nan")], "finite"),
        (lr.steer(3, layer=1), "much", "numbers"),
        ("steer", [1], "is no edit"),
    ],
)
def test_scales_that_are_none_are_refused(edit, scales, words):
    with pytest.raises(ValueError, match=words):
        lr.dose(tiny.shared("llama"), IDS, edit, scales)


def test_a_dose_is_saved_tabled_and_drawn(tmp_path):
    model = tiny.shared("llama")
    curve = lr.dose(model, IDS, lr.steer(3, layer=1), [0, 0.3], targets=[3, 4], controls=2)
    path = tmp_path / "dose.json"
    curve.save(path)
    loaded = lr.Dose.load(path)
    assert str(loaded) == str(curve)
    np.testing.assert_array_equal(loaded.control_logprobs, curve.control_logprobs)
    assert "beyond the control" in curve.summary()
    frame = curve.to_frame()
    assert len(frame) == 2 * 3 * 3 * 2  # scales, runs, prompts, targets
    edited = frame[(frame.run == "edit") & (frame.scale == 0.3) & (frame.target_id == 4)]
    np.testing.assert_allclose(edited.logprob, curve.logprobs[1, :, 1])
    figure = lr.dose_figure(curve)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    np.testing.assert_allclose(lines[0].y, [verdict.effect for verdict in curve.verdicts(0)])
    assert len(lines) == 3  # two targets and KL
    stored = json.loads(path.read_text())
    stored["kl"] = stored["kl"][:1]
    path.write_text(json.dumps(stored))
    with pytest.raises(lr.LensError, match="damaged"):
        lr.Dose.load(path)
    with pytest.raises(ValueError, match=r"\.json"):
        curve.save(tmp_path / "dose.npz")
    lr.logit_lens(model, IDS).save(path)
    with pytest.raises(lr.LensError, match="not a dose"):
        lr.Dose.load(path)


# -- confirm -----------------------------------------------------------


def attributed(model, unit, targets=(3, 4, 5), **options):
    rows = [[target] for target in targets]
    return lr.attribution(model, IDS, rows, against=[[6]] * 3, unit=unit, **options)


def logit_differences(logits, targets=(3, 4, 5)):
    last = logits[:, -1]
    return (last[range(3), list(targets)] - last[:, 6]).numpy()


def test_the_total_effect_is_that_of_hooks():
    model = tiny.shared("llama")
    who = attributed(model, "component")
    found = lr.confirm(model, who, top=2, methods=["zero", "resample"], controls=1)
    base = logit_differences(plain_logits(model, IDS))
    np.testing.assert_allclose(found.base, base, atol=1e-4)
    blocks = {}
    for number in range(lr.anatomy(model).n_layers):
        path = lr.anatomy(model).block(number)
        blocks[f"{number}.mlp_out"] = f"{path}.mlp"
        blocks[f"{number}.attn_out"] = f"{path}.self_attn"

    def zero(stream):
        stream[:, -1] = 0

    def next_prompt(stream):
        stream[:, -1] = stream[:, -1].roll(-1, 0).clone()

    for row, name in enumerate(found.parts[:2]):
        for column, change in enumerate([zero, next_prompt]):
            logits = plain_logits(model, IDS, [(blocks[name], change)])
            expected = base - logit_differences(logits)
            np.testing.assert_allclose(found.totals[column, row], expected, atol=2e-4)
    assert found.parts[2] == "all together"
    hooks = [(blocks[name], zero) for name in found.parts[:2]]
    expected = base - logit_differences(plain_logits(model, IDS, hooks))
    np.testing.assert_allclose(found.totals[0, 2], expected, atol=2e-4)
    for row, names in enumerate(found.controls[:2]):
        (name,) = names
        expected = base - logit_differences(plain_logits(model, IDS, [(blocks[name], zero)]))
        np.testing.assert_allclose(found.control_totals[0, row, 0], expected, atol=2e-4)


@pytest.mark.parametrize("unit", ["layer", "component", "head"])
def test_the_parts_are_the_largest_and_their_controls_are_others(unit):
    model = tiny.shared("llama")
    who = attributed(model, unit)
    found = lr.confirm(model, who, top=1, methods=["zero"], controls=9)
    values = who.values[:, :, 0].mean(-1)
    order = np.argsort(-np.abs(values))
    part = next(
        who.parts[row]
        for row in order
        if who.parts[row].component not in ("embed", "bias", "attn_bias")
    )
    name = f"layer {part.layer}" if unit == "layer" else part.short
    assert found.parts == [name]
    np.testing.assert_allclose(found.direct[0], who.values[who.parts.index(part), :, 0])
    same_kind = [other for other in who.parts if other.component == part.component]
    assert len(found.controls[0]) == min(9, len(same_kind) - 1)
    assert name not in found.controls[0]


def test_the_last_writes_have_a_total_effect_near_the_direct_one():
    """Nothing comes after the last layer but the norm."""
    model = tiny.shared("llama")
    last = lr.anatomy(model).last_layer
    who = attributed(model, "component")
    found = lr.confirm(model, who, top=20, methods=["zero"], controls=0)
    row = found.parts.index(f"{last}.mlp_out")
    scores = np.corrcoef(found.direct[row], found.totals[0, row])[0, 1]
    assert scores > 0.9


def test_a_confirmation_says_what_may_be_claimed(tmp_path):
    model = tiny.shared("llama")
    who = attributed(model, "head")
    reference = tiny.random_ids(batch=2, length=9, seed=8).tolist()
    found = lr.confirm(model, who, top=2, methods=["mean"], over=reference, controls=2)
    assert "direct" in found.summary()
    assert "(mean)" in found.summary()
    assert "beyond the control" in found.summary()
    assert found.parts[0] in str(found)
    path = tmp_path / "found.json"
    found.save(path)
    assert lr.Confirmation.load(path).summary() == found.summary()


def test_where_nothing_is_left_to_compare_with_there_is_no_verdict():
    model = tiny.shared("llama")
    found = lr.confirm(model, attributed(model, "layer"), top=9, methods=["zero"], controls=3)
    assert found.verdict("all together").beyond is None
    assert "no control" in found.summary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top=0"),
        ({"methods": ["none"]}, "methods="),
        ({"controls": -1}, "controls=-1"),
        ({"target": 1}, "target=1"),
        ({"position": 3}, "position=3"),
    ],
)
def test_what_cannot_be_confirmed_is_refused(options, words):
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match=words):
        lr.confirm(model, attributed(model, "component"), **options)


def test_other_results_and_inner_layers_are_refused():
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match="received LensResult"):
        lr.confirm(model, lr.logit_lens(model, IDS))
    with pytest.raises(ValueError, match="at_layer=0"):
        lr.confirm(model, attributed(model, "component", at_layer=0), methods=["zero"])
    mean = lr.attribution(model, IDS, 3, against="mean")
    with pytest.raises(ValueError, match="against"):
        lr.confirm(model, mean)
    edited = lr.attribution(model, IDS, 3, edits=lr.steer(7, layer=1))
    with pytest.raises(ValueError, match="of an edited run"):
        lr.confirm(model, edited)


DAMAGES = {
    "a scale that is no number": ("dose", lambda content: content["scales"].__setitem__(0, None)),
    "fewer targets": ("dose", lambda content: content["target_ids"][0].pop()),
    "targets of other prompts": ("dose", lambda content: content["target_ids"].pop()),
    "targets that are no ids": ("dose", lambda content: content.update(target_ids=[[{}], [{}]])),
    "a unit that is none": ("dose", lambda content: content.update(unit=[1])),
    "a number of sites": ("dose", lambda content: content.update(n_sites="many")),
    "controls that are no texts": ("dose", lambda content: content["controls"].__setitem__(0, 3)),
    "fewer controls": ("confirmation", lambda content: content["controls"].pop()),
    "a place that is no text": ("confirmation", lambda content: content.update(where=None)),
    "a target that is no text": ("confirmation", lambda content: content.update(target=[])),
    "no parts": ("confirmation", lambda content: content.update(parts=[])),
    "provenance": ("confirmation", lambda content: content.update(provenance=[])),
}


@pytest.fixture(scope="module")
def measured():
    model = tiny.shared("llama")
    return {
        "dose": lr.dose(model, IDS, lr.steer(7, layer=1), [0, 1], targets=3, controls=1),
        "confirmation": lr.confirm(
            model, attributed(model, "component"), top=1, methods=["zero"], controls=1
        ),
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(measured, damage, tmp_path):
    """When it is read, and not by the first view of it."""
    kind, make = DAMAGES[damage]
    path = tmp_path / "measured.json"
    measured[kind].save(path)
    content = json.loads(path.read_text())
    make(content)
    path.write_text(json.dumps(content))
    with pytest.raises(lr.LensError, match=f"is a {kind} but damaged"):
        type(measured[kind]).load(path)
