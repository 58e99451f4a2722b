"""Whatever others wrote has no effect on a terminal: results, errors, a server's words, the command line."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as some
from nnsight.schema.response import ResponseModel, Status

import lens_recipes as lr
from lens_recipes.results import load_result
from lens_recipes.run.remote.jobs.failures import diagnose
from lens_recipes.terminal import escape_terminal, one_line
from lens_recipes.views.tables.console import open_console

DATA = Path(__file__).parent / "data"
# Sets the clipboard, wipes the screen, goes back in the line, turns the text round.
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\r\x9b31m\u202e"
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COLOR = re.compile(r"\x1b\[[\d;]*m")


def no_effect(text: str) -> bool:
    return ACTIVE.search(text) is None


@settings(deadline=None, derandomize=True, max_examples=200)
@given(some.text(some.characters(codec=None)))
def test_escaped_text_is_the_text_without_effect(text):
    escaped = escape_terminal(text)
    assert no_effect(escaped)
    assert escape_terminal(escaped) == escaped
    if no_effect(text) and text.encode(errors="ignore").decode() == text:
        assert escaped == text
    assert len(one_line(text, 20)) <= 20 * len("⟨10FFFF⟩")
    assert "\n" not in one_line(text)


def test_an_error_quotes_without_effect():
    for error in (lr.LensError(HOSTILE), lr.RemoteLensError(HOSTILE, HOSTILE, may_finish=True)):
        assert no_effect(str(error) + repr(error))
    assert no_effect(error.happened + error.todo)
    assert lr.LensError("plain é 中").args == ("plain é 中",)


@pytest.mark.parametrize("status", list(Status))
def test_what_a_server_says_of_a_job_has_no_effect(status):
    from lens_recipes.run.remote.jobs.chunks import JobChunk, status_of

    chunk = JobChunk.__new__(JobChunk)
    chunk.hear(ResponseModel(id="a", status=status, description=f"{HOSTILE}\n{HOSTILE} " * 3))
    assert no_effect(chunk.message)
    assert no_effect(str(status_of([chunk])))
    assert no_effect(str(diagnose(HOSTILE, HOSTILE)))


def test_a_template_that_refuses_a_chat_is_quoted_without_effect():
    import traceback

    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('" + HOSTILE + "' * 100) }}"
    model = lr.load(tiny.llama(vocab_size=tiny.STRING_VOCAB), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="does not take the chat") as info:
        lr.logit_lens(model, [{"role": "user", "content": "hi"}])
    shown = "".join(traceback.format_exception_only(info.value))
    assert no_effect(shown)
    assert len(shown) < 5000
    assert info.value.__suppress_context__


# -- results of files --------------------------------------------------


def places_of_text(value, path=()):
    """Where a file holds text, in keys and values."""
    if isinstance(value, str):
        yield path
    items = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places_of_text(item, (*path, key))


def spoilt(content, path):
    """The content with hostile text in one place."""
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += HOSTILE
    return changed


def few_places(content):
    """All kinds of places, and the first of many that are alike."""
    seen = {}
    for path in places_of_text(content):
        alike = tuple("n" if isinstance(key, int) or key.isdigit() else key for key in path)
        seen.setdefault(alike, path)
    return seen.values()


NAMES = ["lens", "generation", "vectors", "attribution_component", "attribution_token"]


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_a_file_acts_on_a_terminal(tmp_path, name):
    content = json.loads((DATA / f"{name}.json").read_text())
    path = tmp_path / "hostile.json"
    n_shown = 0
    for place in few_places(content):
        path.write_text(json.dumps(spoilt(content, place)))
        try:
            result = load_result(path)
        except lr.LensError as error:
            texts = [str(error)]
        else:
            n_shown += 1
            texts = [str(result), repr(result), result.summary(), str(result.certificate)]
        assert all(map(no_effect, texts)), place
    assert n_shown > 3


def in_a_terminal(*arguments: str) -> str:
    """What the command line writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lens_recipes", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 2**16)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(ours)
    assert process.returncode in (0, 1, 2)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def test_the_command_line_writes_nothing_but_text_and_colours_to_a_terminal(tmp_path):
    content = json.loads((DATA / "generation.json").read_text())
    for place in few_places(content):
        if place[0] in ("provenance", "prompts", "texts", "token_text", "responses"):
            changed = spoilt(content, place)
            try:
                path = tmp_path / "one.json"
                path.write_text(json.dumps(changed))
                load_result(path)
            except lr.LensError:
                continue
            content = changed
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(content))
    for arguments in ((), ("--summary",), ("--format", "tsv"), ("--format", "markdown")):
        shown = in_a_terminal("show", str(path), *arguments)
        assert no_effect(COLOR.sub("", shown)), arguments
    missing = in_a_terminal("show", str(tmp_path / f"{HOSTILE}.json"))
    assert "lens-recipes: " in missing
    assert no_effect(COLOR.sub("", missing))


def test_a_console_escapes_text_and_keeps_its_own_colours():
    import io

    file = io.StringIO()
    console = open_console(file=file, force_terminal=True, color_system="truecolor", width=80)
    console.print(f"[red]{HOSTILE}[/red]")
    console.out(HOSTILE)
    written = file.getvalue()
    assert COLOR.search(written)
    assert no_effect(COLOR.sub("", written))
    assert written.count("⟨202E⟩") == 2
