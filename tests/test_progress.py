"""A run that takes long says so, on a terminal, and nowhere else."""

from __future__ import annotations

import doctest
import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.run import progress as module
from lens_recipes.run.progress import Display, progress


class Terminal(io.StringIO):
    """A stderr on which somebody looks, and that says when something was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.was_written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        length = super().write(text)
        self.was_written.set()
        return length

    def lines(self) -> list[str]:
        """What stood on the line, one after the other."""
        return [line.strip() for line in self.getvalue().split("\r") if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def at_once(monkeypatch):
    """Every run is a long one."""
    monkeypatch.setattr(module, "FIRST_SHOWN_S", 0.0)
    monkeypatch.setattr(module, "SHOWN_EVERY_S", 0.001)


def test_a_single_pass_shows_how_long_it_has_taken(terminal, at_once):
    with progress(["batch"], "logit_lens", [600]) as batches:
        assert list(batches) == ["batch"]
        assert terminal.was_written.wait(30)
    assert set(terminal.lines()) == {"logit_lens: 0 s"}
    assert terminal.getvalue().endswith("\r")  # the line is free again
    assert not [thread for thread in threading.enumerate() if "_show" in thread.name]


def test_the_estimate_is_in_proportion_to_what_is_left(terminal):
    display = Display("logit_lens", [10, 10, 20, 40])
    display.close()
    display.started_at = 100.0
    assert display.words(107.4) == "logit_lens: batch 1 of 4, 7 s"
    display.ended_at = [110.0]
    assert display.words(112.0) == "logit_lens: batch 2 of 4, 12 s, about 1 min 8 s left"
    display.ended_at = [110.0, 118.0, 140.0]
    assert display.words(150.0) == "logit_lens: batch 4 of 4, 50 s, about 30 s left"
    assert display.words(400.0).endswith("about 0 s left")


def test_the_line_goes_when_a_run_fails(terminal, at_once):
    def run():
        with progress([1, 2], "a", [1, 1]) as batches:
            for _ in batches:
                assert terminal.was_written.wait(30)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert terminal.getvalue().endswith("\r")
    assert not [thread for thread in threading.enumerate() if "_show" in thread.name]


def test_a_recipe_shows_its_batches_and_gives_the_same_numbers(
    llama, terminal, at_once, monkeypatch
):
    monkeypatch.setattr("lens_recipes.run.batches.MAX_TOKENS", 4)
    prompts = ["The fox", "One, two", "A model reads"]
    watched = lr.logit_lens(llama, prompts)
    assert any(" of 3, " in line for line in terminal.lines())
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=io.StringIO()))
    np.testing.assert_array_equal(watched.top_ids, lr.logit_lens(llama, prompts).top_ids)


def test_a_short_run_shows_nothing(llama, terminal):
    lr.logit_lens(llama, "The fox")
    lr.generate_lens(llama, "The fox", max_new_tokens=2, do_sample=False)
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_looks(llama, at_once, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    lr.logit_lens(llama, ["The fox", "One"])
    lr.generate_lens(llama, "The fox", max_new_tokens=2, do_sample=False)
    assert capsys.readouterr().err == ""
    assert started == []


def test_who_watches_each_step_sees_no_second_display(llama, terminal, at_once):
    lr.generate_lens(llama, "The fox", max_new_tokens=3, do_sample=False, on_step=lambda step: None)
    assert terminal.getvalue() == ""


def test_a_terminal_that_is_gone_ends_the_display_and_not_the_run(terminal, at_once, monkeypatch):
    def fail(text: str) -> int:
        terminal.was_written.set()
        raise OSError

    monkeypatch.setattr(terminal, "write", fail)
    with progress([1], "a", [1]) as batches:
        for _ in batches:
            assert terminal.was_written.wait(30)


def test_examples_of_docstrings():
    assert doctest.testmod(module).failed == 0
