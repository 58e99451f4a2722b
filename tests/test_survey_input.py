"""What is wrong with items, arguments or a command is said in a sentence, with where it is and what is accepted."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from surveys import items_of
from tiny import shared

import lens_recipes as lr
from lens_recipes.recipes.survey.items import Item, LeftOut, read_items

GOOD = {"prompt": [7, 8, 9], "target": 9}


def written(tmp_path, *lines, name="items.jsonl"):
    """A file of lines, those that are no text as JSON."""
    path = tmp_path / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


# -- files of items ----------------------------------------------------

BROKEN = [
    ('{"prompt": [7', r"line 3: this is no JSON \(.*character 14\)"),
    ("[1, 2]", "line 3: this is no JSON object"),
    ('"text"', "line 3: this is no JSON object"),
    ("[" * 100_000, "line 3: this is n"),
    ('{"prompt": ' + "1" * 5000 + "}", "line 3: this is no JSON that can be read"),
    ('{"prompt": "a"}', "line 3: there is no 'target'; its fields are 'prompt'"),
    ("{}", "line 3: there is no 'prompt'; its fields are none"),
    ('{"prompt": "", "target": "a"}', "line 3: the prompt is empty"),
    ('{"prompt": "a", "target": []}', "line 3: 'target' is an empty list"),
    ('{"prompt": "a", "target": {"a": 1}}', "line 3: 'target' is .*no text and no token id"),
    ('{"prompt": "a", "target": [true]}', "line 3: 'target' is True, no text and no token id"),
    ('{"prompt": "a", "target": 1, "against": [null]}', "line 3: 'against' is None, no text"),
    ('{"prompt": "a", "target": 1, "position": "x"}', "line 3: the position is 'x', no whole"),
    ('{"prompt": "a", "target": 1, "position": 1.5}', "line 3: the position is 1.5, no whole"),
    ('{"prompt": "a", "target": 1, "position": {"on": "a"}}', 'line 3: .*{"at": "text of the'),
    (
        '{"prompt": "a", "target": 1, "id": "first"}',
        "line 3: there is another item with the id 'first'",
    ),
]


@pytest.mark.parametrize(("line", "words"), BROKEN)
def test_a_broken_line_is_named_and_stops_or_is_left_out(tmp_path, line, words):
    path = written(tmp_path, {**GOOD, "id": "first"}, "", line, GOOD)
    with pytest.raises(ValueError, match=rf'{words}.*on_error="skip" leaves such items out'):
        list(read_items(path))
    first, broken, last = read_items(path, on_error="skip")
    assert isinstance(first, Item)
    assert isinstance(last, Item)
    assert last.number == 2
    assert isinstance(broken, LeftOut)
    assert broken.reason == "cannot be read"
    assert re.match(words, broken.detail)
    found = lr.survey(shared("llama"), path, on_error="skip")
    assert found.number.tolist() == [0, 2]
    assert "left out: 1 of 3 items: cannot be read (1)" in found.summary()


def test_nothing_runs_that_was_not_read(tmp_path):
    """What is read is a stream: a broken line after the first block stops the survey when it comes, and keeps the block."""
    lines = [*items_of(256), "{"]
    folder = tmp_path / "kept"
    with pytest.raises(ValueError, match="line 257"):
        lr.survey(shared("llama"), written(tmp_path, *lines), path=folder)
    assert [path.name for path in sorted(folder.glob("*.npz"))] == ["block-00000000.npz"]


def test_rows_of_other_lengths_are_said(tmp_path):
    path = written(tmp_path, "prompt,target", "a,b", "a,b,c", 'a,"b', name="items.csv")
    with pytest.raises(ValueError, match="line 3: it has 3 fields, and the header has 2"):
        list(read_items(path))
    _, second, third = read_items(path, on_error="skip")
    assert second.reason == third.reason == "cannot be read"
    without = written(tmp_path, "question,target", "a,b", name="items.csv")
    with pytest.raises(
        ValueError, match="line 2: there is no 'prompt'; its fields are 'question', 'target'"
    ):
        list(read_items(without))


def test_files_that_are_none_are_said(tmp_path):
    model = shared("llama")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"prompt": "é"}'.encode("latin-1"))
    for items, words in [
        (tmp_path / "none.jsonl", "none.jsonl' cannot be read: No such file"),
        (latin, "latin.jsonl' is no text in UTF-8"),
        (tmp_path, "is no file of items: accepted are .jsonl"),
        ("capital", "comes with the package: antonyms, arithmetic, capitals"),
        (5, "received 5 as items; accepted are the path of a .jsonl"),
        ({"prompt": "a", "target": "b"}, "as items; accepted are"),
        (["text"], "item 0: it is 'text', no dict"),
    ]:
        with pytest.raises(ValueError, match=words):
            lr.survey(model, items)
    for empty in ([], iter(()), written(tmp_path, "", "")):
        with pytest.raises(lr.LensError, match="no item could be asked: there are none"):
            lr.survey(model, empty)
    with pytest.raises(lr.LensError, match="the target is no id of this model; the first: item 0"):
        lr.survey(model, [{"prompt": [7], "target": 5000}])


@pytest.mark.parametrize("prompt", [np.array(5), torch.tensor(5), [-1, 7], np.array([7, -2])])
def test_a_prompt_that_is_none_is_left_out_and_stops_nothing(prompt):
    found = lr.survey(shared("llama"), [GOOD, {"prompt": prompt, "target": 9}, GOOD])
    assert len(found) == 2
    ((number, _, reason, detail),) = found.left_out
    assert (number, reason) == (1, "the prompt cannot be encoded")
    assert detail.startswith("item 1: ")


def test_positions_are_whole_numbers_in_any_writing():
    for position, read in ((" 1 ", 1), ("-3", -3), (np.float32("nan"), -1), (1.0, 1)):
        (item,) = read_items([{**GOOD, "position": position}])
        assert item.position == read
    for position in ("--1", "²", "1-", "9" * 5000):
        with pytest.raises(ValueError, match=r"item 0: the position is '.*, no whole number\."):
            list(read_items([{**GOOD, "position": position}]))
    (item,) = read_items([{**GOOD, "group": np.float32("nan")}])
    assert item.group == ""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["prompt,target,target", "a,b,c"], "two columns are called 'target': rename one"),
        (['"prompt"x,target', "a,b"], "line 1, the names of the columns: "),
    ],
)
def test_a_header_that_is_none_is_refused_also_where_items_are_skipped(tmp_path, lines, words):
    path = written(tmp_path, *lines, name="items.csv")
    for on_error in ("stop", "skip"):
        with pytest.raises(ValueError, match=words):
            list(read_items(path, on_error=on_error))


def test_empty_lines_before_a_header_are_passed_over(tmp_path):
    path = written(tmp_path, "", " , ", "prompt,target", "a,b", name="items.csv")
    (item,) = read_items(path)
    assert (item.prompt, item.target, item.place) == ("a", ("b",), "line 4")


def test_a_frame_with_two_columns_of_a_name_is_refused():
    frame = pd.DataFrame([["a", "b", "c"]], columns=["prompt", "target", "target"])
    with pytest.raises(ValueError, match="two columns are called 'target'"):
        list(read_items(frame))


def test_what_has_no_length_is_a_stream():
    class Stream:
        def __len__(self):
            raise RuntimeError("nobody knows")

        def __iter__(self):
            return iter([GOOD, {**GOOD, "prompt": [7]}])

    assert len(lr.survey(shared("llama"), Stream())) == 2
    model = shared("llama")
    with pytest.raises(ValueError, match=r"(?s)item 0: .*no dict"):
        lr.survey(model, model)
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        lr.survey(model, "a" * 5000)


# -- arguments ---------------------------------------------------------

WRONG = [
    ({"bootstrap": 5}, "bootstrap=5 must be at least 100"),
    ({"bootstrap": "many"}, "bootstrap='many' must be a whole number"),
    ({"bootstrap": 200.5}, "bootstrap=200.5 must be a whole number"),
    ({"confidence": 95}, "confidence=95 must be between 0 and 1, such as 0.95"),
    ({"confidence": "0.9"}, "confidence='0.9' must be a number between 0 and 1"),
    ({"seed": "a"}, "seed='a' must be a whole number"),
    ({"seed": 2**70}, "seed=1180591620717411303424 must be at most"),
    ({"confidence": 1 - 1e-15}, "must be at most 0.999999"),
    ({"bootstrap": 10**12}, "must be at most 10000000"),
    ({"path": 5}, "path=5 must be the path of a folder"),
    ({"path": ""}, "path='' must be the path of a folder"),
    ({"path": "a\0b"}, "must be the path of a folder"),
    ({"seed": -1}, "seed=-1 must be a whole number"),
    ({"metrics": "acc"}, "metrics='acc' is unknown: accepted are 'accuracy@1'"),
    ({"metrics": ["rank", 5]}, "metrics=5 is unknown"),
    ({"metrics": 5}, "metrics=5 is unknown"),
    ({"metrics": []}, "metrics is empty: name one or more"),
    ({"control": "shuffled"}, "control='shuffled' is unknown: accepted are 'shuffle', 'random', None"),
    ({"control": np.array(["shuffle", "random"])}, "is unknown: accepted are 'shuffle', 'random', None"),
    ({"positions": np.array([0, 1])}, "must be \"answer\""),
    ({"control": ["shuffle"]}, "is unknown: accepted are 'shuffle', 'random', None"),
    ({"shard": (3, 2)}, r"shard=\(3, 2\) must be two whole numbers"),
    ({"shard": (0, 2)}, "the third of sixteen parts"),
    ({"shard": "1/2"}, "the third of sixteen parts"),
    ({"positions": "last"}, "must be \"answer\""),
    ({"layers": [99]}, "out of range"),
    ({"components": "stream"}, "components must be one or several of"),
    ({"fields": {"promt": "q"}}, "accepted are names of prompt, target, against"),
    ({"fields": ["prompt"]}, "accepted are names of prompt, target, against"),
    ({"fields": {"prompt": "q"}}, "item 0: there is no 'q'; its fields are 'prompt', 'target'"),
    ({"on_error": "ignore"}, 'accepted are "stop" and "skip"'),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_a_wrong_argument_is_said_before_anything_runs(options, words):
    with pytest.raises(ValueError, match=words):
        lr.survey(shared("llama"), [GOOD], **options)


def test_what_is_no_model_or_no_items_is_said():
    model = shared("llama")
    for call, words in [
        (lambda: lr.survey(model), "survey needs items: a file, a list of dicts"),
        (lambda: lr.survey("capitals"), r"received 'capitals' as the model, and no items"),
        (lambda: lr.survey("smollm2", [GOOD]), "received 'smollm2' as a model; accepted is what"),
        (lambda: lr.survey(items=[GOOD]), "survey needs a model"),
        (lambda: lr.survey(model, [GOOD], models=[model]), "model or models, not both"),
        (lambda: lr.survey(items=[GOOD], models=model), "received one model"),
        (lambda: lr.survey(items=[GOOD], models=[]), r"received \[\] as models"),
        (lambda: lr.survey(items=[GOOD], models=[model, "b"]), "received 'b' as a model"),
        (lambda: lr.survey(items=[GOOD], models=[model], path="x"), "folder of one survey"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


# -- too little for an interval ----------------------------------------


def test_too_few_for_an_interval_is_said():
    few = lr.survey(shared("llama"), [{**GOOD, "target": token} for token in (7, 8, 9)])
    assert "no intervals: 3 items only, and at least 5 are needed" in few.summary()
    one_template = [{**item, "cluster": "one"} for item in items_of(30)]
    found = lr.survey(shared("llama"), one_template)
    assert "no intervals: 1 cluster only, and at least 5 are needed" in found.summary()
    assert "1 cluster only" in str(found)
    rough = lr.survey(shared("llama"), items_of(8))
    assert "with fewer than 20 an interval is rough" in rough.summary()


def test_a_group_of_one_item_has_no_shuffled_control(tmp_path):
    items = [*items_of(12), {**GOOD, "group": "alone"}]
    found = lr.survey(shared("llama"), items)
    assert (found.shuffled_ranks[-1] == -1).all()
    assert found.curve("accuracy@1", group="alone", control="shuffle").interval.n.max() == 0
    for text in (str(found), found.summary(), found.table(by="group"), found.table(group="alone")):
        assert "alone" in text or "13 items" in text
    found.page(tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"group='none' is unknown: this survey has 'a', 'b', 'alone'"):  # fmt: skip
        found.curve("accuracy@1", group="none")


# -- the command -------------------------------------------------------


@pytest.fixture
def lines(tmp_path):
    """A file of items for the tiny model with a tokenizer."""
    rows = [
        {"prompt": f"The word {n}", "target": "a" if n % 2 else "e", "group": "xy"[n % 2]}
        for n in range(12)
    ]
    return written(tmp_path, *rows)


def test_the_command_surveys_a_checkpoint_and_shows_it_again(folder, cli, lines, tmp_path):
    page, saved = tmp_path / "page.html", tmp_path / "survey.json"
    options = ("--model", str(folder), "--html", str(page), "--json", str(saved))
    status, out, _ = cli()("survey", str(lines), *options)
    assert status == 0
    assert "Survey: 12 items" in out
    assert "12 items" in page.read_text()
    found = lr.Survey.load(saved)
    assert len(found) == 12
    status, shown, _ = cli()("show", str(saved))
    assert status == 0
    assert "as saved" in shown
    by_group = ("--by", "group", "--metric", "rank", "--format", "tsv")
    status, out, _ = cli()("survey", str(lines), "--model", str(folder), *by_group)
    assert status == 0
    assert {line.split("\t")[0] for line in out.splitlines()[1:]} == {"rank"}
    status, out, _ = cli()("survey", str(lines), "--model", str(folder), "--summary")
    assert status == 0
    assert out.startswith("survey of tiny, logit lens: 12 items in 2 groups")


def test_the_command_goes_on_in_a_folder_and_has_shards(folder, cli, lines, tmp_path):
    kept = ("--model", str(folder), "--folder", str(tmp_path / "kept"))
    first = cli()("survey", str(lines), *kept)
    assert first[0] == 0
    assert cli()("survey", str(lines), *kept)[1] == first[1]
    status, _, err = cli()("survey", str(lines), *kept, "--only-correct")
    assert status == 1
    assert "holds another survey: its only_correct is False" in err
    parts = []
    for number in (1, 2, 3):  # of one block: two parts have nothing
        saved = tmp_path / f"{number}.npz"
        status, out, _ = cli()("survey", str(lines), "--model", str(folder), "--shard", f"{number}/3", "--json", str(tmp_path / f"{number}.json"))  # fmt: skip
        assert status == 0
        assert ("no items" in out) == (number > 1)
        parts.append(lr.Survey.load(saved.with_suffix(".json")))
    assert len(lr.Survey.merge(parts)) == 12


def test_the_command_shows_lenses_side_by_side(folder, cli, lines, tmp_path):
    lens = tmp_path / "one.safetensors"
    lr.fit_lens(lr.load(str(folder)), texts=["some words of a text"] * 9, tokens=64).save(lens)
    several = ("survey", str(lines), "--model", str(folder), "--lens", "logit", "--lens", str(lens))
    status, out, err = cli()(*several, "--folder", str(tmp_path / "kept"))
    assert status == 0, err
    heading = next(line for line in out.splitlines() if line.startswith("set"))
    assert heading.split() == ["set", "k", "clusters", "logit", "one.safetensors"]
    assert "Control: another item's answer" in out
    assert "Difference in accuracy@1: one.safetensors minus logit" in out
    assert out.count(": certified") == 2
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "logit",
        "one.safetensors",
    ]
    status, out, _ = cli()(*several, "--format", "json")
    rows = json.loads(out)
    assert {(row["survey"], row["control"]) for row in rows} == {
        (name, control) for name in ("logit", "one.safetensors") for control in (None, "shuffle")
    }
    found = lr.survey(lr.load(str(folder)), str(lines))
    for row in rows:
        if row["survey"] == "logit":
            own = found.pass_at_k([row["k"]], group=row["group"], control=row["control"])
            expected = own.interval.estimate[0]
            assert row["estimate"] == (None if np.isnan(expected) else expected)
    status, out, _ = cli()(*several, "--summary", "--control", "none")
    assert out.count("survey of tiny") == 2
    assert "; control" not in out


def test_the_command_compares_an_edited_survey_with_a_saved_one(folder, cli, lines, tmp_path):
    base = str(tmp_path / "base.json")
    asked = ("survey", str(lines), "--model", str(folder))
    assert cli()(*asked, "--json", base)[0] == 0
    edited = (*asked, "--edit", "ablate 1.mlp_out", "--metric", "logprob")
    status, out, _ = cli()(*edited, "--compare", base, "--stride", "1")
    assert status == 0
    assert f"edited: {lr.ablate(layer=1, component='mlp_out')}" in out
    assert "Difference in log-probability: this one minus the saved one" in out
    other = lr.survey(
        lr.load(str(folder)), str(lines), edits=lr.ablate(layer=1, component="mlp_out")
    )
    table = (
        lr.Survey.load(base).compare(other, "logprob").table(names=("the saved one", "this one"))
    )
    assert table.splitlines()[2:4] == out[out.index("Difference") :].splitlines()[2:4]
    result = tmp_path / "lens.json"
    lr.logit_lens(lr.load(str(folder)), "a word").save(result)
    status, _, err = cli()(*asked, "--compare", str(result))
    assert status == 2
    assert "is no survey: name a file that --json of this command wrote" in err.replace("│", " ")


def test_differences_for_programs_are_one_table(llama, cli, lines, tmp_path):
    base = str(tmp_path / "base.json")
    assert cli(llama)("survey", str(lines), "--json", base)[0] == 0
    asked = ("survey", str(lines), "--compare", base, "--metric", "rank", "--metric", "kl")
    status, out, _ = cli(llama)(*asked, "--format", "json")
    assert status == 0
    rows = json.loads(out)
    assert [row["metric"] for row in rows] == ["rank"] * 4 + ["kl"] * 4
    assert {row["difference"] for row in rows} == {0}
    status, out, _ = cli(llama)(*asked, "--format", "tsv")
    assert [len(line.split("\t")) for line in out.splitlines()] == [14] * 9
    for option in (("--compare", base), ("--format", "tsv"), ("--by", "group"), ("--summary",)):
        status, out, err = cli(llama)("survey", str(lines), "--json", "-", *option)
        assert status == 2
        assert not out
        assert "--json - writes the result to stdout instead" in " ".join(err.split())
    json.loads(cli(llama)("survey", str(lines), "--json", "-")[1])


def test_views_that_follow_the_layers_are_refused_before_anything_runs(llama, cli, lines, tmp_path):
    page = str(tmp_path / "page.html")
    for components in ("head_out", "resid_pre,attn_out"):
        for option in (("--html", page), ("--summary",), ("--lens", "logit", "--lens", "logit")):
            status, _, err = cli()("survey", str(lines), "--components", components, *option)
            assert status == 2
            assert "add resid_post to --components" in " ".join(err.replace("│", " ").split())
        assert cli(llama)("survey", str(lines), "--components", components)[0] == 0
    for components in ("attn_out", "resid_post,attn_out"):
        options = ("--components", components, "--html", page, "--summary")
        assert cli(llama)("survey", str(lines), *options)[0] == 0


def test_a_saved_survey_is_shown_as_asked(llama, cli, lines, tmp_path):
    saved, page = str(tmp_path / "survey.json"), str(tmp_path / "page.html")
    assert cli(llama)("survey", str(lines), "--json", saved)[0] == 0
    for options, has_summary, has_table in [
        (("--html", page), False, False),
        (("--html", page, "--table"), False, True),
        (("--html", page, "--stride", "2"), False, True),
        (("--summary",), True, False),
        (("--summary", "--table"), True, True),
        ((), False, True),
    ]:
        status, out, _ = cli()("show", saved, *options)
        assert status == 0
        assert ("survey of " in out) == has_summary
        assert ("Survey: 12 items" in out) == has_table


def test_a_shard_without_items_is_no_table_for_programs(llama, cli, lines):
    for format, expected in (("json", "[]\n"), ("tsv", "")):
        status, out, err = cli(llama)("survey", str(lines), "--shard", "2/2", "--format", format)
        assert status == 0
        assert out == expected
        assert "no items, as in this shard there are none" in err
    status, _, err = cli(llama)("survey", str(lines), "--shard", "1/" + "9" * 5000)
    assert status == 2
    assert "is not I/N, such as 3/16" in " ".join(err.replace("│", " ").split())


def test_the_command_reads_a_folder_of_evaluation_sets(folder, cli, tmp_path):
    records = [{"name": str(n), "prompt": f"A word {n}", "intermediates": ["a"]} for n in range(3)]
    (tmp_path / "lens-eval-typo.json").write_text(json.dumps({"items": records}))
    for items in (tmp_path, tmp_path / "lens-eval-typo.json"):
        status, out, err = cli()("survey", str(items), "--model", str(folder))
        assert status == 0, err
        assert "3 items of typo in 3 clusters" in out
    (tmp_path / "lens-eval-typo.json").write_text("{}")
    status, _, err = cli()("survey", str(tmp_path), "--model", str(folder))
    assert status == 2
    assert "is no evaluation set" in err


TYPOS = [
    (["survey", "capital"], "comes with the package: antonyms"),
    (["survey", "capitals", "--shard", "3-16"], "'3-16' is not I/N, such as 3/16"),
    (["survey", "capitals", "--shard", "17/16"], "two whole numbers i and n"),
    (["survey", "capitals", "--field", "prompt"], "'prompt' is not FIELD=NAME"),
    (["survey", "capitals", "--field", "promt=q"], "names of prompt, target"),
    (["survey", "capitals", "--format", "pdf"], "'pdf' is none of text, markdown"),
    (["survey", "capitals", "--metric", "acc"], "acc"),
    (["survey", "capitals", "--by", "template"], "template"),
    (
        ["survey", "capitals", "--by", "group", "--metric", "rank", "--metric", "kl"],
        "about one metric",
    ),
    (
        ["survey", "capitals", "--control", "shuffled"],
        "'shuffled' is none of shuffle, random, none",
    ),
    (["survey", "capitals", "--edit", "ablate"], "--edit"),
    (
        ["survey", "capitals", "--lens", "logit", "--lens", "linear", "--html", "a.html"],
        "give --lens once",
    ),
    (
        ["survey", "capitals", "--lens", "logit", "--lens", "linear", "--json", "a.json"],
        "give --lens once",
    ),
    (
        ["survey", "capitals", "--lens", "logit", "--lens", "linear", "--shard", "1/2"],
        "give --lens once",
    ),
    (
        ["survey", "capitals", "--lens", "logit", "--lens", "linear", "--by", "group"],
        "give --lens once",
    ),
    (
        ["survey", "capitals", "--lens", "logit", "--lens", "linear", "--format", "latex"],
        "side by side in text, markdown, tsv, json",
    ),
    (["survey", "capitals", "--bootstrap", "5"], "must be at least 100"),
    (["survey", "capitals", "--confidence", "95"], "must be between 0 and 1"),
    (["survey"], "ITEMS"),
]


@pytest.mark.parametrize(("arguments", "words"), TYPOS, ids=lambda value: str(value)[:40])
def test_a_typo_in_the_command_is_said(llama, cli, arguments, words):
    status, _, err = cli(llama)(*arguments)
    assert status == 2
    assert words in " ".join(re.sub(r"[│╭╰─╮╯]", " ", err).split())
    assert "Traceback" not in err
