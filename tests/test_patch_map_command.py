"""`lens-recipes patch-map`, and `show` of what it wrote."""

from __future__ import annotations

import json
import shlex

import pytest

import lens_recipes as lr

PAIR = ("The capital of France is", "The capital of Spain is")
ANSWERS = ("--target", " Paris", "--against", " Madrid")


def test_a_map_on_the_terminal_in_files_and_shown_again(smollm2, cli, tmp_path):
    run = cli(smollm2)
    html, file = tmp_path / "map.html", tmp_path / "map.json"
    status, out, err = run(
        "patch-map", *PAIR, *ANSWERS, "--layers", "20,25", "--html", str(html), "--json", str(file)
    )
    assert status == 0
    assert "resid_post of layer 20, position 3 (·France→·Spain)" in out
    assert "distrust: one pair is one observation" in out
    assert f"wrote {html}" in err
    assert "plotly" in html.read_text()
    saved = lr.PatchMap.load(file)
    assert saved.layers == [20, 25]
    assert run("show", str(file))[:2] == (0, out)
    status, summary, _ = run("show", str(file), "--summary")
    assert (status, summary) == (0, saved.summary() + "\n")
    status, table, err = run("show", str(file), "--format", "tsv")
    assert status == 0
    assert len(table.splitlines()) == 1 + saved.mean.size
    assert "distrust" in err
    status, _, err = run("show", str(file), "--verify", "smollm2")
    assert status == 2
    assert "holds a patch map" in err


def test_the_whole_map_on_stdout(smollm2, cli):
    status, out, _ = cli(smollm2)(
        "patch-map", *PAIR, *ANSWERS, "--layers", "29", "--unit", "head_out", "--json", "-"
    )
    assert status == 0
    assert json.loads(out)["format"] == "lens-recipes/patch-map"


def test_spans_and_gradients(smollm2, cli):
    status, out, _ = cli(smollm2)(
        "patch-map", *PAIR, *ANSWERS, "--layers", "23", "--span", "country= France| Spain",
        "--span", "verb= is", "--method", "gradient", "--verify", "2", "--summary",
    )  # fmt: skip
    assert status == 0
    assert "APPROXIMATION" in out
    assert "verb (·is)" in out
    assert "run exactly, 2 cells" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--target ' Paris' --against ' Paris'", "their difference is nothing"),
        ("--target ' Paris' --against ' Madrid' --unit tails", "'tails' is not one of"),
        ("--target ' Paris' --against ' Madrid' --span country", "NAME=CLEAN|CORRUPT"),
        ("--target ' Paris' --against ' Madrid' --align-end --span a=b", "leave --align-end out"),
        ("--target ' Paris' --against ' Madrid' --format json", "text, markdown or tsv"),
        ("--target ' Paris' --against ' Madrid' --layers 99", "lens-recipes: --layers 99 is out"),
        ("--target ' Paris' --against ' Madrid' --verify 2", "with --method gradient"),
        ("--target ' Paris' --against ' Madrid' --span a=b", "--span a: 'b' does not occur"),
        ("--target ' Parisian' --against ' Madrid'", "' Parisian'"),
        ("--target ' Paris'", "--against"),
    ],
)
def test_bad_usage_is_status_2_and_a_sentence(smollm2, cli, options, words):
    status, out, err = cli(smollm2)("patch-map", *PAIR, *shlex.split(options))
    assert status == 2
    assert words in err
    assert not out


def test_a_pair_that_the_model_does_not_know_is_a_sentence(smollm2, cli):
    status, _, err = cli(smollm2)(
        "patch-map", *PAIR, "--target", " Madrid", "--against", " Paris", "--layers", "0"
    )
    assert status == 1
    assert "in the clean run the model does not prefer ' Madrid' to ' Paris'" in err
    assert "keep_all" not in err


def test_an_answer_without_its_space_is_told(smollm2, cli):
    status, _, err = cli(smollm2)("patch-map", *PAIR, "--target", "Paris", *ANSWERS[2:])
    assert status == 1
    assert 'warning: "Paris" has no leading space.' in err
    assert '"Madrid" has no' not in err


def test_other_lengths_are_answered_with_options(smollm2, cli):
    status, _, err = cli(smollm2)(
        "patch-map", PAIR[0], "The capital of Great Britain is", "--target", " Paris",
        "--against", " London",
    )  # fmt: skip
    assert status == 2
    assert "--align-end" in err
    assert "align=" not in err
