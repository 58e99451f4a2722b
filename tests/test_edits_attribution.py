"""The logit of an edited run is split like any other, and what the edit added to the stream is a part of its own."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import oracle
import pytest
import strict_local
import tiny
import torch
from test_attribution import NO_HEADS, THROUGH_NORMS, held
from test_remote import NOT_THERE

import lens_recipes as lr

IDS = tiny.random_ids(batch=2, length=8, seed=11)
TARGETS = [7, 11]
# Parallel blocks, sandwich norms, multipliers, norms in the stream, state space, MoE, and scales between blocks.
FAMILIES = [
    "llama",
    "gpt2",
    "gemma2",
    "granite",
    "falcon",
    "mamba",
    "mixtral",
    "openai_gpt",
    "minimax",
    "doge",
    "rwkv_halved",
    "recurrent_gemma",
    "mllama",
]
LAYER = 2  # which every family has, and of which text passes over none


def vector_of(model, seed=0, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(lr.anatomy(model).d_model, generator=generator)


def split(model, edits, unit="component", positions=(2, -1), **options):
    return lr.attribution(
        model, IDS, TARGETS, unit=unit, positions=list(positions), edits=edits, **options
    )


def of_part(result, name):
    """What one part adds, `[token, target]`."""
    return result.values[[str(part) for part in result.parts].index(name)]


def hooked(model, layer, change, side="out"):
    """Logits of a model whose stream after (or before) a block is changed by a hook, `[prompt, position, vocab]`."""
    module = model._module
    block = module.get_submodule(lr.anatomy(model).block(layer))

    def after(_module, _args, output):
        stream = (output if torch.is_tensor(output) else output[0]).clone()
        change(stream)
        return stream if torch.is_tensor(output) else (stream, *output[1:])

    def before(_module, args):
        stream = args[0].clone()
        change(stream)
        return (stream, *args[1:])

    if side == "out":
        handle = block.register_forward_hook(after)
    else:
        handle = block.register_forward_pre_hook(before)
    try:
        return oracle.plain_logits(module, IDS)
    finally:
        handle.remove()


def assert_splits(result, logits, positions=(2, -1)):
    """The parts sum to the logit, which is the hooked model's own."""
    own = logits[:, list(positions)][..., TARGETS].reshape(-1, len(TARGETS)).numpy()
    size = max(1.0, float(np.abs(result.values).max()))
    np.testing.assert_allclose(result.capped_logit, own, atol=1e-4 * size)
    total = result.values.sum(0, dtype=np.float64)
    np.testing.assert_allclose(total, result.logit, atol=2e-5 * size, rtol=1e-4)
    assert result.certificate.passed
    assert result.certificate.max_edit_error < 1e-5
    assert len(result.parts) == len(set(result.parts)) == len(result.values)


# -- the sum -----------------------------------------------------------


UNITS = {
    "layer": FAMILIES,
    "component": FAMILIES,
    "head": [family for family in FAMILIES if family not in NO_HEADS],
    "token": [family for family in FAMILIES if family not in NO_HEADS],
}


@pytest.mark.parametrize(
    ("unit", "family"), [(unit, family) for unit, names in UNITS.items() for family in names]
)
def test_parts_sum_to_the_logit_of_the_edited_run(family, unit):
    model = tiny.shared(family)
    vector = vector_of(model)

    def change(stream):
        stream[:, 5] = 0
        stream += vector

    edits = [
        lr.ablate(layer=LAYER, positions=5),
        lr.steer(vector, layer=LAYER, normalize=False),
    ]
    result = split(model, edits, unit)
    assert_splits(result, hooked(model, LAYER, change))
    named = [str(part) for part in result.parts if part.component == "edit"]
    assert named == [f"{LAYER}.edit"]


@pytest.mark.parametrize("unit", ["component", "head", "token"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_edits_of_every_kind_at_once(family, unit):
    model = tiny.shared(family)
    vector = vector_of(model)
    edits = [
        lr.steer(vector, component="embed", normalize=False),
        lr.steer(vector, layer=[1, 3], component="resid_pre", normalize=False),
        lr.steer(vector, layer=1, component="resid_mid", normalize=False),
        lr.ablate(layer=1, component="attn_out", to=vector, positions=-1),
        lr.ablate(layer=2, component="head_out", head=[0, 1]),
        lr.ablate(layer=2, component="mlp_out", to="resample"),
        lr.patch(IDS[1:], layer=3, positions=[2]),
    ]
    result = split(model, edits, unit)
    assert result.certificate.passed
    assert result.certificate.max_edit_error < 1e-5
    lens = lr.logit_lens(model, IDS, positions=[2, -1], targets=TARGETS, edits=edits)
    np.testing.assert_allclose(result.capped_logit, lens.target_logits[-1], rtol=1e-4, atol=1e-4)
    edited = [part.layer for part in result.parts if part.component == "edit"]
    assert edited == ([0, 1, 2, 3] if unit == "token" else [0, 1, 3])


# -- the part of the edit ----------------------------------------------


MIDWAY = {
    **THROUGH_NORMS,
    "llama": (r"norm$", "model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "rwkv_halved": (r"ln", "rwkv.blocks.{}.attention", "rwkv.blocks.{}.feed_forward"),
}


@pytest.mark.parametrize("component", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("family", MIDWAY)
def test_the_part_of_an_edit_is_its_gradient_through_norms_that_are_held(family, component):
    """Autograd, with all that the model adds taken as given: the edit's share is the gradient at it, times it."""
    model = tiny.shared(family)
    module = model._module
    pattern, *paths = MIDWAY[family]
    vector = vector_of(model)
    blocks = [
        module.get_submodule(lr.anatomy(model).block(layer)) for layer in lr.anatomy(model).layers
    ]
    edit = lr.steer(vector, layer=1, component=component, normalize=False)
    result = lr.attribution(model, IDS, [7], unit="component", edits=edit)
    added = vector.clone().requires_grad_()

    def take_as_given(_module, _args, output):
        if isinstance(output, torch.Tensor):
            return output.detach()
        return type(output)((output[0].detach(), *output[1:]))

    def add_before(_module, args, options):
        return (args[0] + added, *args[1:]), options

    def add_after(_module, _args, output):
        if isinstance(output, torch.Tensor):
            return output + added
        return type(output)((output[0] + added, *output[1:]))

    handles = []
    if component == "resid_pre":
        handles.append(blocks[1].register_forward_pre_hook(add_before, with_kwargs=True))
    else:
        handles.append(blocks[1].register_forward_hook(add_after))
    for layer in range(len(blocks)):
        for path in paths:
            source = module.get_submodule(path.format(layer))
            handles.append(source.register_forward_hook(take_as_given))
    norms = [child for path, child in module.named_modules() if re.search(pattern, path)]
    norms = [norm for norm in norms if tiny.is_norm(norm)]
    with held(norms):
        logits = module(input_ids=IDS, use_cache=False).logits
        shares = []
        for row in range(len(IDS)):
            (gradient,) = torch.autograd.grad(logits[row, -1, 7], added, retain_graph=True)
            shares.append(float(gradient @ vector))
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(of_part(result, "1.edit")[:, 0], shares, rtol=1e-3, atol=1e-4)


def by_hand(model, vectors, final_stream):
    """What vectors of the stream add to the targets' logits in Llama, its last norm held at a stream."""
    norm, head = model._module.model.norm, model._module.lm_head
    size = (final_stream.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    return ((vectors / size * norm.weight) @ head.weight[TARGETS].T).detach().numpy()


def final_stream(model, layer, change, side="out"):
    """The stream that a hooked Llama gives to its last norm, after the last token of each prompt."""
    seen = []
    handle = model._module.model.norm.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0][:, -1].detach().clone())
    )
    try:
        hooked(model, layer, change, side)
    finally:
        handle.remove()
    return seen[-1]


def test_an_ablated_stream_takes_away_what_was_there(llama):
    """The edit's part is minus what the parts before it say, and what they say is unchanged."""
    result = split(llama, lr.ablate(layer=1, positions=-1), positions=[-1])
    before = [part for part in result.parts if part.layer in (0, 1) and part.component != "edit"]
    gone = sum(of_part(result, str(part)) for part in before)
    np.testing.assert_allclose(of_part(result, "1.edit"), -gone, rtol=1e-3, atol=1e-4)


def test_the_embedding_is_what_the_model_embeds_and_the_edit_what_was_put_there(llama):
    vector = vector_of(llama)

    def replace(stream):
        stream[:] = vector

    embedded = llama._module.model.embed_tokens(IDS[:, -1])
    final = final_stream(llama, 0, replace, "in")
    result = split(llama, lr.ablate(component="embed", to=vector), positions=[-1])
    np.testing.assert_allclose(
        of_part(result, "embed"), by_hand(llama, embedded, final), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        of_part(result, "0.edit"), by_hand(llama, vector - embedded, final), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("unit", ["layer", "component", "head", "token"])
def test_attention_is_not_charged_with_an_edit_of_the_stream_in_the_middle(llama, unit):
    """A vector is put in by what attention adds, and is no part of it: up to there all is as it was, but for the norm."""
    vector = vector_of(llama)
    plain = split(llama, None, unit)
    edit = lr.steer(vector, layer=1, component="resid_mid", normalize=False)
    result = split(llama, edit, unit)
    factor = of_part(result, "embed")[:, 0] / of_part(plain, "embed")[:, 0]
    for part in plain.parts:
        is_of_mlp = part.component in ("mlp_out", "layer") and part.layer == 1
        if part.layer is None or part.layer > 1 or is_of_mlp:
            continue
        expected = of_part(plain, str(part)) * factor[:, None]
        np.testing.assert_allclose(
            of_part(result, str(part)), expected, rtol=2e-3, atol=1e-4, err_msg=str(part)
        )
    assert np.abs(of_part(result, "1.edit")).max() > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_finer_units_leave_the_edit_beside_the_parts_that_it_does_not_change(family):
    model = tiny.shared(family)
    vector = vector_of(model)
    edits = [
        lr.ablate(layer=1, component="attn_out", to=vector),
        lr.ablate(layer=2, component="head_out", head=1, positions=[2, 7]),
    ]
    component = split(model, edits, "component")
    head = split(model, edits, "head")
    token = split(model, edits, "token")
    size = float(np.abs(component.values).max())
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4 * max(1, size))
    assert [str(part) for part in component.parts if part.component == "edit"] == []
    for layer in (1, 2):
        for finer in (head, token):
            rows = [
                values
                for part, values in zip(finer.parts, finer.values, strict=True)
                if part.layer == layer and part.component != "mlp_out"
            ]
            close(sum(rows), of_part(component, f"{layer}.attn_out"))
    assert [str(part) for part in head.parts if part.component == "edit"] == ["1.edit"]
    assert [str(part) for part in token.parts if part.component == "edit"] == ["1.edit", "2.edit"]
    sources = [
        values
        for part, values in zip(token.parts, token.values, strict=True)
        if part.layer == 2 and part.head == 1
    ]
    close(of_part(token, "2.edit"), -sum(sources))  # the head is silent
    close(of_part(head, "2.head_out.1"), 0)


# -- nothing more than that --------------------------------------------

NOTHING = {
    "stream": {"layer": 1},
    "middle": {"layer": 1, "component": "resid_mid"},
    "before": {"layer": 1, "component": "resid_pre"},
    "embed": {"component": "embed"},
    "attention": {"layer": 1, "component": "attn_out"},
}


@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("site", NOTHING)
def test_an_edit_that_changes_nothing_is_a_part_of_nothing(llama, site, unit):
    """And all other parts are what they are without it, bit by bit."""
    plain = split(llama, None, unit)
    result = split(llama, lr.steer(7, scale=0.0, **NOTHING[site]), unit)
    is_edit = np.array([part.component == "edit" for part in result.parts])
    assert is_edit.any() == (site != "attention" or unit == "head")
    assert (result.values[is_edit] == 0).all()
    assert [part for part in result.parts if part.component != "edit"] == plain.parts
    assert (result.values[~is_edit] == plain.values).all()
    assert (result.logit == plain.logit).all()


def test_at_tokens_that_are_not_edited_the_part_is_nothing(llama):
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8]]
    edit = lr.ablate(layer=1, positions=[[0], [2]])
    plain = lr.attribution(llama, prompts, [7], unit="component")
    result = lr.attribution(llama, prompts, [7], unit="component", edits=edit)
    assert of_part(result, "1.edit")[0, 0] == 0
    assert of_part(result, "1.edit")[1, 0] != 0
    assert (result.logit != plain.logit).all()
    for number, prompt in enumerate(prompts):
        own = lr.ablate(layer=1, positions=edit.positions[number])
        alone = lr.attribution(llama, [prompt], [7], unit="component", edits=own)
        np.testing.assert_allclose(result[number].values, alone.values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("component", ["resid_pre", "resid_post", "mlp_out"])
def test_edits_after_the_layer_that_is_explained_are_made_and_are_no_part(llama, component):
    plain = split(llama, None, at_layer=1)
    edit = lr.steer(vector_of(llama), layer=[2, 3], component=component, normalize=False)
    result = split(llama, edit, at_layer=1)
    assert result.parts == plain.parts
    assert (result.values == plain.values).all()
    assert result.certificate.passed
    assert result.certificate.max_edit_error < 1e-5


def test_at_a_layer_the_edited_lens_is_explained(llama):
    edit = lr.steer(vector_of(llama), layer=[1, 3], normalize=False)
    result = split(llama, edit, at_layer=1)
    lens = lr.logit_lens(llama, IDS, layers=1, positions=[2, -1], targets=TARGETS, edits=edit)
    np.testing.assert_allclose(result.capped_logit, lens.target_logits[0], rtol=1e-4, atol=1e-4)
    assert [str(part) for part in result.parts if part.component == "edit"] == ["1.edit"]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_in_half_precision_the_edit_is_what_the_stream_took_of_it(family):
    model = lr.load(tiny.FAMILIES[family]().to(torch.bfloat16))
    edit = lr.steer(vector_of(model, size=0.3), layer=[1, 2], normalize=False)
    assert split(model, edit).certificate.passed


def test_an_edit_that_is_lost_is_not_certified(llama, monkeypatch):
    """A part that says nothing of the edit would break the sum."""
    monkeypatch.setattr(
        "lens_recipes.trace.edits.apply.EditPass.at_tokens",
        lambda _self, _step, difference, places: difference.new_zeros(
            len(places.rows), difference.shape[-1]
        ),
    )
    with pytest.raises(lr.LensError, match="NOT CERTIFIED"):
        split(llama, lr.steer(vector_of(llama), layer=1, normalize=False))


# -- shown, saved, sent ------------------------------------------------


def test_every_view_shows_the_edit(llama, tmp_path):
    edits = [lr.steer(vector_of(llama), layer=1, normalize=False), lr.ablate(layer=2, positions=0)]
    result = split(llama, edits)
    assert "1.edit" in str(result)
    assert "1.edit" in lr.table(result)
    assert "edit" in result.summary()
    assert "1.edit" in lr.attribution_bars(result).to_json()
    assert "edit" in set(result.to_frame()["component"])
    assert "1.edit" in [str(row.part) for row in result.over_prompts()]
    heads = split(llama, edits, "head")
    assert "edits: " in lr.head_grid(heads).to_json()
    assert "edits: " not in lr.head_grid(split(llama, None, "head")).to_json()
    layers, added = result.by_layer("edit")
    assert layers == [1, 2]
    np.testing.assert_allclose(added, [of_part(result, f"{n}.edit")[1, 0] for n in layers])
    everything, sums = result.by_layer(prompt=0)
    assert everything == [0, 1, 2, 3]
    rest = sum(of_part(result, name)[1, 0] for name in ("embed", "bias", "1.edit", "2.edit"))
    np.testing.assert_allclose(sums.sum() + rest, result.total[1, 0], rtol=1e-4)
    for suffix in (".json", ".npz"):
        result.save(tmp_path / f"edited{suffix}")
        loaded = lr.Attribution.load(tmp_path / f"edited{suffix}")
        assert loaded.parts == result.parts
        assert [str(edit) for edit in loaded.edits] == [str(edit) for edit in result.edits]


def test_a_server_without_this_package_splits_the_edited_logit_the_same(llama, monkeypatch):
    edits = [
        lr.steer(7, layer=1, scale=0.5, component="resid_mid"),
        lr.ablate(layer=2, component="attn_out", to="mean", over=[[5, 6, 7]]),
        lr.patch([4, 5, 6], layer=3, positions=-1, source_positions=1),
    ]
    here = split(llama, edits, "head", at_layer=2)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = split(llama, edits, "head", at_layer=2, remote="local")
    assert there.parts == here.parts
    np.testing.assert_allclose(there.values, here.values, rtol=1e-3, atol=1e-4)
    assert there.certificate.max_edit_error < 1e-5


def test_an_edit_of_what_is_written_is_refused(llama):
    with pytest.raises(ValueError, match="nothing is written here"):
        split(llama, lr.steer(7, layer=1, when="written"))
