"""A file of prompts, and what `logit-lens` says of prompts and targets that are not what was meant."""

from __future__ import annotations

import csv
import json
import re
import shlex

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.cli.common.unquoted import quoted_command
from lens_recipes.views.figures import export
from lens_recipes.views.summaries.attribution import attribution_doubts
from lens_recipes.views.summaries.doubts import lens_doubts

FACTS = [("The fox jumps over", " the"), ("One, two", " and"), ("A quick", " is")]


@pytest.fixture
def small(llama, cli):
    return cli(llama)


@pytest.fixture
def real(smollm2, cli):
    return cli(smollm2)


def facts_as(name, path):
    """The same facts in one of the formats."""
    lines = {
        "facts.jsonl": [json.dumps({"prompt": p, "target": t}) for p, t in FACTS],
        "facts.ndjson": [json.dumps({"targets": [t], "prompt": p, "more": 1}) for p, t in FACTS],
        "facts.tsv": ["target\tn\tprompt", *(f"{t}\t1\t{p}" for p, t in FACTS)],
        "facts.CSV": ["\ufeffprompt,target", *(f'"{p}",{t}' for p, t in FACTS), ""],
    }[name]
    file = path / name
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", ["facts.jsonl", "facts.ndjson", "facts.tsv", "facts.CSV"])
def test_a_file_is_one_run_in_which_each_prompt_has_its_own_target(small, llama, tmp_path, name):
    out_file = tmp_path / "a.npz"
    status, out, err = small(
        "logit-lens", "--prompts", facts_as(name, tmp_path), "--positions", "-1", "--json", str(out_file)
    )  # fmt: skip
    assert status == 0, err
    for prompt, _ in FACTS:
        assert prompt in out
    result = lr.LensResult.load(out_file)
    expected = lr.logit_lens(
        llama, [p for p, _ in FACTS], targets=[[t] for _, t in FACTS], positions=-1
    )
    assert result.prompts == expected.prompts
    np.testing.assert_array_equal(result.target_ids, expected.target_ids)
    np.testing.assert_array_equal(result.target_ranks, expected.target_ranks)


def test_several_targets_and_ids(small, llama, tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text(
        '{"prompt": "The fox", "targets": [" the", 7]}\n\n{"prompt": "One", "targets": [8, " and"]}\n'
    )
    status, out, err = small("logit-lens", "--prompts", str(file), "--json", "-")
    assert status == 0, err
    expected = lr.logit_lens(llama, ["The fox", "One"], targets=[[" the", 7], [8, " and"]])
    assert json.loads(out)["arrays"]["target_ids"] == expected.target_ids.tolist()


def test_one_target_for_all_prompts_of_a_file(small, llama, tmp_path):
    file = tmp_path / "facts.csv"
    file.write_text('prompt,source\n"One, ""two""\nthree",a\nFour,b\n')
    status, out, err = small(
        "logit-lens", "--prompts", str(file), "--target", " the", "--json", "-"
    )
    assert status == 0, err
    result = json.loads(out)
    assert result["prompts"] == ['One, "two"\nthree', "Four"]
    the = llama.tokenizer(" the").input_ids
    assert result["arrays"]["target_ids"] == [the, the]


@pytest.mark.parametrize(
    ("name", "text", "options", "words"),
    [
        ("a.jsonl", "", "", ["a.jsonl: there is no prompt in it", '"target": " Paris"']),
        ("a.csv", "", "", ["there is no prompt in it", "columns prompt and target"]),
        ("a.csv", "prompt,target\n", "", ["there is no prompt in it"]),
        ("a.jsonl", '{"prompt": "Hi", "target": " the"}\n{"prompt": "Hi"\n', "", ["line 2, character", "no JSON"]),
        ("a.jsonl", '["Hi"]\n', "", ["line 1", "no object"]),
        ("a.jsonl", '{"text": "Hi"}', "", ["line 1", 'no "prompt"', "'text'"]),
        ("a.jsonl", '\n{"prompt": "Hi"}', "", ["line 2", "has no target", "--target"]),
        ("a.jsonl", '{"prompt": 3, "target": 1}', "", ["line 1", "a prompt is a text", "3"]),
        ("a.jsonl", '{"prompt": "", "target": 1}', "", ["line 1", "the prompt is empty"]),
        ("a.jsonl", '{"prompt": "Hi", "target": null}', "", ["line 1", "a text or a token id", "null"]),
        ("a.jsonl", '{"prompt": "Hi", "targets": " the"}', "", ["line 1", '"targets" is a list']),
        ("a.jsonl", '{"prompt": "Hi", "target": 1, "targets": [1]}', "", ["line 1", "leave one out"]),
        (
            "a.jsonl",
            '{"prompt": "Hi", "target": 5}\n{"prompt": "Hi", "targets": [5, 6]}',
            "",
            ["line 2", "2 targets", "line 1 has 1 target"],
        ),
        ("a.jsonl", '{"prompt": "Hi", "target": 5}', "--target ' the'", ["line 1", "of its own", "--target"]),
        ("a.csv", "prompt,traget\nHi, the\n", "", ["line 1", "no column 'target'", "'traget'"]),
        ("a.csv", "prompt;target\nHi; the\n", "", ["line 1", "no column 'prompt'", "'prompt;target'"]),
        ("a.csv", "prompt,target\nHi, the\nA, b, the\n", "", ["line 3", "3 fields", "2", "quotation marks"]),
        ("a.csv", 'prompt,target\n"A\nb", the\nHi,\n', "", ["line 4", "has no target"]),
        ("a.tsv", "prompt\ttarget\nHi\t the\n\t the\n", "", ["line 3", "the prompt is empty"]),
        ("a.csv", "prompt,target\nHi, the\nHi, Parisian cafe\n", "", ["line 3", "tokens for this model"]),
        ("a.jsonl", '{"prompt": "Hi", "target": ""}', "", ["line 1", "0 tokens"]),
        ("a.txt", "Hi", "", ["no file of prompts", ".jsonl", ".csv"]),
        ("a.jsonl", '{"prompt": "Hi", "target": 5}', "Hello", ["--prompts", "'Hello' as well"]),
        ("a.jsonl", '{"prompt": "Hi", "target": 5}', "--json a.jsonl", ["--json"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_told_with_its_line(
    small, tmp_path, monkeypatch, name, text, options, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    status, out, err = small("logit-lens", "--prompts", name, *shlex.split(options))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert all(word in err for word in words), err


def test_a_file_that_is_not_there_or_no_text(small, tmp_path):
    assert small("logit-lens", "--prompts", str(tmp_path / "none.csv"))[0] == 1
    (tmp_path / "a.csv").write_bytes(b"prompt,target\nHi\xff, the")
    status, _, err = small("logit-lens", "--prompts", str(tmp_path / "a.csv"))
    assert status == 2
    assert "no text in UTF-8" in err


# -- targets without their space ---------------------------------------


def test_a_target_without_its_space_is_told(real):
    status, _, err = real(
        "logit-lens", "The capital of France is", "--target", "Paris", "--positions", "-1"
    )
    assert status == 0
    assert err.count("\n") == 1
    assert (
        'target "Paris" has no leading space: in this prompt " Paris" (rank 0) is the next word; '
        '"Paris" has rank 43.' in err
    )
    assert 'write " Paris"' in err


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("The capital of France is", ["--target", " Paris"]),
        ("The capital of France is ", ["--target", "Paris"]),  # here no word has one
        ("The capital of France is", ["--target", "."]),  # no word
        ("Oslo is in Norway.\nParis is in Fr", ["--target", "ance"]),  # the rest of a word
        ("The capital of France is", ["--target", "Paris", "--chat"]),
    ],
)
def test_no_word_is_said_where_the_target_is_right(real, prompt, options):
    status, _, err = real("logit-lens", prompt, *options, "--positions", "-1", "--layers", "28:")
    assert (status, err) == (0, "")


def test_of_a_file_the_first_of_such_targets_is_told(real, tmp_path):
    file = tmp_path / "facts.csv"
    facts = [("France", " Paris"), ("England", "London"), ("Italy", "Rome")]
    rows = [f"The capital of {country} is,{city}" for country, city in facts]
    file.write_text("\n".join(["prompt,target", *rows]))
    _, _, err = real("logit-lens", "--prompts", str(file), "--positions", "-1", "--layers", "-1")
    assert err.count("\n") == 1
    assert 'target "London" of prompt 1 has no leading space' in err
    assert "1 other target is like it" in err
    _, _, err = real("logit-lens", "--prompts", str(file), "--positions", "0")
    assert '" London" is another token.' in err  # what is said at the end was not read


def test_a_word_that_is_one_token_only_with_its_space_is_offered(real):
    status, _, err = real("logit-lens", "The capital of Japan is", "--target", "Tokyo")
    assert status == 2
    assert "With a space before it, it is one: pass ' Tokyo'" in err


# -- prompts without quotation marks -----------------------------------


def test_words_without_quotation_marks_are_told(small):
    status, _, err = small("logit-lens", "The", "quick", "fox", "--target", " the", "--raw")
    assert status == 0
    assert "3 prompts of one word each" in err
    assert 'lens-recipes logit-lens "The quick fox" --target " the" --raw\n' in err
    assert "--target ' the'" not in err
    for prompts in (["The"], ["The fox", "runs"]):
        assert small("logit-lens", *prompts)[2] == ""
    assert "3 prompts" in small("attribute", "The", "quick", "fox", "--target", " the")[2]


def test_the_command_to_type_is_read_back_by_a_shell():
    arguments = ["logit-lens", "It's", 'a "fox"?', "$HOME", "--target", " the"]
    command = quoted_command(arguments, ["It's", 'a "fox"?', "$HOME"])
    expected = ["lens-recipes", "logit-lens", 'It\'s a "fox"? $HOME', "--target", " the"]
    assert shlex.split(command) == expected


# -- chat, formats, pictures, pages ------------------------------------


def test_chat_goes_through_the_template(small, llama):
    status, out, _ = small("logit-lens", "Hi there", "--chat", "--json", "-")
    assert status == 0
    expected = lr.logit_lens(llama, [[{"role": "user", "content": "Hi there"}]])
    result = json.loads(out)
    assert result["prompts"] == expected.prompts == ["<s>user: Hi there</s>\nassistant:"]
    assert result["arrays"]["top_ids"] == expected.top_ids.tolist()


@pytest.mark.parametrize("command", ["logit-lens", "attribute"])
@pytest.mark.parametrize("form", ["markdown", "tsv", "json"])
def test_the_table_in_each_format(small, llama, command, form):
    """On stdout what `table` gives; what to distrust where it disturbs nobody."""
    status, out, err = small(command, "The fox", "--target", " the", "--format", form)
    assert status == 0
    if command == "logit-lens":
        result = lr.logit_lens(llama, "The fox", targets=[" the"])
        doubts = list(lens_doubts(result))
    else:
        result = lr.attribution(llama, "The fox", " the")
        doubts = list(attribution_doubts(result))
    n_shown = 5 if command == "logit-lens" else 10
    assert doubts
    if form == "markdown":
        assert err == ""
        assert out.count("- distrust: ") == len(doubts)
        return
    assert err.splitlines() == [f"distrust: {doubt}" for doubt in doubts]
    if form == "json":
        shown = json.loads(lr.table(result, format="json", show_top=n_shown))
        assert [list(row) for row in json.loads(out)] == [list(row) for row in shown]
    else:
        rows = list(csv.DictReader(out.splitlines(), dialect="excel-tab"))
        assert len(rows) == (len(result.sites) if command == "logit-lens" else len(result.parts))
        assert rows[0]["input_id"] == str(result.tokens.id[-1])


def test_a_format_of_no_table_is_refused(small):
    status, _, err = small("logit-lens", "Hi", "--format", "tsv", "--json", "-")
    assert status == 2
    assert "--format" in err


def test_what_to_distrust_stands_below_the_table(small, llama):
    status, out, err = small("logit-lens", "The fox")
    assert (status, err) == (0, "")
    lines = [line.removeprefix("distrust: ") for line in out.splitlines() if "distrust: " in line]
    assert lines == list(lens_doubts(lr.logit_lens(llama, "The fox")))
    assert out.index("certified") < out.index("distrust: ")
    raw = small("logit-lens", "The fox", "--raw")[1]
    assert raw.count("RAW STREAM") == 1  # the table has said it


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("logit-lens", []),
        ("logit-lens", ["--metric", "kl"]),
        ("attribute", ["--target", " the"]),
        ("generate", ["--greedy", "--max-new-tokens", "2"]),
    ],
)
@pytest.mark.parametrize("offline", [True, False])
def test_html_is_one_page_that_needs_no_network(small, tmp_path, command, options, offline):
    page = tmp_path / "a.html"
    more = ["--offline"] if offline else []
    status, _, err = small(command, "The fox", *options, "--html", str(page), *more)
    assert status == 0, err
    text = page.read_text(encoding="utf-8")
    assert "plotly" in text
    assert not re.search(r"<script[^>]* src=", text)
    assert "cdn.plot.ly" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("command", ["logit-lens", "attribute"])
def test_a_small_page_from_a_cdn_is_asked_for(small, tmp_path, command):
    page = tmp_path / "a.html"
    options = ["--target", " the", "--html", str(page), "--cdn"]
    assert small(command, "The fox", *options)[0] == 0
    assert page.stat().st_size < 200_000
    assert re.search(r'<script[^>]* src="https://cdn\.plot\.ly/', page.read_text())


@pytest.mark.parametrize("command", ["logit-lens", "attribute", "generate", "show"])
def test_a_page_has_the_name_of_a_page(small, llama, tmp_path, command):
    file = tmp_path / "a.json"
    lr.logit_lens(llama, "Hi").save(file)
    what = [str(file)] if command == "show" else ["Hi"]
    if command == "attribute":
        what += ["--target", " the"]
    status, out, err = small(command, *what, "--html", str(tmp_path / "x.txt"))
    assert (status, out) == (2, "")
    assert "--html" in err
    assert "must end in .html" in err
    assert not (tmp_path / "x.txt").exists()


def test_the_page_of_each_command_is_the_page_of_show(small, tmp_path, monkeypatch):
    """One meaning: what a command writes of its result, `show` writes of the result's file."""
    pages = []
    for name in ("report", "write_generation", "write_html"):
        monkeypatch.setattr(lr, name, lambda *args, name=name, **more: pages.append(name))
    commands = [
        ["logit-lens", "The fox"],
        ["attribute", "The fox", "--target", " the"],
        ["generate", "The fox", "--greedy", "--max-new-tokens", "2"],
    ]
    for command in commands:
        files = ["--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]
        assert small(*command, *files)[0] == 0
        assert small("show", str(tmp_path / "a.json"), *files[:2])[0] == 0
    assert pages[::2] == pages[1::2] == ["report", "write_html", "write_generation"]


def test_a_picture_is_the_figure_of_show(small, llama, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(export, "save_png", lambda figure, path: drawn.append((figure, path)))
    png = tmp_path / "a.png"
    options = ["--target", " the", "--png", str(png)]
    status, _, err = small("logit-lens", "The fox", *options, "--metric", "rank", "--of", " the")
    assert (status, err.splitlines()[-1]) == (0, f"wrote {png}")
    result = lr.logit_lens(llama, "The fox", targets=[" the"])
    expected = lr.heatmap(result, metric="rank", of=" the")
    assert drawn[0][0].to_json() == expected.to_json()
    assert drawn[0][1] == png
    small("attribute", "The fox", *options)
    expected = lr.attribution_bars(lr.attribution(llama, "The fox", " the"))
    assert drawn[1][0].to_json() == expected.to_json()
    status, _, err = small("logit-lens", "The fox", "--png", str(tmp_path / "a.pdf"))
    assert status == 2
    assert "must end in .png or .svg" in err


def test_without_a_browser_a_picture_is_an_error_in_a_sentence(small, tmp_path, monkeypatch):
    def fail(*args):
        raise lr.LensError("no browser")

    monkeypatch.setattr(export, "draw_image", fail)
    status, out, err = small("logit-lens", "The fox", "--png", str(tmp_path / "a.png"))
    assert status == 1
    assert "certified" in out  # the table is there all the same
    assert err.startswith("lens-recipes: ")
