"""`lens-recipes fit` and `merge`: what they write, what they say, and what they refuse."""

from __future__ import annotations

import signal

import pytest

import lens_recipes as lr
from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.cli.lenses.quality import quality_table
from lens_recipes.recipes.lenses.estimators import linear
from lens_recipes.recipes.lenses.state import load_fit

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
    lens = load_fit(out)
    expected = lr.fit_lens(llama, corpus, tokens=2000, layers=[0, 2])
    assert lens.digest == expected.digest
    assert lens.quality == expected.quality
    assert printed == quality_table(expected.quality, "linear lens")
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
    merged = load_fit(out)
    whole = lr.fit_lens(llama, corpus, tokens=100_000, quality_tokens=0)
    assert merged.record.n_tokens == whole.record.n_tokens
    assert {*merged.sums["rows"].tolist()} == {*whole.sums["rows"].tolist()}
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
    assert "is no file of a fit" in err


def test_the_table_says_where_a_lens_is_no_better():
    quality = LensQuality(
        layers=[-1, 0, 11],
        kl=[5.0, 3.0, 0.25],
        agreement=[0.1, 0.2, 0.9],
        logit_kl=[12.0, 2.0, 4.0],
        logit_agreement=[0.0, 0.3, 0.5],
        refit_kl=[[5.5, 3.5, 0.3], [5.25, 3.25, 0.35]],
        n_tokens=100,
        text="a book",
    )
    assert quality_table(quality, "linear lens").splitlines() == [
        "linear lens, measured on 100 tokens of a book:",
        "KL(model ‖ lens) in nats, and how often top-1 is the model's",
        " layer     KL logit lens  top-1 logit lens   KL of two refits",
        " embed   5.00      12.00    10%         0%       5.25 to 5.50",
        "     0   3.00       2.00    20%        30%       3.25 to 3.50  no better than the logit lens",
        "    11   0.25       4.00    90%        50%       0.30 to 0.35",
    ]
