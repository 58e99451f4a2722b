"""Sentences name what their reader typed: arguments in Python, options in a shell."""

from __future__ import annotations

import doctest
import json
import re
import shlex

import pytest
import tiny

import lens_recipes as lr
from lens_recipes import caller
from lens_recipes.caller import argument, in_a_shell, parameter, say
from lens_recipes.cli.app import app
from lens_recipes.cli.common import unquoted, usage
from lens_recipes.cli.common.arguments import OPTIONS

# What only a program can write: keywords, calls, indexing, literals.
PYTHON = re.compile(r"[a-z_]+=|[a-z_]+\(|result\[|\bNone\b|slice|`|Value error|Input should")


@pytest.fixture
def files(llama, tmp_path, monkeypatch):
    """Saved results in the current folder."""
    monkeypatch.chdir(tmp_path)
    lr.logit_lens(llama, ["The fox", "One, two", "A", "B"], targets=[" the"]).save("lens.json")
    lr.attribution(llama, "The fox", " the", unit="head").save("heads.json")
    lr.generate_lens(llama, "The fox", max_new_tokens=45, do_sample=False).save("written.json")
    (tmp_path / "some.txt").write_text("a")


MISTAKES = [
    "logit-lens Hi --layers 99",
    "logit-lens Hi --layers 3:3",
    "logit-lens Hi --positions 9",
    "logit-lens Hi --heads 0",
    "logit-lens Hi --components head_out --heads 9",
    "logit-lens Hi --components attn",
    "logit-lens Hi --components ,",
    "logit-lens Hi --components mixer_out",
    "logit-lens Hi --show-top 60000",
    "logit-lens Hi --show-top 0",
    "logit-lens Hi --show-top many",
    "logit-lens Hi --target ''",
    "logit-lens Hi --target 'Parisian cafe'",
    "logit-lens ''",
    "logit-lens",
    "logit-lens Hi --metric colour",
    "logit-lens Hi --metric rank --html a.html",
    "logit-lens Hi --of Paris",
    "logit-lens Hi --html a.txt",
    "logit-lens Hi --dtype int8",
    "attribute Hi --target ' the' --against ' the'",
    "attribute Hi --target ' the' --at-layer 99",
    "attribute Hi --target ' the' --unit neuron",
    "attribute Hi --target ' the' --positions 9",
    "attribute Hi --target ' the' --against ''",
    "generate Hi there --greedy",
    "generate Hi --max-new-tokens 0",
    "generate Hi --max-new-tokens 100000",
    "generate Hi --components foo",
    "generate ''",
    "show lens.json --prompt 9",
    "show lens.json --position 99",
    "show lens.json --png a.png --metric rank",
    "show lens.json --png a.png --metric colour",
    "show lens.json --png a.png --metric rank --of Foo",
    "show lens.json --png a.png --metric logit_diff --of ' the'",
    "show lens.json --png a.png --of final --of next",
    "show lens.json --png a.png --metric kl --of next",
    "show lens.json --png a.png --metric loss --of final",
    "show lens.json --format tsv --width 80",
    "show lens.json --width 10",
    "show heads.json --stride 2",
    "show some.txt",
    "paste nothing",
    "paste first-lens --layers x",
    "doctor --host somewhere",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_in_a_shell_is_told_in_words_of_a_shell(cli, llama, files, line):
    status, _, err = cli(llama)(*shlex.split(line))
    assert status == 2
    said = err.split("Error: ")[-1].split("lens-recipes: ")[-1]
    assert not PYTHON.search(said.replace("\n", " ")), said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show lens.json", "lens-recipes show FILE --prompt 0"),
        ("show written.json", "--all-layers shows all"),
        ("show lens.json --stride 3 --table", "--stride 1 shows all"),
    ],
)
def test_what_a_table_leaves_out_is_had_by_an_option(cli, llama, files, line, words):
    status, out, _ = cli(llama)(*shlex.split(line))
    assert status == 0
    assert words in out
    assert not PYTHON.search(out.split("certified")[0].split("…")[-1])
    result = lr.LensResult.load(line.split()[1])
    assert "--" not in str(result).split("certified")[0]  # in Python it is the library's


def test_the_same_mistake_in_python_is_told_in_words_of_python(llama):
    with pytest.raises(ValueError, match="layers=99 is out of range"):
        lr.logit_lens(llama, "Hi", layers=99)
    with pytest.raises(ValueError, match=r"pass .*, or an id\."):
        lr.logit_lens(llama, "Hi", targets="")
    with pytest.raises(ValueError, match=r"Pass targets= to the recipe"):
        lr.heatmap(lr.logit_lens(llama, "Hi"), metric="rank", of="a")


def test_a_failed_certificate_offers_no_argument_in_a_shell(llama, cli):
    certificate = lr.logit_lens(llama, "Hi").certificate
    broken = certificate.__class__(**{**vars(certificate), "max_logit_error": 9.0})
    with pytest.raises(lr.LensError, match="strict=False"):
        broken.check()
    with in_a_shell(OPTIONS), pytest.raises(lr.LensError) as caught:
        broken.check()
    assert "strict" not in str(caught.value)


def test_a_model_that_cannot_be_split_is_told_by_options(cli):
    call = cli(lr.load(tiny.FAMILIES["mamba"](), tokenizer=tiny.tiny_tokenizer()))
    _, _, err = call("attribute", "!", "--target", "!", "--unit", "head")
    assert "--unit layer and --unit component work" in err


def test_every_option_that_is_named_exists():
    import typer

    commands = typer.main.get_command(app).commands.values()
    known = {name for command in commands for param in command.params for name in param.opts}
    assert set(OPTIONS.values()) <= known


def test_values_are_written_as_they_are_typed():
    with in_a_shell({"of": "--of"}):
        for value in (" Paris", "it's", 'a "b"', "$HOME", "plain"):
            assert shlex.split(argument("of", value)) == ["--of", value]
        assert argument("of", slice(None, None, 2)) == "--of ::2"
        assert argument("other", "a") == "other='a'"
        assert parameter("other") == "other"
        assert say(python="a", shell="b") == "b"
    assert argument("of", " Paris") == "of=' Paris'"
    assert say(python="a", shell="b") == "a"


def test_the_shell_is_left_when_its_command_ends(cli, llama):
    cli(llama)("logit-lens", "Hi", "--layers", "99")
    cli(llama)("logit-lens", "Hi", "--format", "json")
    assert say(python="a", shell="b") == "a"


def test_examples_of_docstrings():
    for module in (caller, usage, unquoted):
        assert doctest.testmod(module).failed == 0


def test_what_is_saved_does_not_depend_on_who_called(cli, llama, tmp_path):
    status, out, _ = cli(llama)("logit-lens", "The fox", "--json", "-")
    assert status == 0
    assert "--" not in json.dumps(json.loads(out)["provenance"]["arguments"])
