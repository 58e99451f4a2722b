"""`lens-recipes show` as people type it: what was saved is shown again, and no model's library is imported for it."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from hostile import hostile_texts

import lens_recipes as lr
from lens_recipes.arrays.text import visible_token
from lens_recipes.caller import in_a_shell
from lens_recipes.results import load_result
from lens_recipes.views.figures import export as figure_files

KINDS = ["lens", "parts", "generation", "heads", "sources"]
HEAVY = ("torch", "transformers", "nnsight")


@pytest.fixture
def run(cli):
    """Run the command line, and fail if it loads a model: (exit status, stdout, stderr)."""
    return cli()


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(lr, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))


@pytest.fixture(scope="module")
def made(llama):
    return {
        "lens": lr.logit_lens(llama, ["The fox", "One two"], targets=[" the", 7]),
        "parts": lr.logit_lens(llama, "The fox", components=["attn_out", "mlp_out"]),
        "generation": lr.generate_lens(llama, "The fox", max_new_tokens=3, do_sample=False),
        "heads": lr.attribution(llama, "The fox", [" the", 7], unit="head"),
        "sources": lr.attribution(llama, ["The fox", "One two"], " the", unit="token"),
    }


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for kind, result in made.items():
        result.save(folder / f"{kind}.json")
        result.save(folder / f"{kind}.npz")
    return folder


@pytest.fixture(scope="module")
def results(made, files):
    """The results as their files say."""
    return {kind: type(result).load(files / f"{kind}.json") for kind, result in made.items()}


def as_a_file_says(printed):
    """What was printed of a run, as it is printed of the run's file."""
    return re.sub(r"\bcertified: ", "as saved, not checked here: ", printed)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, instead of drawing it: that takes a browser, and is tested with the figures."""
    seen = []
    for name in ("save_png", "save_svg"):
        monkeypatch.setattr(
            figure_files, name, lambda *args, name=name: seen.append((name, *args)), raising=False
        )
    return seen


# -- what it shows -----------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("logit-lens", "The fox", "One two", "--target", " the"),
        ("logit-lens", "The fox", "--components", "attn_out,mlp_out,head_out"),
        ("logit-lens", "The fox", "--raw"),
        ("attribute", "The fox", "--target", " the", "--unit", "token"),
        ("attribute", "The fox", "--target", " the", "--target", " and", "--against", "mean"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_it_prints_what_the_recipes_command_printed(cli, llama, run, tmp_path, command, suffix):
    file = str(tmp_path / f"a{suffix}")
    status, printed, _ = cli(llama)(*command, "--json", file)
    assert status == 0
    status, again, err = run("show", file)
    assert (status, err) == (0, "")
    assert again.split() == as_a_file_says(printed).split()


def test_a_generation_is_its_report_again(cli, llama, run, tmp_path):
    file = str(tmp_path / "a.json")
    status, printed, _ = cli(llama)(
        "generate", "The fox", "--greedy", "--max-new-tokens", "4", "--json", file
    )
    assert status == 0
    status, again, err = run("show", file)
    assert (status, err) == (0, "")
    steps = "\nstep "
    says = as_a_file_says(printed).split(steps)[1]
    assert again.split(steps)[1].split() == says.split()  # a longer line has other breaks
    result = lr.LensResult.load(file)
    assert again.startswith("The fox\n")
    assert result.responses[0].text.splitlines()[0] in again
    assert "Layer by layer" not in again
    _, in_full, _ = cli(llama)(
        "generate", "The fox", "--greedy", "--max-new-tokens", "4", "--all-layers"
    )
    status, again, err = run("show", file, "--all-layers")
    assert (status, err) == (0, "")
    steps, timing = "\nLayer by layer", "\nTiming"
    says = in_full.split(steps)[1].split(timing)[0]
    assert again.split(steps)[1].split(timing)[0].split() == says.split()
    status, table, _ = run("show", file, "--table")
    assert table.rstrip() == "\n".join(line.rstrip() for line in lr.table(result).splitlines())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--table"], {}),
        (["--format", "markdown"], {"format": "markdown"}),
        (["--format", "tsv", "--show-top", "2"], {"format": "tsv", "show_top": 2}),
        (["--width", "44"], {"width": 44}),
        (["--position", "0", "--prompt", "-1"], {"position": 0, "prompt": -1}),
        (
            ["--table", "--width", "60", "--show-top", "1", "--prompt", "0"],
            {"width": 60, "show_top": 1, "prompt": 0},
        ),
    ],
)
def test_the_table_is_the_librarys(run, files, results, kind, options, arguments):
    status, out, err = run("show", str(files / f"{kind}.npz"), *options)
    assert (status, err) == (0, "")
    with in_a_shell({}):
        expected = lr.table(results[kind], **arguments)
    if arguments.get("format") in (None, "text"):
        out = "\n".join(line.rstrip() for line in out.splitlines())  # a console fills its lines
    assert out.rstrip("\n") == expected


def test_a_stride_is_of_the_table_or_of_the_picture(run, files, results, drawn):
    file = str(files / "lens.json")
    _, out, _ = run("show", file, "--stride", "3", "--format", "tsv")
    rows = list(csv.DictReader(out.splitlines(), dialect="excel-tab"))
    assert [row["layer"] for row in rows] == ["0", "3"] * 2
    status, out, _ = run("show", file, "--stride", "3", "--png", str(files / "a.png"))
    assert (status, out) == (0, "")
    assert list(drawn[0][1].layout.yaxis.ticktext) == ["0", "3", "output"]
    _, out, _ = run("show", file, "--stride", "3", "--png", str(files / "a.png"), "--table")
    assert "2 of 4 layers" in out


@pytest.mark.parametrize("kind", KINDS)
def test_the_summary_is_the_results(run, files, results, kind):
    assert run("show", str(files / f"{kind}.json"), "--summary") == (
        0,
        f"{results[kind].summary()}\n",
        "",
    )
    both = run("show", str(files / f"{kind}.json"), "--summary", "--table", "--prompt", "0")[1]
    assert both.startswith(results[kind][0].summary())
    assert "as saved, not checked here: " in both


@pytest.mark.parametrize("form", ["text", "markdown", "tsv"])
def test_hostile_tokens_reach_no_terminal(run, results, tmp_path, form):
    for kind in ("lens", "generation", "sources"):
        hostile = hostile_texts(results[kind])
        hostile.save(tmp_path / "a.npz")
        status, out, err = run("show", str(tmp_path / "a.npz"), "--format", form, "--prompt", "0")
        assert (status, err) == (0, "")
        assert not set("\x00\x1b\u202e\ud800\r") & set(out)
        assert visible_token(hostile[0].tokens.text[-1])[:7] in html.unescape(out)


# -- pages and pictures ------------------------------------------------


@pytest.fixture
def reported(monkeypatch):
    """What `report` is called with."""
    seen = []
    monkeypatch.setattr(lr, "report", lambda *args, **options: seen.append((*args, options)))
    return seen


@pytest.mark.parametrize(
    ("options", "prompts"), [([], None), (["--prompt", "1"], [1]), (["--prompt", "-2"], [0])]
)
def test_a_page_of_a_lens_result_is_its_report(
    run, files, results, reported, tmp_path, options, prompts
):
    page = tmp_path / "a.html"
    assert run("show", str(files / "lens.json"), "--html", str(page), *options) == (
        0,
        "",
        f"wrote {page}\n",
    )
    result, path, more = reported[0]
    np.testing.assert_array_equal(result.top_ids, results["lens"].top_ids)
    assert (path, more) == (page, {"prompts": prompts, "beside": None})


@pytest.mark.parametrize(
    ("kind", "words"), [("heads", "what each head adds"), ("sources", "token that is read from")]
)
def test_a_page_of_an_attribution_is_its_figure_and_needs_no_network(
    run, files, tmp_path, kind, words
):
    page = tmp_path / "a.html"
    status, out, err = run("show", str(files / f"{kind}.json"), "--html", str(page))
    assert (status, out) == (0, "")
    what = {"heads": "targets", "sources": "prompts"}[kind]
    assert err == f"the figure shows the first of 2 {what}\nwrote {page}\n"
    assert words in page.read_text()
    assert not re.search("<script[^>]* src=", page.read_text())


def test_a_picture_is_the_figure_that_the_options_say(run, files, results, drawn, tmp_path):
    lens, png, svg = str(files / "lens.json"), tmp_path / "a.png", tmp_path / "a.svg"
    options = ["--metric", "rank", "--of", " the", "--prompt", "1"]
    assert run("show", lens, "--png", str(png), *options) == (0, "", f"wrote {png}\n")
    expected = lr.heatmap(results["lens"], metric="rank", of=" the", prompt=1)
    name, figure, path = drawn.pop()
    assert (name, path) == ("save_png", png)
    assert figure.to_json() == expected.to_json()
    run(
        "show",
        lens,
        "--png",
        str(svg),
        "--metric",
        "logit_diff",
        "--of",
        " the",
        "--of",
        results["lens"].text(7),
    )
    name, figure, path = drawn.pop()
    assert (name, path) == ("save_svg", svg)
    pair = (" the", results["lens"].text(7))
    assert figure.to_json() == lr.heatmap(results["lens"], metric="logit_diff", of=pair).to_json()
    run("show", str(files / "generation.json"), "--png", str(png))
    assert drawn.pop()[1].to_json() == lr.generation_heatmap(results["generation"]).to_json()
    _, _, err = run("show", str(files / "sources.json"), "--png", str(png), "--prompt", "1")
    assert drawn.pop()[1].to_json() == lr.source_map(results["sources"], prompt=1).to_json()
    assert err == f"wrote {png}\n"


def test_several_outputs_at_once(run, files, results, drawn, reported, tmp_path):
    page, png = tmp_path / "a.html", tmp_path / "a.PNG"
    status, out, err = run(
        "show",
        str(files / "lens.json"),
        "--html",
        str(page),
        "--png",
        str(png),
        "--summary",
        "--format",
        "tsv",
    )
    assert status == 0
    assert err == f"the figure shows the first of 2 prompts\nwrote {page}\nwrote {png}\n"
    assert (len(reported), len(drawn)) == (1, 1)
    assert out == f"{results['lens'].summary()}\n{lr.table(results['lens'], format='tsv')}\n"


# -- mistakes ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["FILE"]),
        ("lens.json parts.json", ["unexpected extra argument"]),
        ("lens.txt", [".json or .npz", "lens.txt"]),
        ("-", [".json or .npz"]),
        ("lens.json --format csv", ["--format", "'markdown'"]),
        ("lens.json --width 39", ["--width", "40"]),
        ("lens.json --format tsv --width 80", ["--width 80", "--format text"]),
        ("lens.json --show-top 0", ["--show-top"]),
        ("lens.json --stride 0", ["--stride"]),
        ("lens.json --position 99", ["--position 99"]),
        ("lens.json --prompt 2", ["--prompt", "2 prompts"]),
        ("parts.json --prompt -2", ["--prompt", "one prompt"]),
        ("lens.json --html -", ["--html", "stdout"]),
        ("lens.json --html /no/a.html", ["--html", "no folder"]),
        ("lens.json --png /no/a.png", ["--png", "no folder"]),
        ("lens.json --png a.jpg", ["--png", ".svg"]),
        ("lens.json --png -", ["--png", ".svg"]),
        ("lens.json --html lens.json", ["--html", "the result itself"]),
        ("lens.json --html ./a.svg --png a.svg", ["--png", "--html goes"]),
        ("lens.json --metric rank", ["--metric", "--png"]),
        ("lens.json --of next", ["--of", "--png"]),
        ("lens.json --png a.png --metric colour", ["--metric colour", "'logit_diff'"]),
        ("lens.json --png a.png --metric rank", ["needs --of"]),
        ("lens.json --png a.png --of ' Rome'", ['--of " Rome"', "' the'"]),
        ("heads.json --png a.png --metric prob", ["--metric", "attribution"]),
        ("heads.json --stride 2", ["--stride", "attribution"]),
        ("lens.json --json a.json", ["--json"]),
    ],
)
def test_bad_usage_is_status_2_and_one_message(run, files, drawn, monkeypatch, arguments, words):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    status, out, err = run("show", *shlex.split(arguments))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert not drawn
    assert sorted(files.iterdir()) == before


def damaged(text, **changes):
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize("kind", ["lens", "heads"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "is not a result, or not whole"),
        (lambda text: text[:1000], "is not a result, or not whole"),
        (lambda text: "[1]", "is not a result, or not whole"),
        (lambda text: "{}", "is neither a lens result nor an attribution (its format is None)"),
        (
            lambda text: damaged(text, format="lens-recipes/job"),
            "(its format is 'lens-recipes/job')",
        ),
        (lambda text: damaged(text, version=2), "of version 2; this package reads 1"),
        (lambda text: damaged(text, prompts=[]), "but damaged"),
    ],
)
def test_a_file_that_is_no_whole_result_is_status_1_and_a_sentence(
    run, files, tmp_path, kind, damage, words
):
    file = tmp_path / "a.json"
    file.write_text(damage((files / f"{kind}.json").read_text()))
    status, out, err = run("show", str(file), "--html", str(tmp_path / "a.html"))
    assert (status, out) == (1, "")
    assert err.startswith(f"lens-recipes: '{file}' ")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_there_or_a_folder_is_told(run, tmp_path):
    assert run("show", "none.json") == (1, "", "lens-recipes: there is no file 'none.json'.\n")
    (tmp_path / "a.json").mkdir()
    status, _, err = run("show", str(tmp_path / "a.json"))
    assert status == 1
    assert (
        err
        == f"lens-recipes: '{tmp_path / 'a.json'}' is no plain file but a folder; name a file that was saved.\n"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_any_result_is_read_as_what_it_is(files, results, kind, suffix):
    result = load_result(files / f"{kind}{suffix}")
    assert type(result) is type(results[kind])
    assert repr(result) == repr(results[kind])
    if suffix == ".json":
        assert result.summary() == results[kind].summary()


# -- as a program ------------------------------------------------------


def program(*arguments):
    """The command in a process of its own: stdout, and which heavy libraries it imported."""
    code = (
        "import sys\n"
        "from lens_recipes.cli.app import main\n"
        "try: main()\n"
        f"finally: print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("lens.json", "--table", "--summary"),
        ("parts.npz",),
        ("generation.npz",),
        ("generation.json", "--format", "markdown"),
        ("heads.json", "--html", "heads.html", "--format", "tsv"),
        ("sources.npz", "--html", "sources.html"),
        ("lens.npz", "--html", "lens.html"),
        ("--help",),
    ],
)
def test_no_models_library_is_imported(files, arguments):
    paths = [str(files / argument) if "." in argument else argument for argument in arguments]
    out, heavy = program("show", *paths)
    assert heavy == "[]"
    for page in files.glob("*.html"):
        assert page.stat().st_size > 10_000
        page.unlink()
    if arguments == ("--help",):
        assert "Examples:" in out
        assert re.search(r"show\s+Show a saved result", program("--help")[0])
