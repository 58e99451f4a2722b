"""A lens that is fitted: what it is in closed form, where it is exact, and that it can be stopped at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import strict_local
import tiny
import torch
from tiny import FAMILIES, shared

import lens_recipes as lr
from lens_recipes.lenses.digests import starts_with_bos
from lens_recipes.lenses.solve.linear import RIDGES, lowest, solve_linear
from lens_recipes.lenses.solve.solution import Solution
from lens_recipes.recipes.lenses import fit as fitting
from lens_recipes.recipes.lenses import prepare as preparing
from lens_recipes.recipes.lenses import state
from lens_recipes.recipes.lenses.estimators import kinds, linear
from lens_recipes.recipes.lenses.estimators.estimator import Estimator
from lens_recipes.recipes.lenses.estimators.jacobian import PromptJacobians
from lens_recipes.recipes.lenses.text import texts as reading
from lens_recipes.recipes.lenses.text.rows import ROW_LENGTH, make_row, split_rows
from lens_recipes.recipes.lenses.text.samples import ending_tokens, write_rows
from lens_recipes.recipes.lenses.text.texts import rows_of_texts
from lens_recipes.run.recipe import perform
from lens_recipes.trace.fit.streams import ProductSums
from lens_recipes.trace.transport import Affine

ROWS = tiny.random_ids(48, 20, seed=3).tolist()
TEXT = "The quick brown fox jumps over the lazy dog, and then it writes a letter. "


def rows_of(model, n_rows=48, length=20, seed=3):
    """Rows of ids that any model of the tests takes."""
    n_ids = lr.anatomy(model).n_embeddings
    return tiny.random_ids(n_rows, length, seed, vocab_size=min(n_ids, tiny.VOCAB)).tolist()


def assert_same_lens(one, other, atol=0.0):
    """The same transports."""
    assert one.layers == other.layers
    for layer in one.layers:
        for mine, theirs in zip(
            one.transports[layer][:2], other.transports[layer][:2], strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


def streams_of(model, rows):
    """The streams of rows of one length: before block 0, after each block; `[token, d_model]`, in float64."""
    ids = torch.tensor(rows)
    parts = lr.anatomy(model)
    found = {}
    hooks = []
    for layer in parts.layers:
        block = model.get(parts.block(layer))._module

        def keep(module, inputs, output, layer=layer):
            stream = output if isinstance(output, torch.Tensor) else output[0]
            found[layer] = stream.detach().flatten(0, 1).double()

        hooks.append(block.register_forward_hook(keep))
    first = model.get(parts.block(parts.layers[0]))._module

    def keep_first(module, inputs):
        found[-1] = inputs[0].detach().flatten(0, 1).double()

    hooks.append(first.register_forward_pre_hook(keep_first))
    with torch.no_grad():
        model._module(ids)
    for hook in hooks:
        hook.remove()
    return found


# -- the closed form ---------------------------------------------------


def test_the_lens_is_the_weighted_ridge_regression():
    model = shared("llama")
    lens = lr.fit_lens(model, ROWS, tokens=10_000)
    fitted = [row.ids.tolist() for row in split_rows([make_row(ids) for ids in ROWS]).fitted]
    streams = streams_of(model, fitted)
    y = streams[3]
    root = (1 / (y**2).mean(-1, keepdim=True)).sqrt()
    for layer in lens.layers:
        x = streams[layer]
        weight = root**2
        centre = (weight * x).sum(0) / weight.sum()
        scale = float((weight * (x - centre) ** 2).sum(0).mean())
        ridge = lens.record.settings["ridge"][str(layer)] * scale
        # The same problem as one of plain least squares: a column of ones, a row for each ridge.
        inputs = torch.cat([root * x, root], 1)
        penalty = torch.cat([torch.eye(32).double() * ridge**0.5, torch.zeros(32, 1)], 1)
        expected = torch.linalg.lstsq(
            torch.cat([inputs, penalty]), torch.cat([root * y, torch.zeros(32, 32)]), driver="gelsd"
        ).solution
        transport = lens.transports[layer]
        size = float(expected[:-1].abs().max())
        assert (transport.weight.T - expected[:-1]).abs().max() < 1e-4 * size, layer
        assert (transport.bias - expected[-1]).abs().max() < 1e-4 * max(size, 1), layer
    assert lens.layers == [-1, 0, 1, 2]
    assert lens.record.n_tokens == sum(map(len, fitted))


def test_the_ridge_is_the_one_with_which_each_half_predicts_the_other_best():
    def error(ridge: float, layer: int) -> float:
        crossed = 0.0
        for mine, theirs in ((halves[0], halves[1]), (halves[1], halves[0])):
            y, x, w = mine[3], mine[layer], 1 / (mine[3] ** 2).mean(-1, keepdim=True)
            mx, my = (w * x).sum(0) / w.sum(), (w * y).sum(0) / w.sum()
            gram = (w * (x - mx)).T @ (x - mx) + ridge * torch.eye(32).double()
            matrix = torch.linalg.solve(gram, (w * (x - mx)).T @ (y - my))
            y, x, w = theirs[3], theirs[layer], 1 / (theirs[3] ** 2).mean(-1, keepdim=True)
            rest = y - my - (x - mx) @ matrix
            centred = y - (w * y).sum(0) / w.sum()
            crossed += float((w * rest**2).sum() / (w * centred**2).sum())
        return crossed

    model = shared("gpt2")
    lens = lr.fit_lens(model, ROWS, tokens=10_000, layers=[0, 2], quality_tokens=0)
    sets = split_rows([make_row(ids) for ids in ROWS])
    halves = [streams_of(model, [row.ids.tolist() for row in half]) for half in (sets.a, sets.b)]
    both = streams_of(model, [row.ids.tolist() for row in sets.fitted])
    for layer in (0, 2):
        w = 1 / (both[3] ** 2).mean(-1, keepdim=True)
        centre = (w * both[layer]).sum(0) / w.sum()
        scale = float((w * (both[layer] - centre) ** 2).sum(0).mean())
        best = min(RIDGES, key=lambda ridge: error(ridge * scale, layer))
        assert lens.record.settings["ridge"][str(layer)] == best


def test_the_search_finds_the_lowest_place_from_anywhere():
    values = [9.0, 7.0, 4.0, 3.0, 5.0, float("inf")]
    for start in range(len(values)):
        assert lowest(values.__getitem__, start, len(values)) == 3
    assert lowest([3.0, 2.0, 1.0].__getitem__, 0, 3) == 2


# -- where it is exact -------------------------------------------------


def test_it_is_exact_where_what_follows_is_linear():
    module = FAMILIES["llama"]()
    blocks = module.model.layers
    for layer in (2, 3):
        blocks[layer] = LinearBlock(32, layer)
    model = lr.load(module)
    lens = lr.fit_lens(model, rows_of(model), tokens=10_000)
    place = lens.quality.layers.index(1)
    assert lens.quality.kl[place] < 1e-4
    assert lens.quality.agreement[place] == 1
    assert lens.quality.kl[place + 1] < 1e-4  # of block 2, too
    assert lens.quality.kl[place - 1] > 0.1  # block 1 is not linear
    assert lens.quality.logit_kl[place] > 0.1
    expected = blocks[3].matrix @ blocks[2].matrix
    assert (lens.transports[1].weight - expected).abs().max() < 1e-3


class LinearBlock(torch.nn.Module):
    """A block that is a linear map of its stream, and a constant."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.linear = torch.nn.Linear(width, width)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(width, width, generator=generator) / width**0.5)
            self.linear.bias.copy_(torch.randn(width, generator=generator) / 4)

    @property
    def matrix(self):
        return self.linear.weight.detach()

    def forward(self, hidden_states, *args, **kwargs):
        return self.linear(hidden_states)


# -- how it is computed ------------------------------------------------


def test_the_sums_do_not_depend_on_how_rows_are_batched(monkeypatch):
    model = shared("llama")
    expected = lr.fit_lens(model, ROWS, tokens=10_000, quality_tokens=0)
    monkeypatch.setattr(linear, "PASS_TOKENS", 20)
    monkeypatch.setattr(linear, "BATCH_TOKENS", 40)
    actual = lr.fit_lens(model, ROWS, tokens=10_000, quality_tokens=0)
    assert {*expected.sums} == {*actual.sums}
    for name, value in expected.sums.items():
        size = float(value.abs().max())
        torch.testing.assert_close(actual.sums[name], value, rtol=0, atol=1e-6 * size)


def test_rows_of_several_lengths_give_what_each_gives_alone():
    model = shared("llama")
    rows = [tiny.random_ids(1, 5 + number % 11, seed=number)[0].tolist() for number in range(40)]
    lens = lr.fit_lens(model, rows, tokens=10_000, quality_tokens=0)
    fitted = split_rows([make_row(ids) for ids in rows]).fitted
    total = 0.0
    for row in fitted:
        streams = streams_of(model, [row.ids.tolist()])
        total += streams[1].T / (streams[3] ** 2).mean(-1) @ streams[3]
    summed = lens.sums["a.xy"][lens.layers.index(1)] + lens.sums["b.xy"][lens.layers.index(1)]
    torch.testing.assert_close(summed, total, rtol=0, atol=1e-5 * float(total.abs().max()))


def test_a_massive_activation_does_not_drown_the_others():
    """A token whose stream is ten thousand times as large, as the first of a text often is."""
    sums = linear_sums(outlier=1e4)
    plain = linear_sums(outlier=1.0)
    lens = solve_linear(sums, [0])
    expected = solve_linear(plain, [0])
    matrix = lens.transports[0].weight[1:, 1:]
    torch.testing.assert_close(matrix, expected.transports[0].weight[1:, 1:], rtol=0, atol=2e-3)


def linear_sums(outlier: float):
    """Sums of random streams of which the final one is a linear map, with one large dimension of some tokens."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 16, generator=generator) / 4
    matrix[0], matrix[:, 0] = 0, 0
    matrix[0, 0] = 1
    sums = {}
    for half in "ab":
        x = torch.randn(512, 16, generator=generator)
        x[::128, 0] *= outlier
        products = ProductSums(1)
        products.add([x, x @ matrix + 0.01 * torch.randn(512, 16, generator=generator)])
        for name, value in products.on_cpu().items():
            sums[f"{half}.{name}"] = value.double()
    return sums


def test_memory_does_not_grow_with_the_text(monkeypatch):
    """No array is larger in a long fit than in a short one."""
    sizes = []

    def noted(model, plan, batch):
        sums = original(model, plan, batch)
        sizes.append((batch.n_tokens, sum(value.numel() for value in sums.values())))
        return sums

    original = linear.add_streams
    monkeypatch.setattr(linear, "add_streams", noted)
    monkeypatch.setattr(linear, "BATCH_TOKENS", 200)
    largest = []
    for n_rows in (24, 96):
        sizes.clear()
        rows = tiny.random_ids(n_rows, 20, seed=5).tolist()
        lens = lr.fit_lens(shared("llama"), rows, tokens=100_000, quality_tokens=0)
        held = sum(value.numel() for name, value in lens.sums.items() if name != "rows")
        largest.append((max(tokens for tokens, _ in sizes), {size for _, size in sizes}, held))
    assert largest[0] == largest[1]
    assert largest[0][0] <= 200


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_fitted(family):
    model = shared(family)
    n_tokens = min(16, lr.anatomy(model).n_positions or 16)
    rows = rows_of(model, n_rows=24, length=n_tokens)
    lens = lr.fit_lens(model, rows, tokens=10_000, quality_tokens=24)
    parts = lr.anatomy(model)
    assert lens.layers == [-1, *parts.layers[:-1]]
    assert lens.quality.n_tokens > 8
    assert np.isfinite(lens.quality.kl).all()
    # Of so few tokens nothing follows but this: the last one is nearer than a guess.
    assert lens.kind == "linear"
    assert lens.record.target_layer == parts.last_layer


def test_a_rehearsal_of_a_server_gives_the_same_lens(monkeypatch, llama):
    strict_local.install(monkeypatch, "lens_recipes")
    texts = [TEXT * 3 + str(number) for number in range(24)]
    here = lr.fit_lens(llama, texts, layers=[0, "embed", 2], tokens=10_000)
    there = lr.fit_lens(llama, texts, layers=[0, "embed", 2], tokens=10_000, remote="local")
    assert here.layers == [-1, 0, 2]
    assert_same_lens(here, there, atol=1e-5)
    np.testing.assert_allclose(here.quality.kl, there.quality.kl, atol=1e-4)
    measured = lr.lens_quality(here, llama, texts, remote="local")
    np.testing.assert_allclose(measured.kl, lr.lens_quality(here, llama, texts).kl, atol=1e-4)


# -- its own text ------------------------------------------------------


def test_own_text_follows_the_seed_and_leaves_torchs_generator_alone(llama):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = lr.fit_lens(llama, tokens=600, seed=1, quality_tokens=0)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(8)
    again = lr.fit_lens(llama, tokens=600, seed=1, quality_tokens=0)
    other = lr.fit_lens(llama, tokens=600, seed=2, quality_tokens=0)
    assert first.digest == again.digest
    assert first.digest != other.digest
    assert not torch.isin(first.sums["rows"], other.sums["rows"]).any()
    shards = [
        lr.fit_lens(llama, tokens=600, seed=1, shard=(n, 2), quality_tokens=0) for n in (1, 2)
    ]
    assert not torch.isin(shards[0].sums["rows"], shards[1].sums["rows"]).any()
    assert first.record.text == "text that the model wrote"
    assert first.record.starts_with_bos is False


def test_own_text_is_drawn_from_what_the_model_says(llama):
    rows = write_rows(llama, 4000, 2, seed=0)
    first = rows[0, 0]
    assert (rows[:, 0] == first).all()
    with torch.no_grad():
        logits = llama._module(first.view(1, 1)).logits[0, -1]
    logits[ending_tokens(llama)] = -torch.inf
    probs = logits.softmax(-1)
    counts = torch.bincount(rows[:, 1], minlength=len(probs)) / len(rows)
    assert (counts - probs).abs().max() < 4 * (0.25 / 4000) ** 0.5
    assert counts[probs == 0].sum() == 0


# -- stopped and gone on -----------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import tiny
import lens_recipes as lr
from lens_recipes.recipes.lenses import state
from lens_recipes.recipes.lenses.estimators import kinds, linear
from lens_recipes.recipes.lenses.estimators.estimator import Estimator

linear.BATCH_TOKENS = 60
state.SAVED_EVERY_S = 0.0
save = state.FitState.save

def save_and_die(self):
    save(self)
    if self.n_done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

state.FitState.save = save_and_die
rows = tiny.random_ids(48, 20, seed=3).tolist()
lr.fit_lens(tiny.shared("llama"), rows, tokens=10_000, path={path!r})
"""


def test_a_fit_that_was_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "BATCH_TOKENS", 60)
    path = tmp_path / "lens.safetensors"
    script = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), path=str(path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    run: list[int] = []
    original = linear.add_streams

    def counted(model, plan, batch):
        run.append(batch.n_tokens)
        return original(model, plan, batch)

    monkeypatch.setattr(linear, "add_streams", counted)
    model = shared("llama")
    whole = lr.fit_lens(model, ROWS, tokens=10_000)
    n_batches = len(run)
    run.clear()
    resumed = lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    assert len(run) == n_batches - 3
    assert resumed.digest == whole.digest
    assert resumed.quality == whole.quality
    for name, value in whole.sums.items():
        assert torch.equal(resumed.sums[name], value), name


@pytest.fixture
def interrupting(monkeypatch):
    """Ctrl-C as soon as so many batches are added up."""

    def install(after: int):
        calls: list[int] = []
        original = linear.add_streams

        def interrupted(model, plan, batch):
            if len(calls) == after:
                monkeypatch.setattr(linear, "add_streams", original)
                signal.raise_signal(signal.SIGINT)
            calls.append(batch.n_tokens)
            return original(model, plan, batch)

        monkeypatch.setattr(linear, "add_streams", interrupted)
        return calls

    monkeypatch.setattr(linear, "BATCH_TOKENS", 60)
    return install


def test_ctrl_c_keeps_what_was_added_up(interrupting, tmp_path):
    path = tmp_path / "lens.safetensors"
    model = shared("llama")
    whole = lr.fit_lens(model, ROWS, tokens=10_000)
    calls = interrupting(after=2)
    with pytest.raises(KeyboardInterrupt, match=r"lens\.safetensors' holds the sums of 2 batches"):
        lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    assert len(calls) == 2
    assert (
        state.FitState(path, fitting.prepare_fit(model, ROWS, tokens=10_000).identity).n_done == 2
    )
    resumed = lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    assert resumed.digest == whole.digest
    interrupting(after=0)
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        lr.fit_lens(model, ROWS, tokens=10_000)


def test_ctrl_c_while_sums_are_added_waits(monkeypatch, tmp_path):
    fit = state.FitState(None, {})

    class Interrupting(dict):
        def items(self):
            for number, item in enumerate(super().items()):
                yield item
                if number == 0:
                    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit.add(Interrupting(x=torch.ones(2), y=torch.ones(3)))
    assert {*fit.sums} == {"x", "y"}
    assert fit.n_done == 1


def test_what_the_model_wrote_is_kept_too(monkeypatch, tmp_path, llama):
    path = tmp_path / "lens.safetensors"
    whole = lr.fit_lens(llama, tokens=9_000)
    written = []
    original = fitting.written_rows.__globals__["write_rows"]

    def interrupted(model, n_rows, length, seed):
        if len(written) == 2:
            signal.raise_signal(signal.SIGINT)
        written.append(seed)
        return original(model, n_rows, length, seed)

    monkeypatch.setitem(fitting.written_rows.__globals__, "write_rows", interrupted)
    with pytest.raises(KeyboardInterrupt, match="go on"):
        lr.fit_lens(llama, tokens=9_000, path=path)
    assert len(written) == 2
    monkeypatch.setitem(fitting.written_rows.__globals__, "write_rows", original)
    resumed = lr.fit_lens(llama, tokens=9_000, path=path)
    assert resumed.digest == whole.digest


def test_a_finished_fit_is_loaded_at_once(tmp_path, monkeypatch):
    path = tmp_path / "lens.safetensors"
    model = shared("llama")
    fitted = lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    monkeypatch.setattr(linear, "add_streams", None)
    again = lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    assert again.digest == fitted.digest
    assert again.quality == fitted.quality
    assert again.record == fitted.record
    assert again.source == str(path)
    for name, value in fitted.sums.items():
        assert torch.equal(again.sums[name], value)


def test_the_file_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "lens.safetensors"
    model = shared("llama")
    lr.fit_lens(model, ROWS, tokens=10_000, path=path, quality_tokens=0)
    before = path.read_bytes()
    cases = {
        "text ": {"texts": ROWS[1:]},
        "seed 0 there, 1 here": {"seed": 1},
        "layers": {"layers": [0, 1]},
        "number of tokens 10000 there, 100 here": {"tokens": 100},
    }
    for words, changed in cases.items():
        options = {"texts": ROWS, "tokens": 10_000, **changed}
        with pytest.raises(lr.LensError, match=words):
            lr.fit_lens(model, path=path, **options)
    other = lr.load(FAMILIES["llama"](seed=5))
    with pytest.raises(lr.LensError, match="holds another fit"):
        lr.fit_lens(other, ROWS, tokens=10_000, path=path)
    assert path.read_bytes() == before
    path.write_text("not a lens")
    with pytest.raises(lr.LensError, match="no file of a fit"):
        lr.fit_lens(model, ROWS, tokens=10_000, path=path)
    with pytest.raises(lr.LensError, match="cannot write"):
        lr.fit_lens(model, ROWS, tokens=10_000, path=tmp_path / "nowhere" / "lens.safetensors")


# -- texts -------------------------------------------------------------


def test_texts_come_in_many_forms_and_are_the_same(tmp_path, llama):
    texts = [f"{number}. {TEXT}" for number in range(40)]
    expected = lr.fit_lens(llama, texts, tokens=10_000, quality_tokens=0)
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    strings = tmp_path / "strings.jsonl"
    strings.write_text("".join(json.dumps(text) + "\n" for text in texts))
    ids = [llama.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    forms = {
        "generator": (iter(texts), None),
        "dicts": ([{"text": text, "other": 1} for text in texts], None),
        "column": ([{"body": text, "text": "no"} for text in texts], "body"),
        "only column": ([{"body": text} for text in texts], None),
        "lines": (lines, None),
        "strings": (str(strings), None),
        "ids": (ids, None),
        "array": ([np.array(row) for row in ids], None),
    }
    for name, (form, column) in forms.items():
        lens = lr.fit_lens(llama, form, column=column, tokens=10_000, quality_tokens=0)
        assert lens.digest == expected.digest, name
    assert lr.fit_lens(llama, lines, tokens=500, quality_tokens=0).record.text == "texts.jsonl"


def test_a_text_file_is_read_as_far_as_it_is_needed(tmp_path, llama, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_CHARACTERS", 1000)
    path = tmp_path / "long.txt"
    path.write_text("".join(f"{number} {TEXT}\n" for number in range(2000)), encoding="utf-8")
    read = []
    original = reading.ids_of
    monkeypatch.setattr(
        reading,
        "ids_of",
        lambda text, tokenizer: read.append(len(text)) or original(text, tokenizer),
    )
    lens = lr.fit_lens(llama, path, tokens=1500, quality_tokens=0)
    assert 800 < lens.record.n_tokens <= 1500 + ROW_LENGTH
    assert sum(read) < path.stat().st_size / 5
    assert lens.record.text == "long.txt"


def test_a_row_that_is_said_twice_counts_once(llama):
    texts = [f"{number}. {TEXT}" for number in range(20)]
    once = lr.fit_lens(llama, texts, tokens=10_000, quality_tokens=0)
    twice = lr.fit_lens(llama, texts + texts[:7], tokens=10_000, quality_tokens=0)
    assert once.digest == twice.digest


def test_rows_begin_with_bos_where_the_tokenizer_begins_texts_so():
    class Adding:
        bos_token_id = 1

        def __call__(self, text, add_special_tokens=True):
            ids = [10 + ord(letter) % 50 for letter in text]
            return type("Encoding", (), {"input_ids": [1, *ids] if add_special_tokens else ids})

    assert starts_with_bos(SimpleNamespace(tokenizer=Adding()))
    rows = list(rows_of_texts(["abcdefghij"], Adding(), 4, starts_with_bos=True))
    assert [len(row.ids) for row in rows] == [4, 4, 4, 2]
    assert all(int(row.ids[0]) == 1 for row in rows)


# -- what is refused ---------------------------------------------------


def test_what_cannot_be_fitted_is_said_in_a_sentence(tmp_path, llama):
    model = shared("llama")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{oops\n')
    cases = [
        ({"texts": "no such file"}, "no such file"),
        ({"texts": 7}, "accepted are an iterable of strings"),
        ({"texts": [{"a": "x", "b": "y"}]}, "no column 'text'; the columns are a, b"),
        ({"texts": [3.5]}, "strings and lists of token ids"),
        ({"texts": []}, "received no text"),
        ({"texts": [""]}, "received no text"),
        ({"texts": binary}, "no text in UTF-8"),
        ({"texts": broken}, "line 2 .* is no JSON"),
        ({"texts": [[5000, 7, 8]]}, "the id 5000"),
        ({"tokens": 0}, "tokens=0 must be a whole number from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"kind": "cubic"}, "kind='cubic' must be one of linear"),
        ({"shard": (4, 3)}, "two whole numbers i and n"),
        ({"shard": "3/16"}, "two whole numbers i and n"),
        ({"layers": [9]}, "9"),
        ({"layers": [3]}, "leaves nothing to fit"),
        ({"width": 5}, 'kind="linear" has no setting width; accepted are: none'),
        ({"kind": "tuned", "width": 5}, "accepted are: steps, tokens_per_step"),
        ({"kind": "jacobian", "layers": ["embed"]}, "no transport of the stream before block 0"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            lr.fit_lens(llama, **{"texts": [TEXT * 9], **options})
    with pytest.raises(ValueError, match="without a tokenizer"):
        lr.fit_lens(model, [TEXT])
    infinite = lr.load(FAMILIES["llama"]())
    with torch.no_grad():
        infinite._module.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(lr.LensError, match="not finite"):
        lr.fit_lens(infinite, ROWS)


def test_a_model_that_cannot_write_asks_for_text():
    model = lr.load(FAMILIES["gpt2"]())
    model._module.can_generate = lambda: False
    with pytest.raises(lr.LensError, match="cannot write text of its own"):
        lr.fit_lens(model)


# -- what it is worth --------------------------------------------------


def test_the_quality_is_that_of_the_rows_that_were_held_out():
    model = shared("llama")
    lens = lr.fit_lens(model, ROWS, tokens=10_000, quality_tokens=1000)
    held = split_rows([make_row(ids) for ids in ROWS]).held_out
    assert held
    assert not {row.key for row in held} & {*lens.sums["rows"].tolist()}
    head = lr.lens_head(model)
    logit_kl, kl = [[] for _ in lens.layers], [[] for _ in lens.layers]
    for row in held:
        streams = streams_of(model, [row.ids.tolist()])
        with torch.no_grad():
            own = model._module(row.ids[None].long()).logits[0, 1:].log_softmax(-1)
            for index, layer in enumerate(lens.layers):
                stream = streams[layer].float()[1:]
                for kept, vectors in (
                    (logit_kl, stream),
                    (kl, lens.transports[layer].transform_hidden(stream)),
                ):
                    said = head(vectors).log_softmax(-1)
                    kept[index].append((own.exp() * (own - said)).sum(-1))
    assert lens.quality.n_tokens == sum(len(row.ids) - 1 for row in held)
    for index in range(len(lens.layers)):
        assert lens.quality.kl[index] == pytest.approx(float(torch.cat(kl[index]).mean()), abs=1e-4)
        expected = float(torch.cat(logit_kl[index]).mean())
        assert lens.quality.logit_kl[index] == pytest.approx(expected, abs=1e-4)
    assert len(lens.quality.refit_kl) == 2
    again = lr.lens_quality(lens, model, [row.ids for row in held], tokens=1000)
    np.testing.assert_allclose(again.kl, lens.quality.kl, atol=1e-5)
    np.testing.assert_allclose(again.agreement, lens.quality.agreement, atol=1e-9)
    assert again.refit_kl == []


def test_a_lens_of_a_changed_model_is_found_out():
    model = shared("llama")
    lens = lr.fit_lens(model, ROWS, tokens=10_000)
    changed = lr.load(FAMILIES["llama"]())
    with torch.no_grad():
        for block in changed._module.model.layers[2:]:
            block.mlp.down_proj.weight.neg_()
    here = lr.lens_quality(lens, model, ROWS)
    there = lr.lens_quality(lens, changed, ROWS)
    assert there.kl[-1] > here.kl[-1]
    narrow = lr.fit_lens(model, ROWS, tokens=10_000, layers=[1])
    with pytest.raises(lr.LensError, match="another model"):
        lr.lens_quality(wider(narrow), model, ROWS)
    with pytest.raises(ValueError, match="no text to measure"):
        lr.lens_quality(lens, model, [[7]])


def wider(lens):
    """A lens for vectors of another width."""
    return dataclasses.replace(lens, transports={1: Affine(torch.eye(64))})


# -- what it costs -----------------------------------------------------


def test_an_estimate_says_how_long_a_fit_takes(llama):
    said = lr.estimate(lr.fit_lens, llama, tokens=3_000)
    assert said.seconds is not None
    assert 0 < said.seconds < 60
    assert "here about" in str(said)
    assert said.recipe == "fit_lens"
    assert said.tokens == pytest.approx(3_000, rel=0.2)
    texts = (f"{number}. {TEXT}" for number in range(40))
    of_texts = lr.estimate(lr.fit_lens, llama, texts, tokens=1_000)
    assert of_texts.tokens == pytest.approx(1_000, rel=0.2)
    assert of_texts.bytes_back > 4 * 4 * 2 * 32 * 32
    assert lr.estimate(lr.logit_lens, llama, TEXT).seconds is None


def test_a_fit_can_be_submitted_as_a_run(llama, monkeypatch):
    """What `submit` sends and finishes is the same lens: all batches as one run."""
    texts = [f"{number}. {TEXT}" for number in range(40)]
    run = lr.fit_lens.prepare(llama, texts, tokens=10_000, remote="local")
    there = perform(run)
    assert there.digest == lr.fit_lens(llama, texts, tokens=10_000, remote="local").digest
    assert there.quality is not None
    with pytest.raises(lr.LensError, match="call fit_lens"):
        perform(lr.fit_lens.prepare(llama, tokens=200))


# -- another kind ------------------------------------------------------


class Scaled(Estimator):
    """A kind that multiplies each stream by one number, as an example of what a kind is."""

    kind = "tuned"
    first_position = 2

    def batches(self, rows):
        return list(rows)

    def n_tokens(self, batch):
        return len(batch.ids)

    def sums_of(self, batch):
        with torch.no_grad():
            found = streams_of(self.task.request.model, [batch.ids.tolist()])
        last = found[self.task.request.anatomy.last_layer]
        return {
            "xy": torch.stack([(found[layer] * last).sum() for layer in self.task.layers]),
            "xx": torch.stack([(found[layer] ** 2).sum() for layer in self.task.layers]),
        }

    def run(self, batches):
        raise NotImplementedError

    def seconds(self, batches):
        return 0.0

    def solution(self, sums, rows):
        assert len(rows.fitted) > 10
        factors = (sums["a.xy"] + sums["b.xy"]) / (sums["a.xx"] + sums["b.xx"])
        transports = {}
        for layer, factor in zip(self.task.layers, factors, strict=True):
            transports[layer] = Affine(torch.eye(32) * float(factor))
        return Solution(transports, [], {"steps": 1})


def test_another_kind_of_lens_plugs_in(monkeypatch, tmp_path, llama):
    monkeypatch.setitem(preparing.ESTIMATORS, "tuned", Scaled)
    path = tmp_path / "lens.safetensors"
    lens = lr.fit_lens(shared("llama"), ROWS, kind="tuned", tokens=10_000, path=path)
    assert lens.name == "tuned lens"
    assert lens.record.first_position == 2
    assert lens.record.settings["steps"] == 1
    assert lens.quality.refit_kl == []
    again = lr.fit_lens(shared("llama"), ROWS, kind="tuned", tokens=10_000, path=path)
    assert again.digest == lens.digest
    monkeypatch.undo()
    with pytest.raises(lr.LensError, match="needs gradients, which a server does not give"):
        lr.fit_lens(llama, ROWS, kind="tuned", remote="local")


def test_a_jacobian_lens_is_fitted_merged_and_gone_on_with(interrupting, tmp_path, monkeypatch):
    model = shared("llama")
    rows = tiny.random_ids(24, 24, seed=3).tolist()
    options = {"texts": rows, "kind": "jacobian", "tokens": 10_000}
    whole = lr.fit_lens(model, **options)
    assert whole.layers == [0, 1, 2]
    assert whole.record.first_position == 16
    assert whole.name == "Jacobian lens"
    fitted = [row.ids.tolist() for row in split_rows([make_row(ids) for ids in rows]).fitted]
    jacobians = PromptJacobians(model, [0, 1, 2])
    expected = sum(jacobians.of_prompt(ids) for ids in fitted) / len(fitted)
    for index, layer in enumerate(whole.layers):
        torch.testing.assert_close(whole.transports[layer].weight, expected[index])
        assert whole.transports[layer].bias is None
    shards = [lr.fit_lens(model, **options, shard=(n, 2), quality_tokens=0) for n in (1, 2)]
    # A whole text holds a row out even where chance holds out none.
    n_rows = sum(len(shard.sums["rows"]) for shard in shards)
    assert n_rows - len(fitted) in (0, 1)
    if n_rows == len(fitted):
        merged = lr.Lens.merge(shards)
        for layer in whole.layers:
            torch.testing.assert_close(
                merged.transports[layer].weight, whole.transports[layer].weight
            )
    done = []
    original = kinds.JacobianEstimator.sums_of

    def interrupted(self, batch):
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        done.append(batch)
        return original(self, batch)

    path = tmp_path / "lens.safetensors"
    monkeypatch.setattr(kinds.JacobianEstimator, "sums_of", interrupted)
    with pytest.raises(KeyboardInterrupt, match="go on"):
        lr.fit_lens(model, **options, path=path)
    monkeypatch.setattr(kinds.JacobianEstimator, "sums_of", original)
    assert lr.fit_lens(model, **options, path=path).digest == whole.digest


def test_a_tuned_lens_begins_with_the_linear_one_and_is_nearer():
    model = shared("llama")
    linear_lens = lr.fit_lens(model, ROWS, tokens=10_000)
    tuned = lr.fit_lens(model, ROWS, kind="tuned", tokens=10_000, steps=8, tokens_per_step=128)
    assert tuned.layers == linear_lens.layers
    assert tuned.record.settings["steps"] == 8
    assert tuned.record.settings["ridge"] == linear_lens.record.settings["ridge"]
    assert np.mean(tuned.quality.kl) < np.mean(linear_lens.quality.kl)
    with pytest.raises(ValueError, match="received a tuned lens"):
        lr.Lens.merge([tuned])
