"""`lens-recipes fit` and `merge`: what they write, what they say, and what they refuse."""

from __future__ import annotations

import signal

import pytest

import lens_recipes as lr
from lens_recipes.lenses.load import load_lens, load_sums
from lens_recipes.recipes.lenses.estimators import linear

TEXT = "The quick brown fox jumps over the lazy dog, and then it writes a letter. "


@pytest.fixture
def corpus(tmp_path):
    """A text file of a few thousand tokens."""
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{number} {TEXT}\n" for number in range(120)), encoding="utf-8")
    return path


def test_a_fit_from_a_shell_is_the_one_of_python(cli, llama, tmp_path, corpus):
    out = tmp_path / "lens.safetensors"
    arguments = ("fit", "-o", str(out), "--texts", str(corpus), "--tokens", "2000")
    status, printed, err = cli(llama)(*arguments, "--layers", "0,2")
    assert status == 0, err
    lens = load_lens(out)
    expected = lr.fit_lens(llama, corpus, tokens=2000, layers=[0, 2])
    assert lens.digest == expected.digest
    assert lens.quality == expected.quality
    assert printed == f"{expected.quality}\n"
    assert err.endswith(f"wrote {out}\n")


def test_shards_are_merged_in_a_shell(cli, llama, tmp_path, corpus):
    parts = []
    for number in (1, 2, 3):
        part = tmp_path / f"part-{number}.safetensors"
        status, _, err = cli(llama)(
            *("fit", "smollm2", "-o", str(part), "--texts", str(corpus), "--shard", f"{number}/3"),
            *("--tokens", "100000", "--quality-tokens", "0"),
        )
        assert status == 0, err
        parts.append(str(part))
    out = tmp_path / "lens.safetensors"
    status, _, err = cli(llama)("merge", *parts, "-o", str(out))
    assert status == 0, err
    merged = load_lens(out)
    whole = lr.fit_lens(llama, corpus, tokens=100_000, quality_tokens=0)
    assert merged.record.n_tokens == whole.record.n_tokens
    assert {*load_sums(out)["rows"].tolist()} == {*whole.sums["rows"].tolist()}
    status, _, err = cli(llama)("merge", parts[0], parts[0], "-o", str(out))
    assert status == 2
    assert "would count twice" in err
    assert "--shards of one text" in err


def test_an_estimate_is_printed_and_nothing_written(cli, llama, tmp_path, corpus):
    out = tmp_path / "lens.safetensors"
    status, printed, err = cli(llama)("fit", "-o", str(out), "--texts", str(corpus), "--estimate")
    assert status == 0, err
    assert printed.startswith("fit_lens on LlamaForCausalLM: ")
    assert "here about" in printed
    assert not out.exists()


def test_ctrl_c_in_a_shell_says_how_to_go_on(cli, llama, tmp_path, corpus, monkeypatch):
    out = tmp_path / "lens.safetensors"

    def interrupted(model, plan, batch):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(linear, "add_streams", interrupted)
    status, _, err = cli(llama)("fit", "-o", str(out), "--texts", str(corpus))
    assert status == 130
    assert "Run the command again to go on." in err
    assert str(out) in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "lens.pt"], "must end in .safetensors"),
        (["-o", "nowhere/lens.safetensors"], "there is no folder"),
        (["-o", "lens.safetensors", "--shard", "4/3"], "3/16 is the third of sixteen"),
        (["-o", "lens.safetensors", "--shard", "third"], "3/16 is the third of sixteen"),
        (["-o", "lens.safetensors", "--texts", "nowhere.txt"], "no such file"),
        (["-o", "lens.safetensors", "--layers", "x"], "is not"),
        (["-o", "lens.safetensors", "--tokens", "0"], "at least 1"),
        (["-o", "lens.safetensors", "--kind", "cubic"], "cubic"),
    ],
)
def test_what_cannot_be_fitted_is_said(cli, llama, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = cli(llama)("fit", *arguments)
    assert status == 2, err
    assert words in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "lens.safetensors").exists()


def test_a_file_that_is_no_fit_is_said(cli, llama, tmp_path):
    path = tmp_path / "lens.safetensors"
    path.write_text("nothing of the kind")
    status, _, err = cli(llama)("merge", str(path), "-o", str(tmp_path / "out.safetensors"))
    assert status == 1
    assert "is no lens that can be read" in err
