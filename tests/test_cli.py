"""The command line as people type it, with mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import lens_recipes as lr
from lens_recipes.cli.app import main
from lens_recipes.cli.common.outputs import write_for_programs
from lens_recipes.models.load import load


@pytest.fixture
def run(smollm2, cli):
    """Run the command on the shared model: (exit status, stdout, stderr)."""
    return cli(smollm2)


@pytest.fixture
def small(llama, cli):
    """The same on a tiny model."""
    return cli(llama)


def test_the_main_job(run, tmp_path):
    html, file = tmp_path / "a.html", tmp_path / "a.json"
    status, out, err = run(
        "logit-lens",
        "The capital of France is",
        "--target",
        " Paris",
        "--html",
        str(html),
        "--json",
        str(file),
    )
    assert status == 0
    assert "·Paris 0.77" in out
    assert "certified" in out
    assert f"wrote {html}" in err
    assert html.stat().st_size > 10_000
    result = lr.LensResult.load(file)
    assert result.target_ranks[-1, -1, 0] == 0


def test_json_to_stdout_is_json_and_nothing_else(run):
    status, out, _ = run("logit-lens", "Hi", "--layers", "10:12,", "--json", "-")
    assert status == 2
    status, out, _ = run(
        "logit-lens", "Hi", "--layers", "10:12", "--positions", "-1", "--json", "-"
    )
    assert status == 0
    assert [site[0] for site in json.loads(out)["sites"]] == [10, 11]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["PROMPT"]),
        ("Hi --target ' Parisian cafe'", ["4 tokens", "' Paris'"]),
        ("''", ["empty"]),
        ("Hi --layers 99", ["--layers 99", "0 to 29"]),
        ("Hi --layers x", ["--layers", "2:5"]),
        ("Hi --positions 1", ["--positions 1"]),
        ("Hi --json a.txt", ["--json", ".json"]),
        ("Hi --html /no/such/folder/a.html", ["--html", "no folder"]),
        ("Hi --metric rank --html a.html", ["--metric", "--of"]),
        ("Hi --metric colour", ["--metric", "'prob'"]),
        ("Hi --metric kl --of next", ["--metric", "--of"]),
        ("Hi --html /", ["--html", "is a folder"]),
        ("Hi --components attn", ["'attn'", "attn_out"]),
        ("Hi --components ,", ["--components must be", "attn_out"]),
        ("Hi --components mixer_out", ["no mixer_out", "attn_out"]),
        ("Hi --heads 0,1", ["heads", "head_out"]),
        ("Hi --heads 0 --components attn_out", ["heads", "head_out"]),
        ("Hi --components head_out --heads 9", ["--heads 9", "0 to 8"]),
        ("Hi --components head_out --heads x", ["--heads", "2:5"]),
        ("Hi --components head_out --heads 8:8", ["selects nothing", "0 to 8"]),
        ("Hi --show-top 60000", ["49152"]),
    ],
)
def test_bad_usage_is_status_2_and_one_message(run, arguments, words):
    status, out, err = run("logit-lens", *shlex.split(arguments))
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_a_failed_run_is_status_1(run, monkeypatch):
    def fail(*args, **kwargs):
        raise lr.LensError("there is no such model.")

    monkeypatch.setattr(lr, "load", fail)
    assert run("logit-lens", "Hi") == (1, "", "lens-recipes: there is no such model.\n")


def test_an_interrupt_is_status_130(run, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(lr, "load", stop)
    assert run("logit-lens", "Hi")[0] == 130


def test_anatomy_prints_real_paths(run):
    status, out, _ = run("anatomy")
    assert status == 0
    assert "model.norm" in out
    assert "lm_head" in out


def test_help_has_examples_and_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['lens-recipes', 'logit-lens', '--help']\n"
        "from lens_recipes.cli.app import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'slow "
        "import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    module = subprocess.run(
        [sys.executable, "-m", "lens_recipes", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert module.returncode == 0
    assert "logit-lens" in module.stdout


# -- components --------------------------------------------------------


def test_components_stand_side_by_side(small):
    status, out, err = small(
        "logit-lens", "The fox", "--positions", "-1", "--components", " attn_out, mlp_out"
    )
    assert status == 0
    assert err == ""
    lines = [line for line in out.splitlines() if "cannot be read" not in line]
    assert lines[1].split() == ["layer", "attn_out", "mlp_out"]
    assert [line.split()[0] for line in lines[2:6]] == ["0", "1", "2", "3"]


def test_components_and_heads_are_the_recipes_own(small, llama, tmp_path):
    """What the options say is what the call says."""
    file = tmp_path / "heads.npz"
    chosen = ["--components", "head_out,resid_post", "--heads", "0,-1", "--layers", "1:3"]
    status, _, err = small("logit-lens", "The fox", *chosen, "--json", str(file))
    assert status == 0
    assert err == f"wrote {file}\n"
    expected = lr.logit_lens(
        llama, "The fox", components=["head_out", "resid_post"], heads=[0, -1], layers=slice(1, 3)
    )
    result = lr.LensResult.load(file)
    assert result.sites == expected.sites
    assert len(result.sites) == 2 * 3
    np.testing.assert_array_equal(result.top_ids, expected.top_ids)


def test_a_figure_of_components(small, tmp_path):
    html = tmp_path / "parts.html"
    status, out, err = small(
        "logit-lens",
        "The fox",
        "--components",
        "attn_out,mlp_out,head_out",
        "--heads",
        "2",
        "--html",
        str(html),
    )
    assert status == 0
    assert "2.head_out.2" in out
    assert err == f"wrote {html}\n"
    assert all(name in html.read_text() for name in ("3.attn_out", "3.mlp_out", "3.head_out.2"))


# -- attribution -------------------------------------------------------

FOX = ("attribute", "The fox", "--target", " the")


def test_a_real_attribution(run):
    status, out, err = run(
        "attribute",
        "The capital of France is",
        "--target",
        " Paris",
        "--against",
        " London",
        "--unit",
        "head",
    )
    assert status == 0
    assert err == ""
    assert "·Paris − ·London" in out
    assert "head_out" in out
    assert "certified" in out


@pytest.mark.parametrize("unit", ["layer", "component", "head", "token"])
def test_each_unit_has_its_table_and_its_figure(small, tmp_path, unit):
    """Parts on stdout sum to the total there; bars, a grid or a map in the file; notes on stderr."""
    html = tmp_path / f"{unit}.html"
    status, out, err = small(*FOX, "--unit", unit, "--show-top", "3", "--html", str(html))
    assert status == 0
    assert err == f"wrote {html}\n"
    rows = {
        name: float(value)
        for name, value in re.findall(r"^(\S.*?) +([+-]\d\S*)$", out, re.MULTILINE)
    }
    parts = [value for name, value in rows.items() if name not in ("total", "the logit")]
    assert len(parts) == 4  # three, and all the others
    assert sum(parts) == pytest.approx(rows["total"], abs=0.03)
    assert rows["total"] == pytest.approx(rows["the logit"], abs=0.011)
    assert "certified" in out
    kind = {"layer": '"type":"bar"', "component": '"type":"bar"'}.get(unit, '"type":"heatmap"')
    page = html.read_text()
    assert kind in page.split("Plotly.newPlot(")[-1].replace(" ", "")
    words = {
        "layer": "layer 3",
        "component": "3.mlp_out",
        "head": '"head"',
        "token": "token that is read from",
    }
    assert words[unit] in page


@pytest.mark.parametrize("against", [None, "mean", " and"])
def test_against_nothing_the_mean_or_a_token(small, llama, against):
    options = [] if against is None else ["--against", against]
    status, out, err = small(*FOX, *options, "--json", "-")
    assert (status, err) == (0, "")
    expected = lr.attribution(llama, "The fox", " the", against=against)
    np.testing.assert_allclose(json.loads(out)["arrays"]["total"], expected.total, atol=1e-6)
    _, table, _ = small(*FOX, *options)
    assert {None: "·the\n", "mean": "·the − mean", " and": "·the − ·and"}[against] in table


@pytest.mark.parametrize(("layer", "rows"), [("1", 2), ("-1", 4), ("0", 1)])
def test_at_a_layer_no_later_one_counts(small, layer, rows):
    status, out, _ = small(*FOX, "--at-layer", layer)
    assert status == 0
    assert len(re.findall(r"^layer \d", out, re.MULTILINE)) == rows


@pytest.mark.parametrize("unit", ["layer", "token"])
def test_json_on_stdout_is_a_file_that_can_be_read(small, tmp_path, unit):
    """Strict JSON and nothing else, also beside a figure, and what the recipe gives."""
    page = tmp_path / "a.html"
    status, out, err = small(
        *FOX, "--unit", unit, "--positions", "all", "--json", "-", "--html", str(page)
    )
    assert status == 0
    assert err == f"wrote {page}\n"
    assert out.count("\n") == 1

    def refuse(word):
        raise AssertionError(word)

    json.loads(out, parse_constant=refuse)
    file = tmp_path / "a.json"
    file.write_text(out)
    result = lr.Attribution.load(file)
    assert result.unit == unit
    assert result.certificate.passed
    np.testing.assert_allclose(result.values.sum(0), result.total, atol=1e-5)
    assert len(result.tokens) == len(result.tokens.text) == 3


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_the_file_is_the_recipes_result(small, llama, tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    status, out, err = small(*FOX, "--target", " and", "--unit", "head", "--json", str(file))
    assert status == 0
    assert err == f"wrote {file}\n"
    assert "·the" in out
    assert "·and" in out
    result, expected = (
        lr.Attribution.load(file),
        lr.attribution(llama, "The fox", [" the", " and"], unit="head"),
    )
    assert result.parts == expected.parts
    np.testing.assert_allclose(result.values, expected.values, atol=1e-6)


def test_several_prompts_and_targets(small, tmp_path):
    """All in the table and in the file; what the figure leaves out is said."""
    html, file = tmp_path / "a.html", tmp_path / "a.npz"
    options = ["--target", " the", "--target", " and", "--html", str(html), "--json", str(file)]
    status, out, err = small("attribute", "The fox", "The quick brown", *options)
    assert status == 0
    assert "The fox" in out
    assert "The quick brown" in out
    assert err.splitlines() == [
        "the figure shows the first of 2 prompts",
        "the figure shows the first of 2 targets",
        f"wrote {html}",
        f"wrote {file}",
    ]
    result = lr.Attribution.load(file)
    assert len(result) == 2
    assert result.target_ids.shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--target ' the'", ["PROMPT"]),
        ("Hi", ["--target"]),
        ("'' --target ' the'", ["empty"]),
        ("Hi --target ''", ["0 tokens"]),
        ("Hi --target 'Parisian cafe'", ["11 tokens", "'Pa'"]),
        ("Hi --target ' the' --against 'Parisian cafe'", ["11 tokens", "'Pa'"]),
        ("Hi --target ' the' --against ''", ["0 tokens"]),
        ("Hi --target ' the' --unit neuron", ["--unit", "'component'"]),
        ("Hi --target ' the' --at-layer 4", ["--at-layer 4", "0 to 3"]),
        ("Hi --target ' the' --at-layer last", ["--at-layer", "integer"]),
        ("Hi --target ' the' --positions 9", ["--positions 9", "0 to 1"]),
        ("Hi --target ' the' --positions last", ["--positions", "2:5"]),
        ("Hi --target ' the' --positions ::0", ["--positions", "2:5"]),
        ("Hi --target ' the' --positions ''", ["--positions", "2:5"]),
        ("Hi --target ' the' --show-top 0", ["--show-top"]),
        ("Hi --target ' the' --json a.csv", ["--json", ".npz"]),
        ("Hi --target ' the' --json /no/such/folder/a.json", ["--json", "no folder"]),
        ("Hi --target ' the' --html /no/such/folder/a.html", ["--html", "no folder"]),
        ("Hi --target ' the' --html /", ["--html", "is a folder"]),
        ("Hi --target ' the' --dtype int8", ["--dtype", "bfloat16"]),
        ("Hi --target ' the' --heads 0", ["--heads"]),
    ],
)
def test_bad_usage_of_attribute_is_status_2_and_one_message(small, arguments, words):
    status, out, err = small("attribute", *shlex.split(arguments))
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_an_output_folder_is_refused_before_the_model_is_loaded(monkeypatch, small, tmp_path):
    """A long run whose result cannot be written is a lost run."""

    def fail(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr(lr, "load", fail)
    (tmp_path / "results.json").mkdir()
    for option, path in (("--json", tmp_path / "results.json"), ("--html", tmp_path)):
        status, out, err = small(*FOX, option, str(path))
        assert (status, out) == (2, "")
        assert "is a folder" in err


def test_a_model_that_cannot_be_split_is_status_1(cli):
    """A model without heads: nothing that the caller typed is wrong."""
    module = tiny.FAMILIES["mamba"]()
    call = cli(lr.load(module, tokenizer=tiny.tiny_tokenizer()))
    status, out, err = call("attribute", "!", "--target", "!", "--unit", "head")
    assert (status, out) == (1, "")
    assert err.startswith("lens-recipes: MambaForCausalLM has no attention")


# -- as a program ------------------------------------------------------


def _program(*arguments: str, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "lens_recipes", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **more
    )


def test_from_a_folder_in_a_process_of_its_own(folder, tmp_path):
    """Nothing but the result on stdout, though libraries print while a model is loaded."""
    done = _program(
        "attribute", "The fox", "--target", " the", "--unit", "token", "--model", str(folder), "--json", "-",
        "--html", "map.html", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "lens-recipes/attribution"
    assert "wrote map.html" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path(tmp_path, "map.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "command", [("logit-lens", "Hi"), ("attribute", "Hi", "--target", " the"), ("anatomy",)]
)
@pytest.mark.parametrize(
    ("name", "words"), [("none", "there is no folder"), ("", "holds no model")]
)
def test_a_folder_without_a_model_is_status_1(small, monkeypatch, tmp_path, command, name, words):
    """One sentence for what transformers says in twenty lines."""
    monkeypatch.setattr(lr, "load", load)
    status, out, err = small(*command, "--model", str(tmp_path / name))
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("lens-recipes: ")
    assert words in err
    assert "Traceback" not in err


def test_a_report_is_written_beside_the_rest(cli, llama, tmp_path):
    run, page = cli(llama), tmp_path / "report.html"
    status, out, err = run(
        "logit-lens", "some words", "--report", str(page), "--json", str(tmp_path / "a.json")
    )
    assert (status, err.splitlines()[-1]) == (0, f"wrote {page}")
    assert "certified" in out
    assert "some words" in page.read_text(encoding="utf-8")
    for clash in ("--html", "--json"):
        other = tmp_path / "a.json" if clash == "--json" else page
        status, _, err = run("logit-lens", "some words", "--report", str(other), clash, str(other))
        assert status == 2
        assert f"where {'--report' if clash == '--json' else '--html'} goes, too" in err.replace(
            "\n", " "
        )


# -- a console that is not UTF-8 ---------------------------------------

FOREIGN = "Le café, 日本 😀"


@pytest.fixture(scope="module")
def foreign_file(llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "a.json"
    lr.logit_lens(llama, FOREIGN, positions=-1).save(path)
    return str(path)


def bytes_on_stdout(monkeypatch, model, arguments, encoding):
    """What a command writes to a stdout of an encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(lr, "load", lambda *args, **kwargs: model)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline=""))
    monkeypatch.setattr(sys, "argv", ["lens-recipes", *arguments])
    with contextlib.suppress(SystemExit):
        main()
    sys.stdout.flush()
    return raw.getvalue()


MACHINE_OUTPUTS = {
    "logit-lens": ["logit-lens", FOREIGN, "--positions", "-1", "--json", "-"],
    "attribute": ["attribute", FOREIGN, "--target", " the", "--json", "-"],
    "generate": ["generate", FOREIGN, "--greedy", "--max-new-tokens", "2", "--json", "-"],
    "show tsv": ["show", "FILE", "--format", "tsv"],
    "show markdown": ["show", "FILE", "--format", "markdown"],
    "show summary": ["show", "FILE", "--summary"],
    "paste": ["paste", "first-lens", "--model", "FOLDER"],
}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16-le"])
@pytest.mark.parametrize("name", MACHINE_OUTPUTS)
def test_what_a_program_reads_is_utf8_whatever_the_console(
    monkeypatch, llama, foreign_file, folder, name, encoding
):
    """No character of it is replaced."""
    places = {"FILE": foreign_file, "FOLDER": str(folder)}
    arguments = [places.get(argument, argument) for argument in MACHINE_OUTPUTS[name]]
    written = bytes_on_stdout(monkeypatch, llama, arguments, encoding).decode("utf-8")
    if name in ("logit-lens", "attribute", "generate"):
        result = json.loads(written)
        assert FOREIGN in result["prompts"][0]
    elif name == "paste":
        assert written == bytes_on_stdout(monkeypatch, llama, arguments, "utf-8").decode("utf-8")
    else:
        assert written == bytes_on_stdout(monkeypatch, llama, arguments, "utf-8").decode("utf-8")
        assert "日本" in written or "⟨" in written


def test_what_a_person_reads_has_question_marks_where_the_console_lacks_a_character(
    monkeypatch, llama, foreign_file
):
    text = bytes_on_stdout(monkeypatch, llama, ["show", foreign_file], "cp1252").decode("cp1252")
    assert "?" in text
    assert "as saved" in text


def test_a_text_without_a_meaning_in_utf8_is_no_traceback(capsys):
    write_for_programs("half of a pair: \ud83d")
    assert json.dumps(capsys.readouterr().out)
