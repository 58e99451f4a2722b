"""Is a lens about the model? What it announces of a push, beside what the model does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch
from lenses import random_lens

import lens_recipes as lr
from lens_recipes.arrays.lens_alignment import KINDS, MEAN, LensAlignment
from lens_recipes.arrays.used_lens import UsedLens
from lens_recipes.lenses.lens import Lens
from lens_recipes.recipes.lenses.alignment import alignment as recipe
from lens_recipes.recipes.lenses.alignment import prefixes
from lens_recipes.recipes.lenses.alignment.statistics import spread_over_prompts
from lens_recipes.recipes.lenses.alignment.stimuli import main_components
from lens_recipes.trace.transport import Affine

IDS = tiny.random_ids(batch=6, length=7, seed=5).tolist()
UNEQUAL = [ids[: 4 + number % 3] for number, ids in enumerate(IDS)]
FAMILIES = ["llama", "gpt2", "gemma2", "falcon", "mamba", "opt_project", "granite", "olmo2"]


def numbers_of(alignment: LensAlignment) -> np.ndarray:
    """All means and ends of intervals."""
    spreads = [*alignment.alignment.values(), *alignment.control.values()]
    spreads += [alignment.drop, alignment.drop_control]
    return np.array([[each.mean, each.low, each.high] for each in spreads])


def stops_after(model, layer: int):
    """The model with blocks that do nothing after a layer."""
    with torch.no_grad():
        for block in model._module.model.layers[layer + 1 :]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return model


@pytest.fixture(scope="module")
def stopped():
    return stops_after(lr.load(tiny.FAMILIES["llama"]()), 1)


def test_where_nothing_follows_the_logit_lens_announces_what_the_model_does(stopped):
    measured = lr.lens_alignment(None, stopped, IDS, layers=[1, 2])
    for kind in (*KINDS, MEAN):
        np.testing.assert_allclose(measured.alignment[kind].mean, 1, atol=1e-4)
        np.testing.assert_allclose(measured.alignment[kind].low, 1, atol=1e-4)
    assert measured.is_about_model.all()
    assert np.abs(measured.control[MEAN].mean).max() < 0.5
    assert "about the model at layers 1–2" in measured.verdict
    before = lr.lens_alignment(None, stopped, IDS, layers=[0])
    assert before.alignment[MEAN].mean[0] < 0.95


def test_a_lens_that_ignores_the_stream_announces_nothing(stopped):
    bias = torch.linspace(-1, 1, 32)
    lens = Lens("linear", {1: Affine(torch.zeros(32, 32), bias)})
    measured = lr.lens_alignment(lens, stopped, IDS)
    assert np.isnan(measured.alignment[MEAN].mean).all()
    assert not measured.is_beyond_control.any()
    assert "does not depend on the stream" in measured.finding(0)
    assert "announces nothing" in measured.doubts("linear lens")[0]
    assert "–" in str(measured)


def test_random_pushes_agree_as_often_as_chance_has_it(stopped, monkeypatch):
    """The mean square of the cosine of two random changes is tr G² / (tr G)², of the metric G."""
    kept = {}
    run_pushes = recipe.run_pushes

    def keep(*args):
        kept.update(run_pushes(*args))
        return kept

    monkeypatch.setattr(recipe, "run_pushes", keep)
    n_stimuli = 40
    measured = lr.lens_alignment(None, stopped, IDS, layers=[2], stimuli=n_stimuli, scale=1e-2)
    first = KINDS.index("random") * n_stimuli
    crossed = kept["crossed"][0, :, first : first + n_stimuli]
    head = lr.lens_head(stopped)
    ratios = []
    streams = []
    block = stopped._module.model.layers[2]
    handle = block.register_forward_hook(lambda _m, _a, out: streams.extend(out[:, -1]))
    with torch.no_grad():
        stopped._module(input_ids=torch.tensor(IDS))
    handle.remove()
    for stream in streams:
        jacobian = torch.autograd.functional.jacobian(lambda h: head(h[None])[0], stream)
        weights = head(stream[None])[0].softmax(-1)
        centred = (jacobian - weights @ jacobian) * weights.sqrt()[:, None]
        metric = centred.T @ centred
        ratios.append(float((metric @ metric).trace() / metric.trace() ** 2))
    assert abs(crossed.mean()) < 4 * crossed.std() / np.sqrt(crossed.size / 2)
    # The expectation of a ratio lies a little off the ratio of the expectations.
    assert (crossed**2).mean() == pytest.approx(np.mean(ratios), rel=0.35)
    assert measured.control["random"].mean[0] == pytest.approx(crossed.mean(), abs=1e-6)


def test_a_lens_that_knows_the_text_by_heart_is_near_and_not_about_the_model():
    """It maps what each prompt has to the output, which says nothing of what the model would do."""
    model = lr.load(tiny.FAMILIES["llama"]())
    parts = lr.anatomy(model)
    found = {0: [], parts.last_layer: []}
    handles = []
    for layer, kept in found.items():
        block = model._module.get_submodule(parts.block(layer))
        handles.append(
            block.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out[:, -1]))
        )
    with torch.no_grad():
        model._module(input_ids=torch.tensor(IDS))
    for handle in handles:
        handle.remove()
    before, final = found[0][0].double(), found[parts.last_layer][0].double()
    weight = (torch.linalg.pinv(before) @ final).T.float()
    lens = Lens("linear", {0: Affine(weight)})
    read = lr.logit_lens(model, IDS, layers=[0], positions=-1, lens=lens)
    assert read.kl_to_final[0].max() < 1e-3
    by_heart = lr.lens_alignment(lens, model, IDS, layers=[0])
    logit = lr.lens_alignment(None, model, IDS, layers=[0])
    for kind in ("components", "random"):
        assert by_heart.alignment[kind].mean[0] < 0.3
    assert by_heart.alignment[MEAN].mean[0] < logit.alignment[MEAN].mean[0]
    assert not by_heart.is_about_model[0]


def test_what_is_removed_is_what_a_hook_removes():
    model = tiny.shared("llama")
    module = model._module
    measured = lr.lens_alignment(None, model, UNEQUAL, layers=[1])
    drops = []
    for ids in UNEQUAL:
        inputs = torch.tensor([ids])
        with torch.no_grad():
            before = module(input_ids=inputs).logits[0, -1].log_softmax(-1)
        answer = int(before.argmax())
        direction = module.lm_head.weight[answer] * module.model.norm.weight
        direction = direction / direction.norm()

        def remove(_module, _args, stream, direction=direction):
            changed = stream.clone()
            changed[:, -1] -= (changed[:, -1] @ direction)[:, None] * direction
            return changed

        handle = module.model.layers[1].register_forward_hook(remove)
        with torch.no_grad():
            after = module(input_ids=inputs).logits[0, -1].log_softmax(-1)
        handle.remove()
        drops.append(float(before[answer] - after[answer]))
    assert measured.drop.mean[0] == pytest.approx(np.mean(drops), abs=1e-4)
    assert measured.drop.low[0] < measured.drop.mean[0] < measured.drop.high[0]
    wider = lr.lens_alignment(None, model, UNEQUAL, layers=[1], answer=3)
    assert wider.drop.mean[0] != measured.drop.mean[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_caches_change_nothing(family, monkeypatch):
    model = tiny.shared(family)
    lens = random_lens(model)
    together = lr.lens_alignment(lens, model, UNEQUAL)
    assert together.layers == lens.layers
    alone = lr.lens_alignment(lens, model, UNEQUAL, max_bytes=1)
    np.testing.assert_allclose(numbers_of(alone), numbers_of(together), atol=1e-4)
    monkeypatch.setattr(prefixes.Prefixes, "try_place", lambda self, place: False)
    whole = lr.lens_alignment(lens, model, UNEQUAL)
    np.testing.assert_allclose(numbers_of(whole), numbers_of(together), atol=1e-4)


def test_a_layer_is_the_same_alone_and_seeds_are_fixed():
    model = tiny.shared("llama")
    every = lr.lens_alignment(None, model, UNEQUAL)
    again = lr.lens_alignment(None, model, UNEQUAL)
    assert again == every
    one = lr.lens_alignment(None, model, UNEQUAL, layers=2)
    np.testing.assert_allclose(numbers_of(one), numbers_of(every.at([2])), atol=1e-4)
    other = lr.lens_alignment(None, model, UNEQUAL, layers=2, seed=1)
    assert other.alignment["random"] != one.alignment["random"]


def test_intervals_hold_the_mean_and_are_narrower_with_more_prompts():
    values = np.random.default_rng(0).normal(1.0, 0.5, (3, 400))
    few, many = spread_over_prompts(values[:, :16], 0), spread_over_prompts(values, 0)
    for spread in (few, many):
        for low, mean, high in zip(spread.low, spread.mean, spread.high, strict=True):
            assert low < mean < high
    width = np.subtract(many.high, many.low)
    np.testing.assert_allclose(width, 2 * 1.96 * 0.5 / 20, rtol=0.15)
    assert (np.subtract(few.high, few.low) > 2 * width).all()
    nothing = spread_over_prompts(np.full((1, 5), np.nan), 0)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


def test_components_are_those_in_which_directions_differ_most():
    generator = torch.Generator().manual_seed(0)
    states = 0.1 * torch.randn(200, 8, generator=generator) + torch.eye(8)[0]
    states[:, 3] += 2 * torch.randn(200, generator=generator)
    states[0] *= 1000  # a massive activation
    components = main_components(states, 10)
    assert abs(components[0, 3]) > 0.95
    np.testing.assert_allclose(components[:8] @ components[:8].T, np.eye(8), atol=1e-5)
    assert not components[8:].any()


# -- with the lens -----------------------------------------------------


@pytest.fixture(scope="module")
def measured_lens():
    """A random lens of llama with quality and alignment."""
    model = tiny.shared("llama")
    lens = random_lens(model, layers=[0, 2])
    lens = lens.with_quality(lr.lens_quality(lens, model, IDS, tokens=30))
    return lens.with_alignment(lr.lens_alignment(lens, model, UNEQUAL))


def test_it_is_kept_with_the_lens_and_its_results(measured_lens, tmp_path):
    model = tiny.shared("llama")
    alignment = measured_lens.quality.alignment
    path = tmp_path / "lens.safetensors"
    measured_lens.save(path)
    loaded = lr.load_lens(path, model=model)
    assert loaded.quality == measured_lens.quality
    result = lr.logit_lens(model, IDS[0], lens=loaded)
    assert result.lens.quality.alignment == alignment
    result.save(tmp_path / "result.json")
    again = lr.LensResult.load(tmp_path / "result.json")
    assert again.lens.quality.alignment == alignment
    assert alignment.at([0, 2]).verdict in result.summary()
    assert "alignment" in str(loaded.quality)
    assert "pushed on 6 prompts" in loaded.quality.summary()
    only = lr.logit_lens(model, IDS[0], layers=[2], lens=loaded)
    assert alignment.at([2]).verdict in only.summary()


def test_undefined_numbers_are_kept(measured_lens, tmp_path):
    silent = dataclasses.replace(
        measured_lens.quality.alignment,
        alignment={
            kind: dataclasses.replace(spread, mean=[float("nan")] * 2)
            for kind, spread in measured_lens.quality.alignment.alignment.items()
        },
    )
    lens = measured_lens.with_alignment(silent)
    lens.save(tmp_path / "lens.safetensors")
    loaded = lr.load_lens(tmp_path / "lens.safetensors")
    assert loaded.quality.alignment.is_silent.all()
    assert "announces nothing" in loaded.quality.summary()


def test_files_without_it_load_and_damaged_ones_are_refused(measured_lens):
    stored = json.loads(json.dumps(measured_lens.used().to_json()))
    assert UsedLens.from_json(stored).quality == measured_lens.quality
    damages = [
        (("layers",), [0, 0], "twice"),
        (("layers",), [0], "one number for each of 1"),
        (("alignment",), {}, "has not tokens"),
        (("drop",), None, "no means"),
        (("drop", "mean"), ["x", 1.0], "no such number"),
        (("alignment", "mean", "mean"), [7.0, 0.1], "no such number"),
        (("n_prompts",), -1, "whole number"),
        (("scale",), "1", "no number"),
        (("answer",), "all", "neither"),
        (("kind",), 3, "no text"),
    ]
    for path, value, words in damages:
        damaged = json.loads(json.dumps(stored))
        place = damaged["quality"]["alignment"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        with pytest.raises(ValueError, match=words):
            UsedLens.from_json(damaged)
    del stored["quality"]["alignment"]
    assert UsedLens.from_json(stored).quality.alignment is None


def test_the_figure_has_a_panel_where_it_was_measured(measured_lens):
    without = measured_lens.with_quality(dataclasses.replace(measured_lens.quality, alignment=None))
    assert "yaxis3" not in lr.lens_quality_figure(without).layout
    figure = lr.lens_quality_figure(measured_lens, without)
    assert figure.layout.yaxis3.title.text == "alignment"
    drawn = [trace for trace in figure.data if trace.yaxis == "y3" and trace.mode != "lines"]
    means = measured_lens.quality.alignment.alignment[MEAN].mean
    np.testing.assert_allclose(drawn[0].y, means)
    assert "with random pushes" in drawn[0].customdata[0]


# -- what is refused ---------------------------------------------------


def test_what_cannot_be_measured_is_said(measured_lens, llama):
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match="an interval over prompts takes at least 4"):
        lr.lens_alignment(None, model, IDS[:3])
    with pytest.raises(ValueError, match=r"no transport for \[1\]"):
        lr.lens_alignment(measured_lens, model, IDS, layers=[0, 1])
    with pytest.raises(lr.LensError, match="another model"):
        lr.lens_alignment(Lens("linear", {0: Affine(torch.eye(16))}), model, IDS)
    with pytest.raises(lr.LensError, match="not on a server"):
        lr.lens_alignment(None, llama, IDS, remote="local")
    wrong = [{"stimuli": 1}, {"scale": 0}, {"scale": float("nan")}, {"answer": 0}, {"seed": -1}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            lr.lens_alignment(None, model, IDS, **options)
    with pytest.raises(ValueError, match="this model has 101 tokens"):
        lr.lens_alignment(None, model, IDS, answer=102)
    other = random_lens(model, seed=9, layers=[0])
    with pytest.raises(ValueError, match="measure lens_alignment of this one"):
        other.with_alignment(measured_lens.quality.alignment)
    unmeasured = random_lens(model, layers=[0, 2])
    with pytest.raises(ValueError, match="begin with"):
        unmeasured.with_alignment(measured_lens.quality.alignment)


def test_a_shell_measures_it_and_the_fit_goes_on(cli, llama, tmp_path):
    corpus = tmp_path / "corpus.txt"
    text = "The quick brown fox jumps over the lazy dog, and then it writes a letter. "
    corpus.write_text("".join(f"{number} {text}\n" for number in range(60)), encoding="utf-8")
    out = tmp_path / "lens.safetensors"
    arguments = ("fit", "-o", str(out), "--texts", str(corpus), "--tokens", "1000", "--layers", "1")
    status, printed, err = cli(llama)(*arguments, "--alignment", "5")
    assert status == 0, err
    lens = lr.load_lens(out)
    assert lens.quality.alignment.n_prompts == 5
    assert printed == f"{lens.quality}\n"
    status, again, err = cli(llama)(*arguments)
    assert status == 0, err
    assert again == printed
    status, _, err = cli(llama)(*arguments, "--alignment", "5", "--quality-tokens", "0")
    assert status == 2
    assert "stands beside the quality" in err
    status, _, err = cli(llama)(*arguments, "--alignment", "3")
    assert status == 2
    assert "at least 4" in err
