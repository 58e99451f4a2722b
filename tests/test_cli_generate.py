"""`lens-recipes generate` as people type it: settings and where they come from, the text as it comes, interrupts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

import lens_recipes as lr
from lens_recipes.cli.generate import stream as cli_stream
from lens_recipes.cli.generate.stream import NEVER, Stream, colors_by_layer, defer_stderr
from lens_recipes.models.tokens.vocabulary import Decoder
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.summaries.doubts import lens_doubts

GREEDY = ("--greedy", "--max-new-tokens", "6")


@pytest.fixture
def run(cli):
    """On whatever `--model` names."""
    return cli()


@pytest.fixture
def small(llama, cli):
    return cli(llama)


@pytest.fixture
def checkpoint(folder, tmp_path):
    """A checkpoint folder with a generation_config of its own."""

    def write(**said):
        path = tmp_path / "checkpoint"
        shutil.copytree(folder, path, dirs_exist_ok=True)
        common = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        (path / "generation_config.json").write_text(json.dumps(common | said))
        return str(path)

    return write


def settings_of(err: str) -> str:
    first = err.splitlines()[0]
    assert first.startswith("settings: ")
    return first


def hugging_face(model, prompt: str, **options) -> str:
    """What plain `generate` writes."""
    ids = torch.tensor([model.tokenizer(prompt).input_ids])
    module = model._module
    with torch.inference_mode():
        out = module.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    return model.tokenizer.decode(
        out[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


# -- the main job ------------------------------------------------------


def test_the_main_job(smollm2, cli, tmp_path):
    """Response, every step layer by layer, timing, statistics, certificate; files; settings before all."""
    file = tmp_path / "a.json"
    status, out, err = cli(smollm2)(
        "generate", "The capital of France is", *GREEDY, "--json", str(file), "--all-layers"
    )
    assert status == 0
    assert out.startswith(" Paris.\n\nThe answer\n(6 tokens, finish: length)\n")
    assert [int(n) for n in re.findall(r"^step (\d+), ", out, re.MULTILINE)] == [1, 2, 3, 4, 5, 6]
    for words in (
        "wrote ·Paris  p 0.77",
        "settled at layer 29",
        "·Paris 0.77",
        "Timing",
        "tokens/s",
        "Statistics",
    ):
        assert words in out
    assert "certified" in out
    assert "\x1b" not in out
    assert err.splitlines() == [
        "settings: greedy (given), max-new-tokens 6 (given)",
        f"wrote {file}",
    ]
    result = lr.LensResult.load(file)
    assert result.responses == [lr.Response(" Paris.\n\nThe answer", "length")]
    assert result.certificate.passed
    assert result.top_ids.shape == (30, 6, 5)


@pytest.mark.parametrize("prompt", ["The quick brown fox", "One two three", "!"])
def test_greedy_is_hugging_face(small, llama, prompt):
    status, out, _ = small("generate", prompt, "--greedy", "--max-new-tokens", "12", "--json", "-")
    assert status == 0
    text = hugging_face(llama, prompt, max_new_tokens=12, do_sample=False)
    assert json.loads(out)["responses"][0][0] == text


def test_sampled_is_hugging_face_with_the_same_seed(small, llama):
    options = {"temperature": 0.7, "top_p": 0.95, "top_k": 5}
    for seed in (0, 1):
        _, out, _ = small(
            "generate", "The fox", "--max-new-tokens", "12", "--seed", str(seed), "--json", "-"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            text = hugging_face(llama, "The fox", max_new_tokens=12, do_sample=True, **options)
        assert json.loads(out)["responses"][0][0] == text


def test_the_same_seed_says_the_same_and_a_drawn_one_is_said(small):
    _, out, err = small("generate", "The fox", "--max-new-tokens", "8", "--json", "-")
    seed = re.search(r"seed (\d+) \(drawn\)", settings_of(err))[1]
    _, again, err = small(
        "generate", "The fox", "--max-new-tokens", "8", "--seed", seed, "--json", "-"
    )
    assert f"seed {seed} (given)" in settings_of(err)
    assert (
        json.loads(out)["arrays"]["token_next_id"] == json.loads(again)["arrays"]["token_next_id"]
    )


def test_json_on_stdout_is_a_file_that_can_be_read(small, llama, tmp_path):
    """Strict JSON and nothing else, and the recipe's own result."""
    options = ["--target", " the", "--components", "attn_out, resid_post", "--show-top", "7"]
    status, out, err = small("generate", "The fox", *GREEDY, *options, "--json", "-")
    assert status == 0
    assert len(err.splitlines()) == 1
    assert out.count("\n") == 1
    file = tmp_path / "a.json"
    file.write_text(out)
    result = lr.LensResult.load(file)
    expected = lr.generate_lens(
        llama, "The fox", max_new_tokens=6, do_sample=False, targets=" the", components=["attn_out", "resid_post"],
        top_k=7,
    )  # fmt: skip
    assert result.sites == expected.sites
    assert result.responses == expected.responses
    np.testing.assert_array_equal(result.top_ids, expected.top_ids)
    np.testing.assert_array_equal(result.target_ranks, expected.target_ranks)
    np.testing.assert_allclose(result.tokens.next_logprob, expected.tokens.next_logprob, atol=1e-6)


def test_show_top_is_what_is_shown_not_what_is_sampled(small, tmp_path):
    file = tmp_path / "a.npz"
    _, out, err = small(
        "generate", "The fox", "--max-new-tokens", "2", "--show-top", "2", "--json", str(file)
    )
    assert "top 2" in out
    assert "top 3" not in out
    assert "top-k 5 (default)" in settings_of(err)
    result = lr.LensResult.load(file)
    assert result.top_ids.shape[-1] == 5  # margins and figures want more than is shown
    assert result.provenance["generation"]["top_k"] == 5


def test_a_line_for_each_step_unless_all_layers_are_asked_for(small, llama):
    """What `print(result)` shows: not a table of every layer for each token."""
    status, out, _ = small("generate", "The fox", *GREEDY)
    assert status == 0
    said = lr.generate_lens(llama, "The fox", max_new_tokens=6, do_sample=False)
    steps = str(said).split("\nstep ")[1].split("\ncertified")[0]
    assert steps.split() == out.split("\nstep ")[1].split("\ncertified")[0].split()
    assert "Layer by layer" not in out
    assert out.count("distrust: ") == len(list(lens_doubts(said)))
    for option in (["--all-layers"], ["--show-top", "2"]):
        _, long, _ = small("generate", "The fox", *GREEDY, *option)
        assert "Layer by layer" in long
        assert len(re.findall(r"^step \d+, ", long, re.MULTILINE)) == 6


@pytest.mark.parametrize("name", ["steps.txt", "a.b"])
def test_a_page_has_the_name_of_a_page(small, monkeypatch, tmp_path, name):
    monkeypatch.setattr(lr, "load", None)
    status, _, err = small("generate", "The fox", *GREEDY, "--html", str(tmp_path / name))
    assert status == 2
    assert "must end in .html" in err


@pytest.mark.parametrize("name", ["steps.html", "steps"])
def test_figures_in_one_file_or_a_folder(small, tmp_path, name):
    place = tmp_path / name
    status, out, err = small("generate", "The fox", *GREEDY, "--html", str(place))
    assert status == 0
    assert len(re.findall(r"^ +\d+ .* layer \d", out, re.MULTILINE)) == 6
    assert err.splitlines()[-1] == f"wrote {place}"
    assert place.is_dir() == (name == "steps")
    assert place.is_file() or list(place.glob("*.html"))
    assert small("generate", "The fox", *GREEDY, "--html", str(place))[0] == 0  # and over it


def test_chat_goes_through_the_template(small, llama, tmp_path):
    file = tmp_path / "a.json"
    assert small("generate", "Hi there", "--chat", *GREEDY, "--json", str(file))[0] == 0
    result = lr.LensResult.load(file)
    assert result.prompts == ["<s>user: Hi there</s>\nassistant:"]
    expected = lr.generate_lens(
        llama, [{"role": "user", "content": "Hi there"}], max_new_tokens=6, do_sample=False
    )
    assert result.responses == expected.responses


def test_a_stop_string_ends_the_text(small, llama):
    text = hugging_face(llama, "The fox", max_new_tokens=12, do_sample=False)
    stop = text[2]
    status, out, err = small(
        "generate", "The fox", "--greedy", "--stop", "no such", "--stop", stop, "--json", "-"
    )
    assert status == 0
    assert f"stop 'no such', {stop!r} (given)" in settings_of(err)
    written, finish = json.loads(out)["responses"][0]
    assert finish == "stop"
    assert text.startswith(written)
    assert stop in written


# -- settings and where they come from ---------------------------------


@pytest.mark.parametrize(
    ("said", "arguments", "line"),
    [
        ({}, [], "sampling (default), temperature 0.7 (default), top-p 0.95 (default), top-k 5 (default), "
         "max-length 64 (the model's context; default: max-length 1000), seed 7 (given)"),
        ({}, ["--max-length", "9"], "sampling (default), temperature 0.7 (default), top-p 0.95 (default), "
         "top-k 5 (default), max-length 9 (given), seed 7 (given)"),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 12}, [],
         "sampling (checkpoint), temperature 0.6 (checkpoint), top-p 0.9 (checkpoint), top-k 5 "
         "(default), "
         "max-length 12 (checkpoint), seed 7 (given)"),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}, ["--temperature", "0.9"],
         "sampling (given), temperature 0.9 (given), top-p 0.95 (default), top-k 20 (checkpoint), "
         "max-length 64 (the model's context; default: max-length 1000), seed 7 (given), "
         "repetition_penalty 1.1 (checkpoint)"),
        ({"do_sample": False}, [], "greedy (checkpoint), "
         "max-length 64 (the model's context; default: max-length 1000)"),
        ({"do_sample": False, "max_new_tokens": 4}, [], "greedy (checkpoint), max-new-tokens 4 (checkpoint)"),
        ({"do_sample": False}, ["--top-k", "3"], "sampling (given), temperature 0.7 (default), top-p 0.95 (default), "
         "top-k 3 (given), max-length 64 (the model's context; default: max-length 1000), seed 7 (given)"),
        ({"do_sample": True, "temperature": 0.6}, ["--greedy", "--max-new-tokens", "2"],
         "greedy (given), max-new-tokens 2 (given)"),
        ({"do_sample": False, "max_length": 12, "max_new_tokens": 4}, [],
         "greedy (checkpoint), max-new-tokens 4 (checkpoint)"),  # as in Hugging Face
        ({"do_sample": False, "max_length": 500}, [],
         "greedy (checkpoint), max-length 64 (the model's context; checkpoint: max-length 500)"),
        ({"do_sample": False, "max_new_tokens": 500}, [],
         "greedy (checkpoint), max-length 64 (the model's context; checkpoint: max-new-tokens 500)"),
        ({"do_sample": False, "max_length": 12}, ["--max-new-tokens", "20"],
         "greedy (checkpoint), max-new-tokens 20 (given)"),
        ({"do_sample": False, "stop_strings": ["zzz"], "max_new_tokens": 2}, [],
         "greedy (checkpoint), max-new-tokens 2 (checkpoint), stop 'zzz' (checkpoint)"),
    ],
)  # fmt: skip
def test_given_before_checkpoint_before_default(run, checkpoint, tmp_path, said, arguments, line):
    """What the first line says is what the result says was used."""
    file = tmp_path / "a.json"
    path = checkpoint(**said)
    status, _, err = run(
        "generate", "The fox", "--model", path, "--seed", "7", *arguments, "--json", str(file)
    )
    assert status == 0, err
    assert settings_of(err) == f"settings: {line}"
    used = lr.LensResult.load(file).provenance["generation"]
    for name in ("temperature", "top_p", "top_k"):
        found = re.search(rf"{name.replace('_', '-')} ([\d.]+) ", line)
        assert used.get(name) == (float(found[1]) if found else None)
    assert used["do_sample"] == line.startswith("sampling")
    bound = re.search(r"max-(length|new-tokens) (\d+) ", line)
    assert used["max_new_tokens"] == int(bound[2]) - (
        3 if bound[1] == "length" else 0
    )  # the prompt's


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["--max-length", "10"], 7),
        (["--max-new-tokens", "10"], 10),
        (["--max-length", "10", "--max-new-tokens", "4"], 4),  # what is reached first
        (["--max-length", "10", "--max-new-tokens", "30"], 7),
        (["--max-length", "4"], 1),
        (["--max-length", "64"], 61),
    ],
)
def test_lengths(small, arguments, new):
    _, out, err = small("generate", "The fox", "--greedy", *arguments, "--json", "-")
    found = json.loads(out)
    assert found["provenance"]["generation"]["max_new_tokens"] == new
    assert len(found["token_text"]) <= new
    assert "(given)" in settings_of(err)


# -- mistakes ----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["PROMPT"]),
        ("Hi there", ["unexpected", "there"]),
        ("Hi --greedy --temperature 0.5", ["--greedy", "no use for --temperature"]),
        ("Hi --greedy --top-p 0.5 --top-k 3", ["--greedy", "no use for --top-p, --top-k"]),
        ("Hi --temperature 0", ["--temperature", "above 0", "--greedy"]),
        ("Hi --temperature -1", ["--temperature", "above 0"]),
        ("Hi --temperature nan", ["--temperature", "above 0"]),
        ("Hi --temperature inf", ["--temperature", "above 0"]),
        ("Hi --temperature warm", ["--temperature", "number"]),
        ("Hi --top-p 0", ["--top-p", "at most 1"]),
        ("Hi --top-p 95", ["--top-p", "at most 1"]),
        ("Hi --top-k -1", ["--top-k"]),
        ("Hi --top-k 2.5", ["--top-k"]),
        ("Hi --seed -1", ["--seed"]),
        ("Hi --max-length 0", ["--max-length"]),
        ("Hi --max-new-tokens 0", ["--max-new-tokens"]),
        ("Hi --max-tokens 9", ["--max-tokens"]),
        ("Hi --stop ''", ["--stop", "empty"]),
        ("Hi --show-top 0", ["--show-top"]),
        ("Hi --dtype int8", ["--dtype", "bfloat16"]),
        ("Hi --json a.txt", ["--json", ".json"]),
        ("Hi --json /no/such/folder/a.json", ["--json", "no folder"]),
        ("Hi --html /no/such/folder/a", ["--html", "no folder"]),
        ("Hi --html -", ["--html", "stdout"]),
        ("Hi --html same.json --json same.json", ["--json", "another file"]),
        ("Hi --html /no/such/folder/a.html", ["--html", "no folder"]),
    ],
)
def test_bad_usage_is_one_message_before_the_model_is_loaded(run, monkeypatch, arguments, words):
    def fail(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr(lr, "load", fail)
    status, out, err = run("generate", *shlex.split(arguments))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_places_that_cannot_be_written_are_refused_before_the_model_is_loaded(
    run, monkeypatch, tmp_path
):
    monkeypatch.setattr(lr, "load", None)
    (tmp_path / "a.html").mkdir()
    (tmp_path / "results.json").mkdir()
    (tmp_path / "file").write_text("kept")
    cases = [
        ("--html", "a.html", "is a folder"),
        ("--json", "results.json", "is a folder"),
        ("--html", "file", "is a file"),
    ]
    for option, name, words in cases:
        status, out, err = run("generate", "Hi", option, str(tmp_path / name))
        assert (status, out) == (2, "")
        assert words in err
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write anywhere
    status, _, err = run("generate", "Hi", "--json", str(tmp_path / "b.json"))
    assert status == 2
    assert "nothing may be written" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("''", ["empty"]),
        (
            "'The fox' --max-length 3",
            ["3 tokens long", "--max-length 3 (given)", "--max-new-tokens"],
        ),
        ("'The fox' --max-length 65", ["--max-length 65", "holds 64 tokens", "at most 61"]),
        ("'The fox' --max-new-tokens 62", ["--max-new-tokens 62", "holds 64 tokens", "at most 61"]),
        ("!" * 64, ["64 tokens long", "holds 64", "Shorten it"]),
        ("!" * 70, ["70 tokens long", "holds 64", "Shorten it"]),
        ("'The fox' --target ' Parisian'", ["tokens for this model"]),
        ("'The fox' --components attn", ["'attn'", "attn_out"]),
        ("'The fox' --components ,", ["--components must be"]),
        ("'The fox' --show-top 400", ["--show-top", "320"]),
    ],
)
def test_what_does_not_fit_the_model_is_status_2_and_one_message(small, arguments, words):
    status, out, err = small("generate", *shlex.split(arguments))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_a_checkpoint_that_leaves_no_room_is_named(run, checkpoint):
    status, out, err = run("generate", "The fox", "--model", checkpoint(max_length=2))
    assert (status, out) == (2, "")
    assert "--max-length 2 (checkpoint)" in err


def test_of_a_checkpoint_that_asks_for_beams_one_text_is_followed(run, checkpoint):
    status, out, err = run(
        "generate", "The fox", *GREEDY, "--model", checkpoint(num_beams=3), "--json", "-"
    )
    assert status == 0
    assert "num_beams 1 (the checkpoint's 3 is not one text)" in settings_of(err)
    assert json.loads(out)["certificate"]["passed"]


@pytest.mark.slow
def test_nobody_reads_and_the_result_is_written_all_the_same(folder, tmp_path):
    file = tmp_path / "a.json"
    command = [
        sys.executable,
        "-m",
        "lens_recipes",
        "generate",
        "The fox",
        *GREEDY,
        "--model",
        folder,
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*map(str, command), "--json", str(file)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert lr.LensResult.load(file).certificate.passed


def test_chat_without_a_template(run, folder, tmp_path):
    path = tmp_path / "plain"
    shutil.copytree(folder, path)
    (path / "chat_template.jinja").unlink()
    status, out, err = run("generate", "Hi", "--chat", "--model", str(path))
    assert (status, out) == (2, "")
    assert "no chat template" in err


@pytest.mark.parametrize(
    ("name", "words"), [("none", "there is no folder"), ("", "holds no model")]
)
def test_a_folder_without_a_model_is_status_1(run, tmp_path, name, words):
    status, out, err = run("generate", "Hi", "--model", str(tmp_path / name))
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("lens-recipes: ")
    assert words in err
    assert "Traceback" not in err


# -- interrupts --------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_an_interrupt_keeps_what_there_is(small, llama, monkeypatch, tmp_path, n):
    """The text, the table and the files of the tokens that there are; the model stays usable."""
    file, calls = tmp_path / "a.json", []
    original = Stream.__call__

    def stop(self, part):
        original(self, part)
        calls.append(part)
        if len(calls) == n:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_stream.Stream, "__call__", stop)
    status, out, err = small(
        "generate", "The quick brown fox", "--greedy", "--json", str(file), "--all-layers"
    )
    assert status == 130
    assert f"interrupted after {n} token" in err
    assert f"({n} token{'s' if n > 1 else ''}, finish: interrupted)" in out
    assert len(re.findall(r"^step \d+, ", out, re.MULTILINE)) == n
    assert "certified" in out
    result = lr.LensResult.load(file)
    assert result.responses[0].finish == "interrupted"
    text = hugging_face(llama, "The quick brown fox", max_new_tokens=n, do_sample=False)
    assert result.responses[0].text == text
    monkeypatch.setattr(cli_stream.Stream, "__call__", original)
    assert small("generate", "The quick brown fox", *GREEDY)[0] == 0


def test_an_interrupt_before_the_first_token_is_status_130(small, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(lr, "generate_lens", stop)
    status, out, _ = small("generate", "The fox")
    assert (status, out) == (130, "")


def _program(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "lens_recipes", "generate", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def test_a_process_of_its_own(folder):
    """The settings are the first line on stderr, though libraries print while a model is loaded."""
    program = _program("The fox", "--model", str(folder), *GREEDY, "--json", "-")
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err.decode()
    assert err.decode().startswith("settings: greedy (given), max-new-tokens 6 (given)\n")
    assert json.loads(out)["format"] == "lens-recipes/result"


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['lens-recipes', 'generate', '--help']\n"
        "from lens_recipes.cli.app import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'slow "
        "import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (
        "temperature",
        "top-p",
        "top-k",
        "greedy",
        "seed",
        "stop",
        "max-length",
        "max-new-tokens",
        "html",
    ):
        assert f"--{option} " in done.stdout
    assert "--temperature 0.7, --top-p 0.95, --top-k 5" in " ".join(done.stdout.split())


# -- the stream --------------------------------------------------------


def _streamed(model, prompt: str, *, terminal: bool, **options):
    console = Console(
        file=io.StringIO(), width=200, force_terminal=terminal, color_system="standard"
    )
    with Stream(model.tokenizer, console, 12) as stream:
        result = lr.generate_lens(model, prompt, max_new_tokens=12, on_step=stream, **options)
    return result, console.file.getvalue()


def test_plain_where_there_is_no_terminal(llama):
    result, text = _streamed(llama, "The fox", terminal=False, do_sample=False)
    assert text.rstrip("\n") == escape_terminal(result.responses[0].text).rstrip("\n")
    assert text.endswith("\n")


def test_colours_are_the_settled_layers(llama):
    """Each token in the colour of the layer from which it was top-1 to the end, or of those that never were."""
    result, text = _streamed(llama, "The quick brown fox", terminal=True, temperature=1.5, seed=2)
    legend, _, body = text.partition("\n")
    for style, layers in (
        ("36", "0–1"),
        ("32", "2"),
        ("31", "3"),
        ("35", "not the model's first choice"),
    ):
        assert f"\x1b[{style}m{layers}\x1b[0m" in legend
    plain = re.sub(r"\x1b\[[0-9;]*m", "", body)
    assert plain.rstrip("\n") == escape_terminal(result.responses[0].text).rstrip("\n")
    codes = dict(
        zip(
            ["cyan", "green", "yellow", "red", "magenta"],
            ["36", "32", "33", "31", "35"],
            strict=True,
        )
    )
    expected = [codes[NEVER if s < 0 else colors_by_layer(4)[s]] for s in result.settled("next")]
    assert codes[NEVER] in expected
    assert len(set(expected)) > 1
    decoder, colors = Decoder(llama.tokenizer), []
    for token, color in zip(result.tokens.next_id, expected, strict=True):
        if decoder.add(token):  # a character of several tokens has the colour of its last one
            colors.append(color)
    assert re.findall(r"\x1b\[(\d\d)m", body)[: len(colors)] == colors


def test_bands_end_with_the_last_layer():
    assert colors_by_layer(4) == ["cyan", "cyan", "green", "red"]
    assert colors_by_layer(1) == ["red"]
    for n in (2, 3, 12, 30, 80):
        colours = colors_by_layer(n)
        assert len(colours) == n
        assert colours.count("red") == 1
        assert list(dict.fromkeys(colours)) == [
            c for c in ("cyan", "green", "yellow", "red") if c in colours
        ]


@pytest.mark.parametrize("components", ["attn_out,mlp_out", "head_out"])
def test_without_an_order_there_are_no_colours(llama, components):
    _, text = _streamed(
        llama, "The fox", terminal=True, components=components.split(","), do_sample=False
    )
    assert "settled" not in text
    assert "\x1b[3" not in text


def test_emoji_come_out_whole(smollm2):
    """Each is two or three tokens of this model."""
    pieces = []

    class Ear(Console):
        def out(self, *objects, **kwargs):
            pieces.extend(objects)
            super().out(*objects, **kwargs)

    with Stream(smollm2.tokenizer, Ear(file=io.StringIO()), 8) as stream:
        result = lr.generate_lens(
            smollm2, "Smile: " + "🙂" * 8, max_new_tokens=8, do_sample=False, on_step=stream
        )
    assert "".join(pieces).rstrip("\n") == result.responses[0].text
    assert "🙂" in pieces
    assert len(result.tokens) == 8


def test_what_is_said_while_loading_comes_after_the_settings(capsys):
    """Also from a logger that took hold of stderr meanwhile; on a terminal nothing waits."""
    with defer_stderr() as say:
        print("noise", file=sys.stderr)
        kept = sys.stderr
        say("first")
    kept.write("later\n")
    assert capsys.readouterr().err == "first\nnoise\nlater\n"
    with contextlib.suppress(ValueError), defer_stderr():
        print("warning", file=sys.stderr)
        raise ValueError
    assert capsys.readouterr().err == "warning\n"
    assert kept is not sys.stderr
