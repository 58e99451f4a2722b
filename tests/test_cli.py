"""The command line as people type it, with mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import lens_recipes as lr
from lens_recipes.cli import main


@pytest.fixture
def run(smollm2, monkeypatch, capsys):
    """Run the command in this process on the shared model: (exit status, stdout, stderr)."""
    monkeypatch.setattr(lr, "load", lambda *args, **kwargs: smollm2)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lens-recipes", *arguments])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_the_main_job(run, tmp_path):
    html, file = tmp_path / "a.html", tmp_path / "a.json"
    status, out, err = run(
        "logit-lens", "The capital of France is", "--target", " Paris", "--html", str(html), "--json", str(file)
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
    status, out, _ = run("logit-lens", "Hi", "--layers", "10:12", "--positions", "-1", "--json", "-")
    assert status == 0
    assert [site[0] for site in json.loads(out)["sites"]] == [10, 11]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["PROMPT"]),
        (["Hi", "--target", " Parisian cafe"], ["4 tokens", "' Paris'"]),
        ([""], ["empty"]),
        (["Hi", "--layers", "99"], ["layers=99", "0 to 29"]),
        (["Hi", "--layers", "x"], ["--layers", "2:5"]),
        (["Hi", "--positions", "1"], ["positions=1"]),
        (["Hi", "--json", "a.txt"], ["--json", ".json"]),
        (["Hi", "--html", "/no/such/folder/a.html"], ["--html", "no folder"]),
        (["Hi", "--metric", "rank", "--html", "a.html"], ["--metric", "--of"]),
        (["Hi", "--metric", "colour"], ["--metric", "'prob'"]),
        (["Hi", "--show-top", "60000"], ["49152"]),
    ],
)
def test_bad_usage_is_status_2_and_one_message(run, arguments, words):
    status, out, err = run("logit-lens", *arguments)
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
        "from lens_recipes.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'slow import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    module = subprocess.run(
        [sys.executable, "-m", "lens_recipes", "--help"], capture_output=True, text=True, check=False
    )
    assert module.returncode == 0
    assert "logit-lens" in module.stdout
