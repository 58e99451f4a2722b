"""A survey that is killed, interrupted, damaged or spread over machines comes to the same to the last bit."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tiny
import torch
from surveys import assert_same, items_of
from tiny import shared

import lens_recipes as lr
from lens_recipes.arrays.certificate import verdict
from lens_recipes.recipes.survey import block_file, store
from lens_recipes.recipes.survey.items import read_items

engine = importlib.import_module("lens_recipes.recipes.survey.survey")

FIGURES = [
    lr.accuracy_curve,
    lr.rank_curve,
    lr.emergence_curve,
    lr.depth_histogram,
    lr.survey_heatmap,
]
BLOCK = 8
N_ITEMS = 43  # five blocks, and three items


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", BLOCK)


@pytest.fixture
def asked(monkeypatch):
    """The blocks that are run, by the number of their items."""
    ran = []
    ask = engine.ask

    def counted(model, block, *rest):
        ran.append(len(block))
        return ask(model, block, *rest)

    monkeypatch.setattr(engine, "ask", counted)
    return ran


def items():
    """Items of which some cannot be asked."""
    found = items_of(N_ITEMS)
    found[3]["target"] = 5000
    found[20]["prompt"] = [7] * 500
    return found


def earlier_session(monkeypatch):
    """As if what this process wrote had been written by another one."""
    monkeypatch.setattr(block_file, "_written_here", {})


# -- killed ------------------------------------------------------------

KILLED = """
import importlib, os, signal, sys
sys.path.insert(0, {tests!r})
import test_survey_stopped as here
from tiny import shared
import lens_recipes as lr

here.engine.BLOCK = here.BLOCK
model, items = shared("llama"), here.items()

def die_at(n):
    \"\"\"Be killed when the n-th file is to take its place.\"\"\"
    replace, calls = os.replace, []

    def counted(*paths):
        calls.append(paths)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*paths)

    os.replace = counted

for path, moments in {paths!r}:
    for n in moments:
        child = os.fork()
        if not child:
            die_at(n)
            lr.survey(model, items, path=path)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        print(sorted(os.listdir(path)))
"""


def test_a_survey_that_was_killed_goes_on_to_the_same_numbers(tmp_path, asked):
    """At the first file, in the midst, twice, and at the last: six blocks and a manifest are written."""
    rng = np.random.default_rng(7)
    moments = [[1], [int(rng.integers(2, 7))], [3, 2], [7]]
    paths = [(str(tmp_path / str(number)), each) for number, each in enumerate(moments)]
    script = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), paths=paths)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    whole = lr.survey(shared("llama"), items())
    n_blocks = len(asked)
    for path, each in paths:
        asked.clear()
        # One file for each moment is lost; the manifest is written in the first run that survives it.
        kept = len(list(store.Path(path).glob("block-*.npz")))
        resumed = lr.survey(shared("llama"), items(), path=path)
        assert len(asked) == n_blocks - kept, each
        assert_same(resumed, whole)


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, asked):
    run = engine.run_block
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return run(*arguments, **options)

    monkeypatch.setattr(engine, "run_block", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"holds 2 blocks of 8 items\. Call survey again"):
        lr.survey(shared("llama"), items(), path=tmp_path / "kept")
    asked.clear()
    resumed = lr.survey(shared("llama"), items(), path=tmp_path / "kept")
    assert len(asked) == 4
    calls.clear()
    with pytest.raises(KeyboardInterrupt, match=r"nothing was kept of it\. With path="):
        lr.survey(shared("llama"), items())
    assert_same(resumed, lr.survey(shared("llama"), items()))


# -- what is certified -------------------------------------------------


def test_what_ran_here_is_certified_and_what_a_file_says_is_as_saved(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    assert verdict(lr.survey(shared("llama"), items())) == "certified"
    assert verdict(lr.survey(shared("llama"), items(), path=folder)) == "certified"
    assert verdict(lr.survey(shared("llama"), items(), path=folder)) == "certified"
    # The same bytes elsewhere are the same run; others are a claim.
    block = folder / "block-00000001.npz"
    content = block_file.read_block(block)
    np.savez(
        block,
        **{
            **content.arrays,
            "words": np.load(block)["words"],
            "ranks": np.zeros_like(content.arrays["ranks"]),
        },
    )
    forged = lr.survey(shared("llama"), items(), path=folder)
    assert (forged.ranks[BLOCK : BLOCK + 4] == 0).all()
    assert verdict(forged) == "as saved"
    earlier_session(monkeypatch)
    resumed = lr.survey(shared("llama"), items(), path=tmp_path / "kept", resume=False)
    assert verdict(resumed) == "certified"
    earlier_session(monkeypatch)
    block.unlink()
    assert verdict(lr.survey(shared("llama"), items(), path=folder)) == "as saved"


# -- another survey ----------------------------------------------------


def test_a_folder_goes_on_with_its_own_survey_alone(tmp_path, asked):
    folder = tmp_path / "kept"
    model = shared("llama")
    lr.survey(model, items(), path=folder)
    lens = lr.fit_lens(model, tiny.random_ids(24, 12).tolist(), tokens=10_000)
    other_weights = lr.load(tiny.llama(seed=1))
    half = lr.load(tiny.llama().bfloat16())
    refused = [
        (other_weights, {}, "its weights is"),
        (half, {}, "its dtype is 'float32', asked for is 'bfloat16'"),
        (shared("qwen2"), {}, "its model is 'LlamaForCausalLM', asked for is 'Qwen2ForCausalLM'"),
        (model, {"lens": lens}, "its lens is None"),
        (model, {"edits": lr.ablate(layer=0)}, r"its edits is \[\]"),
        (model, {"layers": [1]}, r"its layers is None, asked for is \[1\]"),
        (model, {"seed": 1}, "its seed is 0"),
        (model, {"positions": 0}, "its positions is 'answer'"),
        (model, {"only_correct": True}, "its only_correct is False"),
        (model, {"shard": (1, 2)}, "its shard is None"),
    ]
    for each, options, words in refused:
        with pytest.raises(
            lr.LensError, match=rf"holds another survey: {words}.*resume=False to begin anew"
        ):
            lr.survey(each, items(), path=folder, **options)
    asked.clear()
    lr.survey(model, items(), path=folder, bootstrap=500, confidence=0.9)  # of the same numbers
    assert asked == []


def test_other_items_are_refused(tmp_path):
    folder = tmp_path / "kept"
    model, own = shared("llama"), items()
    lr.survey(model, own, path=folder)
    changed = items()
    changed[30]["target"] = 17
    for others in (changed, own[:40], own[1:], [*own, own[0]]):
        with pytest.raises(lr.LensError, match=r"made of .*: they have changed since"):
            lr.survey(model, others, path=folder)
    with pytest.raises(lr.LensError, match="items that are no longer there: they have changed"):
        lr.survey(model, own[: 2 * BLOCK], path=folder)
    anew = lr.survey(model, changed, path=folder, resume=False)
    assert_same(anew, lr.survey(model, changed))
    shorter = lr.survey(model, own[:BLOCK], path=folder, resume=False)
    assert len(shorter) == BLOCK - 1


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda ids: [np.array(ids)]])
def test_the_middle_of_a_long_prompt_tells_it_from_another(kind):
    ids = (np.arange(2000) % 90 + 6).tolist()
    changed = [*ids[:1000], 7, *ids[1001:]]
    digests = set()
    for prompt in (ids, changed):
        digests.add(engine.digest_of(list(read_items([{"prompt": kind(prompt), "target": 9}]))))
    assert len(digests) == 2


def test_an_argument_that_was_wrong_leaves_no_folder_that_is_in_the_way(tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises(ValueError, match="out of range"):
        lr.survey(shared("llama"), items(), layers=[99], path=folder)
    assert_same(
        lr.survey(shared("llama"), items(), layers=[1], path=folder),
        lr.survey(shared("llama"), items(), layers=[1]),
    )


# -- what may be wrong with a folder -----------------------------------


def test_a_damaged_block_is_said_and_can_be_removed(tmp_path, asked):
    folder = tmp_path / "kept"
    whole = lr.survey(shared("llama"), items(), path=folder)
    block = folder / "block-00000002.npz"
    content = block.read_bytes()
    for damaged in (b"", content[:100], content[:-100], content[:3000] + b"?" + content[3001:], b"text"):  # fmt: skip
        block.write_bytes(damaged)
        with pytest.raises(lr.LensError, match=r"block-00000002.npz' is damaged: .*Remove it"):
            lr.survey(shared("llama"), items(), path=folder)
    good = block_file.read_block(folder / "block-00000001.npz")
    block_file.write_block(block, good._replace(names=good.names[:-1]))
    with pytest.raises(lr.LensError, match="is damaged: its number have the shape"):
        lr.survey(shared("llama"), items(), path=folder)
    block.unlink()
    asked.clear()
    assert_same(lr.survey(shared("llama"), items(), path=folder), whole)
    assert asked == [BLOCK]


def change(path, **changed):
    """Write a block of which something is changed."""
    with np.load(path) as stored:
        arrays = dict(stored)
    words = json.loads(arrays["words"].tobytes())
    for name, value in changed.items():
        if name in words:
            words[name] = value
        else:
            arrays[name] = value
    arrays["words"] = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


CHANGED = [
    {"names": [[1, 2, 3, 4]] * BLOCK},
    {"sites": [["a", "resid_post", None]] * 4},
    {"sites": [[9 + layer, "resid_post", None] for layer in range(4)]},
    {"provenance": []},
    {"provenance": {"seconds": "long"}},
    {"left_out": [["a", "b", "c", "d"]]},
    {"texts": 5},
    {"ranks": np.full((BLOCK, 4), b"1")},
    {"ranks": np.full((BLOCK, 4), 1.5)},
    {"top_ids": np.full((BLOCK, 4), -3, dtype=np.int32)},
]


@pytest.mark.parametrize("changed", CHANGED)
def test_a_block_that_holds_something_else_is_damaged(tmp_path, changed):
    lr.survey(shared("llama"), items(), path=tmp_path)
    change(tmp_path / "block-00000001.npz", **changed)
    with pytest.raises(lr.LensError, match=r"block-00000001.npz' is damaged: .*Remove it"):
        lr.survey(shared("llama"), items(), path=tmp_path)


def test_what_cannot_be_removed_or_made_is_said(tmp_path):
    model, folder = shared("llama"), tmp_path / "kept"
    lr.survey(model, items(), path=folder)
    block = folder / "block-00000001.npz"
    block.unlink()
    block.mkdir()
    with pytest.raises(
        lr.LensError, match=r"block-00000001.npz' cannot be removed: .*Name another"
    ):
        lr.survey(model, items(), path=folder, resume=False)
    with pytest.raises(lr.LensError, match="cannot be made or read: File name too long"):
        lr.survey(model, items(), path=tmp_path / ("a" * 300))


def test_a_folder_that_is_none_is_said(tmp_path):
    model = shared("llama")
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(lr.LensError, match="is a file: a survey is kept in a folder of its own"):
        lr.survey(model, items(), path=file)
    with pytest.raises(lr.LensError, match="holds other files, and no survey"):
        lr.survey(model, items(), path=tmp_path)
    with pytest.raises(lr.LensError, match="cannot be made or read: Not a directory"):
        lr.survey(model, items(), path=file / "folder")
    folder = tmp_path / "folder"
    folder.mkdir()
    manifest = folder / "survey.json"
    for text in (
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({"format": "lens-recipes survey", "version": 99}),
    ):
        manifest.write_text(text)
        with pytest.raises(lr.LensError, match=r"cannot be read|no survey that this version"):
            lr.survey(model, items(), path=folder)


# -- shards ------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [2, 5, 9])
def test_shards_are_the_whole(tmp_path, n_shards):
    """Nine shards of six blocks: three have no items. They may be saved in between."""
    whole = lr.survey(shared("llama"), items())
    parts = []
    for number in range(1, n_shards + 1):
        part = lr.survey(shared("llama"), items(), shard=(number, n_shards))
        for suffix in ("npz", "json"):
            part.save(tmp_path / f"{number}.{suffix}")
        parts.append(part)
    assert_same(lr.Survey.merge(parts), whole)
    assert_same(lr.Survey.merge(reversed(parts)), whole)
    for suffix in ("npz", "json"):
        loaded = [lr.Survey.load(tmp_path / f"{number}.{suffix}") for number in range(1, n_shards + 1)]  # fmt: skip
        merged = lr.Survey.merge(loaded)
        assert_same(merged, whole)
        assert verdict(merged) == "as saved"
    some = lr.Survey.merge(parts[:-1])
    assert some.shards == [(n, n_shards) for n in range(1, n_shards)]
    assert_same(lr.Survey.merge([some, parts[-1]]), whole)
    assert "part" not in whole.summary().splitlines()[0]
    for partly in (some, parts[0]):
        for view in (
            str(partly),
            partly.summary(),
            lr.accuracy_curve(partly).layout.title.subtitle.text,
        ):
            assert re.search(r"left out: .* of (part 1 of \d+|\d+ of \d+ parts)", view)


def test_a_shard_without_items_says_so_in_every_view(tmp_path, monkeypatch):
    left_out = [{"prompt": [7], "target": 5000} for _ in range(BLOCK)]
    both = [*left_out, *items_of(3)]
    empty = lr.survey(shared("llama"), both, shard=(1, 2))
    assert len(empty) == 0
    assert len(empty.left_out) == BLOCK
    for view in (str(empty), empty.summary(), empty._repr_html_()):
        assert "no items" in view
        assert "left out: 8 of 8 items" in view
        assert "Survey.merge" in view
    asked_for_numbers = [
        lambda: empty.curve("accuracy@1"),
        lambda: empty.table(),
        lambda: empty.page(tmp_path / "page.html"),
        empty.to_frame,
        lambda: empty.compare(empty),
        *(lambda draw=draw: draw(empty) for draw in FIGURES),
    ]
    for call in asked_for_numbers:
        with pytest.raises((ValueError, lr.LensError), match="has no items"):
            call()
    other = lr.survey(shared("llama"), both, shard=(2, 2))
    assert_same(lr.Survey.merge([empty, other]), lr.survey(shared("llama"), both))
    with pytest.raises(lr.LensError, match="none of the surveys has an item: item 0: target id"):
        lr.Survey.merge([empty])


def test_a_part_says_in_every_view_that_it_is_one():
    first, second, third = [lr.survey(shared("llama"), items(), shard=(number, 3)) for number in (1, 2, 3)]  # fmt: skip
    two = lr.Survey.merge([first, third])
    whole = lr.Survey.merge([two, second])  # parts of parts
    assert_same(whole, lr.survey(shared("llama"), items()))
    again = lr.Survey.merge([lr.Survey.merge([first]), third])
    for found, words in ((first, "part 1 of 3"), (two, "2 of 3 parts"), (again, "2 of 3 parts")):
        n = len(found) + len(found.left_out)
        for view in (str(found), found.summary(), found.table(by="group"), lr.caption(lr.accuracy_curve(found))):  # fmt: skip
            assert f"of {n} items of {words}" in view.replace("\n", " ")
        assert f"distrust: these are {words} of the items: Survey.merge joins" in found.summary()
    assert " of 43 items:" in whole.summary()
    assert "these are" not in whole.summary()


def test_a_model_that_fails_is_said_with_the_items_and_what_can_be_done():
    broken = tiny.llama()
    broken.lm_head.weight.data[50] = float("inf")
    with pytest.raises(lr.LensError, match=r"NOT CERTIFIED.*These are items 0 to 7\.") as caught:
        lr.survey(lr.load(broken), items())
    assert "strict" not in str(caught.value)


@pytest.mark.parametrize("parts", [5, None, lr.Survey])
def test_what_is_no_list_of_parts_is_said(parts):
    given = lr.survey(shared("llama"), items_of(6)) if parts is lr.Survey else parts
    with pytest.raises(lr.LensError, match="to merge; accepted is a list of surveys"):
        lr.Survey.merge(given)


def test_parts_of_other_surveys_are_not_merged():
    model = shared("llama")
    first = lr.survey(model, items(), shard=(1, 2))
    second = {"shard": (2, 2)}
    for others, words in [
        (lr.survey(shared("qwen2"), items(), **second), "another model than the first"),
        (lr.survey(model, items(), seed=1, **second), "another seed than the first: 1 and 0"),
        (lr.survey(model, items(), layers=[1], **second), "at other sites than the first"),
        (lr.survey(model, items(), only_correct=False, positions=0, **second), "another positions"),
        (first, r"item \d+ is in more than one of the surveys"),
    ]:
        with pytest.raises(lr.LensError, match=words):
            lr.Survey.merge([first, others])
    with pytest.raises(lr.LensError, match="part 0 is str, no survey"):
        lr.Survey.merge(["survey.json"])
    with pytest.raises(lr.LensError, match="no survey to merge"):
        lr.Survey.merge([])


def test_parts_of_models_of_other_weights_are_not_merged():
    module = copy.deepcopy(shared("llama")._module)
    with torch.no_grad():
        module.lm_head.weight.mul_(1.5)
    models = [shared("llama"), lr.load(module)]
    parts = [lr.survey(model, items(), shard=(n, 2)) for n, model in enumerate(models, start=1)]
    with pytest.raises(lr.LensError, match="is of another weights than the first"):
        lr.Survey.merge(parts)
