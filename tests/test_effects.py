"""What an edit did, beside controls that should do nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import strict_local
import tiny
import torch
from test_remote import NOT_THERE

import lens_recipes as lr
from lens_recipes.arrays.edits.verdict import judge
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.request.edits.controls import draw_controls
from lens_recipes.run.request.edits.planned import plan_edits
from lens_recipes.run.request.request import Request
from lens_recipes.trace.edits import apply
from lens_recipes.trace.edits.changes import AddRandom, EditContext

IDS = tiny.random_ids(batch=3, length=7, seed=5).tolist()
HOOKED = ["llama", "gpt2", "gemma2", "falcon", "mamba"]
CAUSAL_FAMILIES = [
    *(
        "gpt2",
        "opt_350m",
        "bloom",
        "gpt_neox",
        "gptj",
        "falcon",
        "phi",
        "cohere",
        "qwen2",
        "gemma2",
    ),
    *(
        "gemma3_text",
        "olmo2",
        "granite",
        "mamba",
        "mamba2",
        "falcon_h1",
        "rwkv",
        "recurrent_gemma",
        "mpt",
    ),
]


def plain_logits(model, rows, hooks=()):
    """Logits after every token, with hooks `(path, change of the output)`."""
    handles = []
    for path, change in hooks:

        def hook(_module, _args, output, change=change):
            stream = (output if torch.is_tensor(output) else output[0]).clone()
            change(stream)
            return stream if torch.is_tensor(output) else (stream, *output[1:])

        handles.append(model._module.get_submodule(path).register_forward_hook(hook))
    try:
        with torch.no_grad():
            return model._module(input_ids=torch.tensor(rows)).logits
    finally:
        for handle in handles:
            handle.remove()


def zero_at(position):
    def change(stream):
        stream[:, position] = 0

    return change


def drawn(model, edits, n_controls=5):
    """The planned edits and the controls of a request."""
    request = Request(model, IDS)
    planned = plan_edits(edits, request.blocks, request.anatomy)
    controls = draw_controls(
        edits, planned, n_controls, request.blocks, request.anatomy, first=len(planned)
    )
    return request, planned, controls


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("family", HOOKED)
def test_effects_are_those_of_hooks(family):
    model = tiny.shared(family)
    block = lr.anatomy(model).block(1)
    target = 3
    result = lr.logit_lens(
        model, IDS, targets=target, edits=lr.ablate(layer=1, positions=2), controls=1
    )
    base = plain_logits(model, IDS).double()
    edited = plain_logits(model, IDS, [(block, zero_at(2))]).double()
    kl = torch.nn.functional.kl_div(
        edited.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    effects = result.effects
    np.testing.assert_allclose(effects.kl[1], kl.flatten(), atol=1e-5)
    np.testing.assert_array_equal(effects.kl[0], 0)
    np.testing.assert_allclose(
        effects.target_logprobs[1, :, 0], edited.log_softmax(-1)[..., target].flatten(), atol=2e-5
    )
    change = (edited.log_softmax(-1) - base.log_softmax(-1))[:, -1, target]
    np.testing.assert_allclose(effects.of(0).change, change, atol=3e-5)
    answers = base.argmax(-1)
    of_answer = base.log_softmax(-1).gather(-1, answers[..., None])
    np.testing.assert_allclose(effects.answer_logprobs[0], of_answer.flatten(), atol=2e-5)
    np.testing.assert_array_equal(effects.top_ids[0], answers.flatten())
    np.testing.assert_array_equal(effects.top_ids[1], edited.argmax(-1).flatten())


def test_a_control_of_an_ablation_is_the_same_ablation_elsewhere():
    model = tiny.shared("llama")
    anatomy = lr.anatomy(model)
    edit = lr.ablate(layer=1, component="resid_post", positions=2)
    result = lr.logit_lens(model, IDS, targets=3, edits=edit, controls=50)
    effects = result.effects
    assert effects.n_sites == anatomy.n_layers - 1
    assert len(effects.controls) == effects.n_sites  # no site is drawn twice
    for control, name in enumerate(effects.controls):
        layer = int(name.split(".")[0])
        assert layer != 1
        logits = plain_logits(model, IDS, [(anatomy.block(layer), zero_at(2))])
        expected = logits.log_softmax(-1)[..., 3].flatten()
        np.testing.assert_allclose(effects.target_logprobs[2 + control, :, 0], expected, atol=2e-5)


def test_logits_before_the_edited_tokens_are_bit_equal():
    model = tiny.shared("llama")
    edit = lr.steer(torch.ones(lr.anatomy(model).d_model), layer=0, positions=[[2], [4], [0]])
    prompts = [IDS[0], IDS[1][:5], IDS[2]]
    result = lr.logit_lens(model, prompts, edits=edit, controls=1)
    effects = result.effects
    first = np.array([2, 4, 0])[result.tokens.prompt]
    is_outside = result.tokens.position < first
    np.testing.assert_array_equal(np.isnan(effects.outside), ~is_outside)
    assert effects.n_outside == 6
    assert effects.max_outside == 0
    assert (effects.kl[1][is_outside] == 0).all()
    assert (effects.kl[1][~is_outside] > 0).all()


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
def test_what_stands_before_the_edited_tokens_is_bit_equal_in_every_family(family):
    model = tiny.shared(family)
    vector = torch.linspace(-1, 1, lr.anatomy(model).d_model)
    edit = lr.steer(vector, layer=0, positions=3)
    effects = lr.logit_lens(model, IDS, positions=[1, 2, 4], edits=edit, controls=1).effects
    assert effects.n_outside == 6
    assert effects.max_outside == 0
    assert (effects.kl[1:, 2::3] > 0).all()


def test_an_effect_before_the_edited_tokens_is_an_error():
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS, edits=lr.ablate(layer=1, positions=2), controls=1)
    moved = dataclasses.replace(result.effects, outside=np.full(21, 1.0, dtype=np.float32))
    with pytest.raises(lr.LensError, match="not causal"):
        moved.check_cone(result.certificate)


# -- controls ----------------------------------------------------------


def test_a_control_that_is_not_made_fails(monkeypatch):
    """Of the controls too, what is asked must be there: one that does nothing proves nothing."""
    put_back = apply.put_back
    made = []

    def only_at_first(*values):
        made.append(1)
        if len(made) == 1:
            put_back(*values)

    model = tiny.shared("llama")
    edit = lr.ablate(layer=1, component="mlp_out")
    lr.logit_lens(model, IDS, edits=edit, controls=1)  # the model is asked of the site
    monkeypatch.setattr(apply, "put_back", only_at_first)
    with pytest.raises(lr.LensError, match=r"mlp_out do(es)? not hold"):
        lr.logit_lens(model, IDS, edits=edit, controls=1)


def test_without_controls_an_edited_run_is_one_forward_pass():
    model = tiny.shared("llama")
    n_passes = []
    block = model._module.get_submodule(lr.anatomy(model).block(0))
    handle = block.register_forward_hook(lambda *_: n_passes.append(1))
    try:
        edit = lr.ablate(layer=1)
        lr.logit_lens(model, IDS, edits=edit, controls=0)  # the hook is new: it looks again
        n_passes.clear()
        plain = lr.logit_lens(model, IDS, edits=edit, controls=0)
        assert len(n_passes) == 1
        n_passes.clear()
        with_controls = lr.logit_lens(model, IDS, edits=edit, controls=2)
        assert len(n_passes) == 4
    finally:
        handle.remove()
    assert plain.effects is None
    np.testing.assert_array_equal(plain.top_logprobs, with_controls.top_logprobs)


def test_patches_have_no_controls_unless_asked():
    model = tiny.shared("llama")
    patch = lr.patch(IDS[1], layer=1)
    assert lr.logit_lens(model, IDS[0], edits=patch).effects is None
    asked = lr.logit_lens(model, IDS[0], edits=patch, controls=2)
    assert len(asked.effects.controls) == 2


def test_random_directions_have_the_norm_of_the_edit():
    model = tiny.shared("llama")
    context = EditContext(None, None, None, {4: torch.tensor([2.0, 0.5])})
    current = torch.randn(2, 16)
    moved = AddRandom(4, seed=1).apply(current, context) - current
    np.testing.assert_allclose(moved.norm(dim=-1), [2.0, 0.5], rtol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0)
    assert cosine > 0.9999  # one direction for all tokens
    other = AddRandom(4, seed=2).apply(current, context) - current
    assert torch.nn.functional.cosine_similarity(moved[0], other[0], dim=0).abs() < 0.9
    vector = torch.linspace(-1, 1, lr.anatomy(model).d_model)
    request, planned, controls = drawn(model, [lr.steer(vector, layer=[0, 1], scale=0.5)])
    runs = [control.planned for control in controls.drawn]
    batches = EditBatches(request, planned, runs)
    assert [change.of for change in batches.changes[2:]] == [0, 1] * 5
    seeds = [change.seed for change in batches.changes[2:]]
    assert seeds[0::2] == seeds[1::2]  # one direction in all layers
    assert len(set(seeds)) == 5


@pytest.mark.parametrize("component", ["head_out", "attn_out", "mlp_out", "resid_mid", "resid_pre"])
def test_random_sites_are_of_the_same_kind_and_never_the_edited_one(component):
    model = tiny.shared("llama")
    anatomy = lr.anatomy(model)
    layers = list(range(anatomy.n_layers))
    head = 0 if component == "head_out" else None
    edits = [lr.ablate(layer=1, component=component, head=head)]
    request, planned, controls = drawn(model, edits, 40)
    edited = {item.site for item in planned}
    seen = set()
    for control in controls.drawn:
        sites = {item.site for item in control.planned}
        assert len(sites) == len(planned)
        assert not sites & edited
        assert {site.component for site in sites} == {component}
        seen |= sites
    n_kind = len(layers) * (request.blocks()[0].n_heads if head == 0 else 1)
    assert controls.n_sites == n_kind - 1
    assert len(seen) == min(40, controls.n_sites)


def test_one_control_replaces_all_edits():
    model = tiny.shared("llama")
    edits = [
        lr.ablate(layer=0, component="head_out", head=[0, 1]),
        lr.ablate(layer=1, component="mlp_out"),
        lr.steer(torch.ones(lr.anatomy(model).d_model), layer=1),
    ]
    _, planned, controls = drawn(model, edits, 3)
    edited = {item.site for item in planned[:3]}
    for control in controls.drawn:
        kinds = [item.site.component for item in control.planned]
        assert kinds == ["head_out", "head_out", "mlp_out", "resid_post"]
        assert not {item.site for item in control.planned[:3]} & edited


def test_where_no_other_site_is_left_the_result_says_so():
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS, targets=3, edits=lr.ablate(component="mlp_out"))
    assert result.effects.controls == []
    assert "no control" in result.summary()
    assert result.effects.of(0).verdict.beyond is None
    np.testing.assert_array_equal(result.effects.kl.shape, (2, 21))


@pytest.mark.parametrize("controls", [-1, 2.5, True, "5"])
def test_a_number_of_controls_that_is_none_is_refused(controls):
    with pytest.raises(ValueError, match="controls="):
        lr.logit_lens(tiny.shared("llama"), IDS, edits=lr.ablate(layer=1), controls=controls)


def test_controls_without_edits_are_refused():
    with pytest.raises(ValueError, match="nothing to control"):
        lr.logit_lens(tiny.shared("llama"), IDS, controls=3)


# -- the verdict -------------------------------------------------------


def test_one_prompt_is_beyond_the_control_where_it_exceeds_every_control():
    assert judge(np.array([-1.0]), np.array([[0.9], [-0.99]])).beyond is True
    assert judge(np.array([-1.0]), np.array([[0.2], [1.01]])).beyond is False
    assert judge(np.array([-1.0]), np.zeros((0, 1))).beyond is None


def test_several_prompts_are_compared_in_pairs():
    controls = np.array([[0.1, -0.2, 0.1, 0.2], [0.0, 0.1, -0.1, 0.1]])
    steady = judge(np.array([1.0, 1.2, 0.9, 1.1]), controls)
    assert steady.beyond is True
    # One prompt makes the mean large, and nothing is known of others.
    lucky = judge(np.array([4.0, 0.1, -0.1, 0.0]), controls)
    assert lucky.effect > lucky.control_high
    assert lucky.beyond is False
    assert lucky.excess.low < 0


def test_the_interval_is_that_of_student():
    numbers = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    verdict = judge(numbers, np.zeros((0, 5)))
    # statistics of a table: t(0.975, 4) = 2.77645; standard deviation 3.1145
    margin = 2.77645 * 3.11448 / np.sqrt(5)
    np.testing.assert_allclose(verdict.effect_interval, [4.2 - margin, 4.2 + margin], rtol=1e-4)


# -- what is kept and said ---------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_effects_are_saved_and_checked(tmp_path, suffix):
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS, targets=[3, 4], edits=lr.ablate(layer=1), controls=2)
    path = tmp_path / f"edited.{suffix}"
    result.save(path)
    loaded = lr.LensResult.load(path)
    for name, array in result.effects.arrays().items():
        np.testing.assert_array_equal(loaded.effects.arrays()[name], array)
    assert loaded.effects.controls == result.effects.controls
    assert loaded.summary() == result.summary()


def test_a_file_whose_controls_do_not_fit_is_damaged(tmp_path):
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS, targets=3, edits=lr.ablate(layer=1), controls=1)
    path = tmp_path / "edited.json"
    provenance = result.provenance | {"controls": result.provenance["controls"] | {"names": []}}
    dataclasses.replace(result, provenance=provenance).save(path)
    with pytest.raises(lr.LensError, match=r"damaged.*effect_kl"):
        lr.LensResult.load(path)
    dataclasses.replace(result, effects=None).save(path)
    with pytest.raises(lr.LensError, match=r"damaged.*effect_kl"):
        lr.LensResult.load(path)


def test_one_prompt_of_a_result_has_its_own_effects():
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS, targets=3, edits=lr.ablate(layer=1), controls=2)
    second = result[1].effects
    tokens = result.tokens.prompt == 1
    np.testing.assert_array_equal(second.kl, result.effects.kl[:, tokens])
    np.testing.assert_array_equal(second.outside, result.effects.outside[tokens])
    assert second.of(0).change == result.effects.of(0).change[1]


def test_prompts_of_several_lengths_come_back_in_order():
    model = tiny.shared("llama")
    prompts = [IDS[0], IDS[1][:4], IDS[2][:6]]
    together = lr.logit_lens(model, prompts, targets=3, edits=lr.ablate(layer=1), controls=2)
    for number, prompt in enumerate(prompts):
        alone = lr.logit_lens(model, prompt, targets=3, edits=lr.ablate(layer=1), controls=2)
        np.testing.assert_allclose(together[number].effects.kl, alone.effects.kl, atol=1e-5)
        assert together.effects.controls == alone.effects.controls


def test_memory_does_not_bound_the_numbers():
    model = tiny.shared("llama")
    edit = lr.ablate(layer=1)
    wide = lr.logit_lens(model, IDS, targets=3, edits=edit, controls=2)
    narrow = lr.logit_lens(model, IDS, targets=3, edits=edit, controls=2, max_bytes=1)
    np.testing.assert_allclose(narrow.effects.kl, wide.effects.kl, atol=1e-6)


def test_effects_print_each_number_beside_its_controls():
    model = tiny.shared("llama")
    edit = lr.steer(5, layer=1, positions=-1)
    effects = lr.logit_lens(model, IDS[:1], targets=[3], edits=edit, controls=2).effects
    assert repr(effects).startswith("EditEffects(1 prompt, 7 tokens; controls: ")
    lines = str(effects).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["kl", "answer", "target 0"]
    for line, name in zip(lines, ["kl", "answer", 0], strict=True):
        assert f"{effects.of(name).verdict.effect:+.3g} nats (controls " in line
        assert line.endswith(effects.of(name).verdict.words)


def test_the_summary_says_effect_and_control_side_by_side():
    model = tiny.shared("llama")
    result = lr.logit_lens(model, IDS[0], targets=3, edits=lr.ablate(layer=1), controls=3)
    text = result.summary()
    assert "edited: ablate (to zero) resid_post of layer 1" in text
    assert "controls" in text
    assert "beyond the control" in text
    assert "edited: " in str(result)
    weak = dataclasses.replace(result.effects, target_logits=result.effects.target_logits.copy())
    weak.target_logits[1] = weak.target_logits[0]
    weak = dataclasses.replace(weak, logsumexp=np.tile(weak.logsumexp[:1], (len(weak.kl), 1)))
    changed = dataclasses.replace(result, effects=weak)
    assert "not beyond the control" in changed.summary()
    assert "distrust: not beyond the control" in changed.summary()


# -- on a server -------------------------------------------------------


def test_a_server_without_this_package_gives_the_same_effects(llama, monkeypatch):
    prompts = ["one prompt", "and another, longer one"]
    head = {"layer": 1, "component": "head_out", "head": 1, "positions": -1}
    steer = lr.steer(260, layer=0, positions=-1)
    edits = [lr.ablate(**head, to="mean", over=prompts), steer]
    here = lr.logit_lens(llama, prompts, targets=260, edits=edits, controls=2)
    curve = lr.dose(llama, prompts, steer, [0.5, 1], targets=260, controls=1)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.logit_lens(llama, prompts, targets=260, edits=edits, controls=2, remote="local")
    for name, array in here.effects.arrays().items():
        np.testing.assert_allclose(there.effects.arrays()[name], array, atol=2e-4)
    sent = lr.dose(llama, prompts, steer, [0.5, 1], targets=260, controls=1, remote="local")
    np.testing.assert_allclose(sent.logprobs, curve.logprobs, atol=2e-4)


# -- base beside edited ------------------------------------------------


def test_base_and_edited_stand_side_by_side():
    model = tiny.shared("llama")
    base = lr.logit_lens(model, IDS[0], targets=3)
    edited = lr.logit_lens(model, IDS[0], targets=3, edits=lr.ablate(layer=1), controls=0)
    table = lr.table(base, beside=edited)
    assert "base" in table
    assert "edited: " in table
    assert "| edited: ablate (to zero)" in lr.table(base, beside=edited, format="markdown")
    figure = lr.compare(base, edited)
    assert figure.layout.title.text.startswith("base and edited: ablate (to zero)")
    assert "resid_post of layer 1" in figure.layout.title.subtitle.text
    assert lr.compare(base, base, prompt_b=0).layout.title.text.startswith("A and B")
