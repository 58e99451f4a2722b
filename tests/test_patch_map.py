"""Patch maps: each cell is that of a plain hook, pairs are those one by one, and a map proves itself."""

from __future__ import annotations

import dataclasses
import json

import nnsight
import numpy as np
import pytest
import strict_local
import tiny
import torch

import lens_recipes as lr
from lens_recipes.arrays.statistics.resampling import expanded_tail
from lens_recipes.lenses.lens import Lens
from lens_recipes.recipes.patching import patch_map as module
from lens_recipes.recipes.patching.kept import goes_on_from_cache
from lens_recipes.run.registry import prepare_run
from lens_recipes.trace.edits import apply
from lens_recipes.trace.transport import Affine

FAMILIES = ["llama", "gpt2", "gemma2", "mamba", "falcon"]
CLEAN, CORRUPT = tiny.random_ids(batch=2, length=6, seed=3).tolist()
TARGET, AGAINST = 17, 55
NUMBERS = {"keep_all": True}  # random models prefer nothing


def logits_of(model, ids):
    """What the model itself says after the last token."""
    with torch.no_grad():
        return model._module(input_ids=torch.tensor([ids])).logits[0, -1]


def first(output):
    """The stream in what a module gave."""
    return output if torch.is_tensor(output) else output[0]


def swapped(output, stream):
    """What a module gave, with another stream."""
    return stream if torch.is_tensor(output) else (stream, *output[1:])


class Hooked:
    """A model of which one module's tensor is read in one run, and put into another."""

    def __init__(self, model, path, side, columns=None):
        self.model = model
        self.module = model._module.get_submodule(path)
        self.side = side
        self.columns = slice(None) if columns is None else list(columns)

    def hooks(self, act):
        if self.side == "in":
            return self.module.register_forward_pre_hook(
                lambda _module, args: (act(args[0]), *args[1:])
            )
        return self.module.register_forward_hook(
            lambda _module, _args, output: swapped(output, act(first(output)))
        )

    def read(self, ids):
        """The tensor of a run."""
        found = []
        handle = self.hooks(lambda tensor: found.append(tensor.clone()) or tensor)
        try:
            logits_of(self.model, ids)
        finally:
            handle.remove()
        return found[0].reshape(len(ids), -1)

    def patched(self, ids, source, places):
        """The logits with some tokens of the tensor put in, (source position, own position)."""

        def put(tensor):
            changed = tensor.clone()
            grid = changed.view(len(ids), -1)
            for there, here in places:
                grid[here, self.columns] = source[there, self.columns]
            return changed

        handle = self.hooks(put)
        try:
            return logits_of(self.model, ids)
        finally:
            handle.remove()


def point_of(model, unit, layer):
    """Where a plain hook reads and writes a unit of a layer whose module's tensor it is."""
    parts = lr.anatomy(model)
    if unit == "resid_post":
        return parts.block(layer), "out"
    if unit == "resid_pre":
        return parts.block(layer), "in"
    block = module.Request(model, [CLEAN]).blocks()[layer]
    component = "attn_out" if unit == "head_out" else unit
    (write,) = [write for write in block.writes if write.component == component]
    point = write.heads.point if unit == "head_out" else write.point
    return point.path, point.side


def hooked_diffs(model, unit, clean, corrupt):
    """Target − against with each cell of `unit` patched by a plain hook, `[layer, column]`."""
    parts = lr.anatomy(model)
    rows = []
    for layer in parts.layers:
        path, side = point_of(model, unit, layer)
        cells = [([(place, place)], None) for place in range(len(clean))]
        if unit == "head_out":
            heads = module.Request(model, [CLEAN]).blocks()[layer].writes
            columns = next(write.heads.columns for write in heads if write.heads is not None)
            whole = [(place, place) for place in range(len(clean))]
            cells = [(whole, own) for own in columns]
        row = []
        for places, own in cells:
            hooked = Hooked(model, path, side, own)
            logits = hooked.patched(corrupt, hooked.read(clean), places)
            row.append(float(logits[TARGET] - logits[AGAINST]))
        rows.append(row)
    return np.array(rows)


def expected_recovery(model, diffs, clean, corrupt):
    """The share of the difference between both runs."""
    ends = []
    for ids in (clean, corrupt):
        logits = logits_of(model, ids)
        ends.append(float(logits[TARGET] - logits[AGAINST]))
    return (diffs - ends[1]) / (ends[0] - ends[1])


@pytest.mark.parametrize("unit", ["resid_pre", "resid_post", "attn_out", "mlp_out", "head_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_cell_is_that_of_a_plain_hook(family, unit):
    model = tiny.shared(family)
    if family == "mamba" and unit in ("attn_out", "mlp_out", "head_out"):
        with pytest.raises(ValueError, match=f"has no {unit}"):
            lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit=unit, **NUMBERS)
        return
    found = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit=unit, **NUMBERS)
    diffs = hooked_diffs(model, unit, CLEAN, CORRUPT)
    np.testing.assert_allclose(found.logit_diffs[0], diffs, atol=1e-4)
    expected = expected_recovery(model, diffs, CLEAN, CORRUPT)
    np.testing.assert_allclose(found.mean, expected, atol=1e-4)
    assert found.proof.site_error < 1e-6
    assert found.proof.nothing_error < 1e-4
    assert found.proof.everything_error < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo"])
def test_the_middle_of_a_block_is_patched_by_what_is_added_before_it(family):
    """Patching resid_mid everywhere in a layer gives the source run, whatever is before it."""
    model = tiny.shared(family)
    source = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit="resid_mid", **NUMBERS)
    last = source.mean[-1]
    # Of the last layer, the last position alone is read; it is all that the answer is made of.
    np.testing.assert_allclose(last, [0] * (len(CLEAN) - 1) + [1], atol=1e-4)


def test_heads_are_patched_at_chosen_positions():
    model = tiny.shared("gpt2")
    found = lr.patch_map(
        model, CLEAN, CORRUPT, TARGET, AGAINST, unit="head_out", positions=[2, -1], **NUMBERS
    )
    (write,) = [w for w in module.Request(model, [CLEAN]).blocks()[1].writes if w.heads is not None]
    hooked = Hooked(model, *point_of(model, "head_out", 1), write.heads.columns[0])
    logits = hooked.patched(CORRUPT, hooked.read(CLEAN), [(2, 2), (5, 5)])
    diff = float(logits[TARGET] - logits[AGAINST])
    assert found.logit_diffs[0, 1, 0] == pytest.approx(diff, abs=1e-4)


def test_noise_is_the_map_of_the_other_direction():
    model = tiny.shared("llama")
    forth = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, **NUMBERS)
    back = lr.patch_map(model, CORRUPT, CLEAN, TARGET, AGAINST, direction="noise", **NUMBERS)
    np.testing.assert_allclose(back.mean, forth.mean, atol=1e-5)
    np.testing.assert_allclose(back.clean, forth.corrupt, atol=1e-5)


@pytest.mark.parametrize("metric", ["logprob", "prob", "rank"])
def test_each_metric_is_that_of_the_patched_run(metric):
    model = tiny.shared("gpt2")
    found = lr.patch_map(
        model, CLEAN, CORRUPT, TARGET, AGAINST, metric=metric, layers=[1], **NUMBERS
    )
    hooked = Hooked(model, *point_of(model, "resid_post", 1))
    source = hooked.read(CLEAN)
    for place in range(len(CLEAN)):
        logits = hooked.patched(CORRUPT, source, [(place, place)])
        logprobs = logits.log_softmax(-1)
        expected = {
            "logprob": logprobs[TARGET],
            "prob": logprobs[TARGET].exp(),
            "rank": (logits > logits[TARGET]).sum(),
        }[metric]
        assert found.values[0, 0, place] == pytest.approx(float(expected), abs=1e-4)


# -- many pairs ----------------------------------------------------------


def pairs_of(n_pairs, length=5, seed=11):
    """Random prompts of one length, clean and corrupt."""
    ids = tiny.random_ids(batch=2 * n_pairs, length=length, seed=seed).tolist()
    return ids[:n_pairs], ids[n_pairs:]


@pytest.mark.parametrize("unit", ["resid_post", "head_out", "layer_component"])
def test_pairs_together_are_those_one_by_one(unit):
    model = tiny.shared("llama")
    clean, corrupt = pairs_of(4)
    targets, others = [9, 21, 33, 60], [70, 80, 90, 50]
    together = lr.patch_map(model, clean, corrupt, targets, others, unit=unit, **NUMBERS)
    for pair in range(4):
        alone = lr.patch_map(
            model, clean[pair], corrupt[pair], targets[pair], others[pair], unit=unit, **NUMBERS
        )
        np.testing.assert_allclose(together.values[pair], alone.values[0], atol=1e-4)
        np.testing.assert_allclose(together.clean[pair], alone.clean[0], atol=1e-4)


def test_batches_of_any_size_give_the_same(monkeypatch):
    model = tiny.shared("llama")
    clean, corrupt = pairs_of(3)
    whole = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **NUMBERS)
    from lens_recipes.recipes.patching import batches

    for most in (1, 12, 40):
        monkeypatch.setattr(batches, "MAX_TOKENS", most)
        cut = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **NUMBERS)
        np.testing.assert_allclose(cut.values, whole.values, atol=1e-4)
    few_bytes = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, max_bytes=20_000, **NUMBERS)
    np.testing.assert_allclose(few_bytes.values, whole.values, atol=1e-4)


def batches_and_rows(model, monkeypatch, uses_cache):
    """A map, and how many tokens its patched rows ran."""
    monkeypatch.setattr(module, "goes_on_from_cache", lambda *_: uses_cache)
    options = (CLEAN, CORRUPT, TARGET, AGAINST)
    run = prepare_run(lr.patch_map, model, *options, **NUMBERS)
    n_tokens = sum(batch.inputs["input_ids"].numel() for batch in run.batches)
    return lr.patch_map(model, *options, **NUMBERS), n_tokens


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon", "qwen3"])
def test_rows_that_go_on_from_a_cache_are_those_of_whole_prompts(family, monkeypatch):
    model = tiny.shared(family)
    request = module.Request(model, [CORRUPT])
    assert goes_on_from_cache(request, [CORRUPT])
    cached, few = batches_and_rows(model, monkeypatch, True)
    whole, many = batches_and_rows(model, monkeypatch, False)
    np.testing.assert_allclose(cached.values, whole.values, atol=1e-4)
    assert few < 0.7 * many


@pytest.mark.parametrize("family", ["mamba", "rwkv", "recurrent_gemma"])
def test_a_recurrence_runs_whole_prompts(family):
    request = module.Request(tiny.shared(family), [CORRUPT])
    assert not goes_on_from_cache(request, [CORRUPT])


def test_pairs_of_other_preferences_are_left_out_with_reasons():
    model = tiny.shared("llama")
    clean, corrupt = pairs_of(6)
    everything = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, layers=[0], **NUMBERS)
    is_right = (everything.clean_diffs > 0) & (everything.corrupt_diffs < 0)
    assert 0 < is_right.sum() < 6
    chosen = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, layers=[0])
    assert chosen.pairs == np.flatnonzero(is_right).tolist()
    np.testing.assert_array_equal(chosen.values, everything.values[is_right])
    for item in chosen.left_out:
        run = "clean" if everything.clean_diffs[item.pair] <= 0 else "corrupt"
        assert f"in the {run} run the model does not prefer" in item.reason
    assert "left out, pair" in chosen.summary()
    wrong = int(np.flatnonzero(~is_right)[0])
    with pytest.raises(lr.LensError, match=r"no pair is left.*does not prefer.*keep_all=True"):
        lr.patch_map(model, clean[wrong], corrupt[wrong], TARGET, AGAINST, layers=[0])


# -- statistics ----------------------------------------------------------


def test_statistics_are_those_of_numpy():
    model = tiny.shared("llama")
    clean, corrupt = pairs_of(8)
    found = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **NUMBERS)
    base, source = found.corrupt[:, None, None], found.clean[:, None, None]
    recoveries = (found.values.astype(float) - base) / (source - base)
    np.testing.assert_allclose(found.recoveries, recoveries, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.mean, recoveries.mean(0), rtol=1e-4, atol=1e-6)
    error = recoveries.std(0, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-4, atol=1e-6)
    generator = np.random.default_rng(7)
    cell = recoveries[:, 1, 3]
    means = [generator.choice(cell, 8).mean() for _ in range(4000)]
    tail = 100 * expanded_tail(0.95, 8)
    low, high = np.percentile(means, [tail, 100 - tail])
    assert abs(found.interval.low[1, 3] - low) < 0.1 * (high - low)
    assert abs(found.interval.high[1, 3] - high) < 0.1 * (high - low)
    turned = np.sign(found.logit_diffs) != np.sign(found.corrupt_diffs)[:, None, None]
    np.testing.assert_allclose(found.flipped, turned.mean(0))


def test_a_single_pair_has_no_interval():
    found = lr.patch_map(tiny.shared("llama"), CLEAN, CORRUPT, TARGET, AGAINST, **NUMBERS)
    assert np.isnan(found.standard_error).all()
    assert np.isnan(found.interval.low).all()


# -- which token stands for which ----------------------------------------


def test_prompts_of_other_lengths_are_aligned_from_their_end():
    model = tiny.shared("llama")
    clean = CLEAN[1:]
    found = lr.patch_map(model, clean, CORRUPT, TARGET, AGAINST, align="end", layers=[1], **NUMBERS)
    assert found.columns == ["−5", "−4", "−3", "−2", "−1"]
    hooked = Hooked(model, *point_of(model, "resid_post", 1))
    source = hooked.read(clean)
    for column in range(5):
        logits = hooked.patched(CORRUPT, source, [(column, column + 1)])
        diff = float(logits[TARGET] - logits[AGAINST])
        assert found.logit_diffs[0, 0, column] == pytest.approx(diff, abs=1e-4)
    assert np.isnan(found.proof.everything_error)


@pytest.fixture(scope="module")
def text_model():
    """A tiny model that reads texts."""
    return lr.load(tiny.for_text("llama"), tokenizer=tiny.tiny_tokenizer())


def test_spans_are_columns_and_end_together(smollm2):
    pair = ("The capital of France is", "The capital of Great Britain is")
    spans = {"country": (" France", " Great Britain"), "rest": " is"}
    found = lr.patch_map(smollm2, *pair, " Paris", " London", align=spans, layers=[5, 20])
    assert found.columns == ["country", "rest"]
    clean, corrupt = (smollm2.tokenizer(text).input_ids for text in pair)
    assert len(corrupt) == len(clean) + 1
    hooked = Hooked(smollm2, *point_of(smollm2, "resid_post", 5))
    paris, london = (smollm2.tokenizer(word).input_ids[0] for word in (" Paris", " London"))
    # The last token of " Great Britain" takes that of " France".
    logits = hooked.patched(corrupt, hooked.read(clean), [(3, 4)])
    diff = float(logits[paris] - logits[london])
    assert found.logit_diffs[0, 0, 0] == pytest.approx(diff, abs=1e-3)


# -- what can do nothing -------------------------------------------------


def test_cells_that_can_do_nothing_are_known_and_do_nothing():
    model = tiny.shared("llama")
    corrupt = [*CLEAN[:3], *CORRUPT[3:]]
    found = lr.patch_map(model, CLEAN, corrupt, TARGET, AGAINST, **NUMBERS)
    expected = np.ones(found.mean.shape, dtype=bool)
    expected[:, :3] = False  # the same in both runs
    expected[-1, :-1] = False  # nothing reads it
    np.testing.assert_array_equal(found.is_causal, expected)
    np.testing.assert_allclose(found.mean[~expected], 0, atol=1e-5)
    assert np.abs(found.mean[expected]).min() > 1e-5
    before = lr.patch_map(model, CLEAN, corrupt, TARGET, AGAINST, unit="resid_pre", **NUMBERS)
    assert before.is_causal[-1, 3]


# -- what a lens reads of an inner layer ---------------------------------


def lens_diff(model, transport, ids, hooked=None, source=None, places=()):
    """Target − against under the lens after layer 2, in a run that a plain hook patches."""
    inner = Hooked(model, lr.anatomy(model).block(3), "in")  # after all that patches layer 2
    streams = []
    handle = inner.hooks(lambda tensor: streams.append(tensor.clone()) or tensor)
    try:
        logits_of(model, ids) if hooked is None else hooked.patched(ids, source, places)
    finally:
        handle.remove()
    last = streams[0].reshape(len(ids), -1)[-1:]
    head = lr.lens_head(model)
    with torch.no_grad(), model.trace(torch.tensor([ids])):
        logits = nnsight.save(head(transport(last)))
    return float(logits[0, TARGET] - logits[0, AGAINST])


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("family", "unit"), [("llama", "resid_post"), ("gemma2", "mlp_out")])
def test_the_metric_of_a_layer_is_what_its_lens_reads(family, unit, fitted):
    model = tiny.shared(family)
    lens, transport = None, lambda hidden: hidden
    if fitted:
        matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(4)) / 6
        lens = Lens("jacobian", {2: Affine(matrix)})
        transport = lambda hidden: hidden @ matrix.T  # noqa: E731
    options = {"unit": unit, "lens": lens, **NUMBERS}
    found = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, metric=lr.Site(2), **options)
    assert found.metric == "logit_diff at layer 2"
    expected = []
    for layer in range(4):
        path, side = point_of(model, unit, layer)
        hooked = Hooked(model, path, side)
        source = hooked.read(CLEAN)
        row = []
        for place in range(len(CLEAN)):
            row.append(lens_diff(model, transport, CORRUPT, hooked, source, [(place, place)]))
        expected.append(row)
    np.testing.assert_allclose(found.values[0], expected, atol=1e-4)
    np.testing.assert_allclose(found.clean[0], lens_diff(model, transport, CLEAN), atol=1e-4)
    np.testing.assert_allclose(found.corrupt[0], lens_diff(model, transport, CORRUPT), atol=1e-4)
    assert not found.is_causal[3].any()
    assert found.is_causal[0].all()
    again = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, metric=-2, **options)
    np.testing.assert_array_equal(again.values, found.values)


def test_a_map_of_a_layer_is_saved_and_read(tmp_path):
    model = tiny.shared("llama")
    found = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, metric=1, **NUMBERS)
    found.save(tmp_path / "map.json")
    assert lr.PatchMap.load(tmp_path / "map.json").metric == "logit_diff at layer 1"
    assert "logit_diff at layer 1" in found.summary()


# -- a map proves itself -------------------------------------------------


@pytest.mark.parametrize("unit", ["resid_pre", "resid_post", "attn_out", "head_out"])
def test_cells_that_are_not_patched_fail(unit, monkeypatch):
    monkeypatch.setattr(apply, "put_back", lambda *_: None)
    options = {"unit": unit, **NUMBERS}
    with pytest.raises(lr.LensError, match="a patched cell holds something else than was asked"):
        lr.patch_map(tiny.shared("llama"), CLEAN, CORRUPT, TARGET, AGAINST, **options)


@pytest.mark.parametrize(("unit", "path"), [("resid_post", ""), ("mlp_out", ".mlp")])
def test_cells_that_a_later_hook_undoes_fail(unit, path):
    """A hook takes one layer back to what it was at first, when nothing was patched."""
    model = lr.load(tiny.llama())
    own = {}

    def restore(_module, _args, output):
        stream = first(output)
        kept = own.setdefault(tuple(stream.shape[1:]), stream.clone())
        return swapped(output, kept[-1:].expand_as(stream).clone())

    lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit=unit, **NUMBERS)
    block = model._module.get_submodule(f"model.layers.1{path}")
    handle = block.register_forward_hook(restore)
    try:
        with pytest.raises(lr.LensError, match="proves wrong"):
            lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit=unit, **NUMBERS)
    finally:
        handle.remove()


# -- gradients -----------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "unit"),
    [
        ("llama", "resid_pre"),
        ("llama", "resid_mid"),
        ("gpt2", "resid_post"),
        ("gpt2", "head_out"),
        ("granite", "resid_mid"),
        ("granite", "mlp_out"),
        ("falcon", "layer_component"),
        ("mamba", "resid_post"),
    ],
)
def test_a_gradient_is_exact_for_tiny_differences(family, unit, monkeypatch):
    """Both runs are of the same prompt; what is copied is moved by very little."""
    model = tiny.shared(family)
    clean, corrupt = CLEAN, CORRUPT
    from lens_recipes.recipes.patching import gradient
    from lens_recipes.trace.edits import cells

    share = 1e-3
    copied = cells.copied_values

    def nearly_the_same(batch, values):
        """What is copied, moved most of the way to what is there."""
        near = {}
        for site, source in copied(batch, values).items():
            entry = batch.copies[site]
            base = whole[entry.read][entry.pairs, batch.edits.sites[site].columns + batch.n_before]
            near[site] = base + share * (source - base)
        return near

    run = prepare_run(lr.patch_map, model, corrupt, corrupt, TARGET, AGAINST, unit=unit, **NUMBERS)
    whole = trace_group(model, run).source
    monkeypatch.setattr(cells, "copied_values", nearly_the_same)
    monkeypatch.setattr(gradient, "copied_values", nearly_the_same)
    monkeypatch.setattr(module, "goes_on_from_cache", lambda *_: False)
    options = {"unit": unit, "strict": False, **NUMBERS}
    exact = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **options)
    rough = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, method="gradient", **options)
    change = exact.mean / share
    np.testing.assert_allclose(rough.mean / share, change, atol=0.03 * np.abs(change).max())
    assert rough.is_approximate


def trace_group(model, run):
    """What the unpatched runs of the first batch gave."""
    from lens_recipes.trace.edits.cells import read_group

    return read_group(model, run.plan, run.batches[0])


def test_the_largest_cells_of_an_approximation_are_run_exactly():
    model = tiny.shared("llama")
    clean, corrupt = pairs_of(3)
    rough = lr.patch_map(
        model, clean, corrupt, TARGET, AGAINST, method="gradient", verify=6, **NUMBERS
    )
    exact = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **NUMBERS)
    assert rough.verified.cells == rough.largest(6)
    for cell, proved, said in zip(
        rough.verified.cells, rough.verified.exact, rough.verified.approximate, strict=True
    ):
        assert proved == pytest.approx(exact.mean[cell], abs=1e-4)
        assert said == rough.mean[cell]
    expected = np.corrcoef(rough.verified.exact, rough.verified.approximate)[0, 1]
    assert rough.verified.correlation == pytest.approx(expected)
    for text in (str(rough), rough.summary(), repr(rough)):
        assert "APPROXIMATION" in text
    assert "APPROXIMATION" in lr.patch_heatmap(rough).layout.title.subtitle.text


def test_a_gradient_leaves_no_gradient_behind():
    model = tiny.shared("gpt2")
    lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, method="gradient", **NUMBERS)
    assert all(parameter.grad is None for parameter in model._module.parameters())


# -- views and files -----------------------------------------------------


@pytest.fixture(scope="module")
def of_pairs():
    """A map of several pairs."""
    clean, corrupt = pairs_of(6)
    return lr.patch_map(tiny.shared("llama"), clean, corrupt, TARGET, AGAINST, **NUMBERS)


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_file_gives_the_same_map(of_pairs, suffix, tmp_path):
    rough = lr.patch_map(
        tiny.shared("llama"),
        CLEAN,
        CORRUPT,
        TARGET,
        AGAINST,
        method="gradient",
        verify=3,
        **NUMBERS,
    )
    for number, saved in enumerate((of_pairs, rough)):
        path = tmp_path / f"{number}.{suffix}"
        saved.save(path)
        loaded = lr.PatchMap.load(path)
        for field in dataclasses.fields(saved):
            mine, theirs = getattr(saved, field.name), getattr(loaded, field.name)
            if isinstance(mine, np.ndarray):
                np.testing.assert_array_equal(theirs, mine)
                assert theirs.dtype == mine.dtype
            elif field.name not in ("proof", "verified", "provenance"):
                assert theirs == mine, field.name
        assert str(loaded.proof) == str(saved.proof)
        assert loaded.summary() == saved.summary()
        assert str(loaded) == str(saved)


DAMAGES = {
    "format": lambda content: content.update(format="lens-recipes/result"),
    "version": lambda content: content.update(version=2),
    "missing": lambda content: content.pop("targets"),
    "unit": lambda content: content.update(unit="tails"),
    "rows": lambda content: content["arrays"]["values"][0].pop(),
    "text": lambda content: content["arrays"].update(clean=["a"] * 4),
    "nan": lambda content: content["arrays"].update(clean=[None] * 4),
    "truth": lambda content: content["arrays"].update(is_causal=[[2] * 5] * 2),
    "left_out": lambda content: content.update(left_out=[[1]]),
    "proof": lambda content: content.update(proof={"site_error": "no"}),
    "verified": lambda content: content.update(
        verified={"cells": [[99, 0]], "exact": [1], "approximate": [1], "correlation": None}
    ),
    "prompts": lambda content: content.update(clean_prompts=["one"]),
    "pairs": lambda content: content.update(pairs=[-1, 2, 3, 4]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(of_pairs, damage, tmp_path):
    path = tmp_path / "map.json"
    of_pairs.save(path)
    content = json.loads(path.read_text())
    DAMAGES[damage](content)
    path.write_text(json.dumps(content))
    with pytest.raises(lr.LensError, match=r"patch map"):
        lr.PatchMap.load(path)


def test_other_files_are_refused(of_pairs, tmp_path):
    for suffix in ("json", "npz"):
        path = tmp_path / f"cut.{suffix}"
        of_pairs.save(path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(lr.LensError):
            lr.PatchMap.load(path)
        with pytest.raises(lr.LensError, match="no file"):
            lr.PatchMap.load(tmp_path / f"absent.{suffix}")
    with pytest.raises(ValueError, match=r"\.json or \.npz"):
        of_pairs.save(tmp_path / "map.csv")


def test_a_frame_has_every_cell_of_every_pair(of_pairs):
    frame = of_pairs.to_frame()
    assert len(frame) == of_pairs.values.size
    means = frame.groupby(["layer", "column"]).recovery.mean()
    assert means[(1, "3")] == pytest.approx(of_pairs.mean[1, 3])


def test_tables_have_the_largest_cells_or_all(of_pairs):
    text = of_pairs.table(show_top=3)
    for row, column in of_pairs.largest(3):
        assert of_pairs.cell_name(row, column) in text
    assert f"3 of {of_pairs.mean.size} cells" in text
    assert of_pairs.table(format="markdown").count("\n| ") == 12
    lines = of_pairs.table(format="tsv").splitlines()
    assert len(lines) == 1 + of_pairs.mean.size
    assert lr.table(of_pairs, show_top=3) == text
    with pytest.raises(lr.LensError, match="is not run again from its file"):
        lr.verify(of_pairs, tiny.shared("llama"))
    with pytest.raises(ValueError, match="accepted are"):
        of_pairs.table(format="csv")
    with pytest.raises(ValueError, match="show_top"):
        of_pairs.table(show_top=0)


def test_the_figure_has_the_means_and_shades_what_can_do_nothing():
    corrupt = [*CLEAN[:3], *CORRUPT[3:]]
    found = lr.patch_map(tiny.shared("llama"), CLEAN, corrupt, TARGET, AGAINST, **NUMBERS)
    figure = lr.patch_heatmap(found)
    cells, grey = figure.data
    drawn = np.array(cells.z, dtype=float)
    np.testing.assert_allclose(drawn[found.is_causal], found.mean[found.is_causal])
    assert np.isnan(drawn[~found.is_causal]).all()
    np.testing.assert_array_equal(np.isfinite(np.array(grey.z, dtype=float)), ~found.is_causal)
    assert "can do nothing" in grey.customdata[0][0]
    subtitle = figure.layout.title.subtitle.text
    assert "clean" in subtitle
    assert "corrupt" in subtitle
    with pytest.raises(TypeError, match="expected PatchMap"):
        lr.patch_heatmap("map")


def test_the_hover_of_several_pairs_has_the_interval(of_pairs):
    hover = lr.patch_heatmap(of_pairs).data[0].customdata[1][2]
    assert "95 % interval" in hover
    assert "6 pairs" in hover


# -- bad input -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean": CLEAN[1:]}, r'5 and 6 tokens.*align="end"'),
        ({"against": TARGET}, "are the same token"),
        ({"target": 10**6}, "unknown"),
        ({"target": [1, 2]}, "2 tokens as target for 1 pairs"),
        ({"against": None}, "needs two answers"),
        ({"clean": [CLEAN, CORRUPT]}, "2 clean prompts and 1 corrupt ones"),
        ({"unit": "tails"}, "unit='tails' is unknown"),
        ({"layers": 99}, "out of range"),
        ({"positions": 99}, "out of range"),
        ({"direction": "up"}, "direction='up' is unknown"),
        ({"metric": "bleu"}, "metric='bleu' is unknown"),
        ({"metric": 9}, "9"),
        ({"metric": lr.Site(1, "mlp_out")}, "reads the stream after a layer"),
        ({"lens": "some.safetensors"}, "reads the layer that metric= names"),
        ({"method": "guess"}, "method='guess' is unknown"),
        ({"align": "start"}, "align='start' is unknown"),
        ({"verify": 3}, 'goes with method="gradient"'),
        ({"verify": -1}, "must be a number of cells"),
        ({"method": "gradient", "metric": "rank"}, "has no gradient"),
        ({"align": {"subject": " x"}}, "without a tokenizer"),
        ({"max_bytes": 0}, "positive number of bytes"),
    ],
)
def test_bad_arguments_are_refused_in_words(change, words):
    arguments = {
        "clean": CLEAN,
        "corrupt": CORRUPT,
        "target": TARGET,
        "against": AGAINST,
        **NUMBERS,
        **change,
    }
    with pytest.raises(ValueError, match=words):
        lr.patch_map(tiny.shared("llama"), **arguments)


def test_pairs_of_several_lengths_need_an_alignment():
    clean, corrupt = [CLEAN, CLEAN[1:]], [CORRUPT, CORRUPT[1:]]
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match="no positions in common"):
        lr.patch_map(model, clean, corrupt, TARGET, AGAINST, **NUMBERS)
    heads = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, unit="head_out", **NUMBERS)
    assert len(heads.pairs) == 2
    ends = lr.patch_map(model, clean, corrupt, TARGET, AGAINST, align="end", **NUMBERS)
    assert ends.columns[-1] == "−1"
    assert len(ends.columns) == 5


def test_words_about_texts(smollm2):
    pair = ("The capital of France is", "The capital of Spain is")
    with pytest.raises(ValueError, match="target"):
        lr.patch_map(smollm2, *pair, " Parisian city", " Madrid")
    with pytest.raises(ValueError, match="does not occur in clean prompt 0"):
        lr.patch_map(smollm2, *pair, " Paris", " Madrid", align={"subject": " Italy"})
    with pytest.raises(ValueError, match="occurs 3 times"):
        lr.patch_map(smollm2, *pair, " Paris", " Madrid", align={"subject": "a"})
    with pytest.raises(ValueError, match="the spans are the positions"):
        lr.patch_map(smollm2, *pair, " Paris", " Madrid", align={"end": " is"}, positions=[0])


# -- on a server ---------------------------------------------------------


def test_a_map_travels(text_model, monkeypatch):
    strict_local.install(monkeypatch, "lens_recipes", "jaxtyping")
    texts = ("abc abd abe", "abc abf abe")
    options = {"unit": "resid_pre", **NUMBERS}
    here = lr.patch_map(text_model, *texts, 9, 21, align="end", **options)
    there = lr.patch_map(text_model, *texts, 9, 21, align="end", remote="local", **options)
    np.testing.assert_allclose(there.values, here.values, atol=1e-4)
    said = lr.estimate(lr.patch_map, text_model, *texts, 9, 21, align="end", **options)
    assert said.jobs == 1
    with pytest.raises(lr.LensError, match="backward pass"):
        lr.patch_map(text_model, *texts, 9, 21, method="gradient", remote="local", **options)
