"""Models that many tests share, loaded once."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import beartype  # noqa: F401 - before nnsight, which adds .save to every object: beartype stumbles over that
import pytest
import tiny

import lens_recipes
from lens_recipes.cli.app import main

# What is imported stays, and models come and go: looking at all of it again and again takes time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# A shell starts its background jobs with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What an old release says of a family that came later: `make test-oldest` sets OLDEST.
NO_SUCH_FAMILY = re.compile(r"module transformers has no attribute \w+Config")


def _check_ctrl_c() -> None:
    """Check that Ctrl-C interrupts this process; make it do so again where it did not.

    By the signal itself: handlers are also changed where Python does not see it.
    """
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    pytest.fail(f"Ctrl-C no longer interrupts this process: its handler is {left!r}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Blame a fixture that takes Ctrl-C away: every later test in this process would lack it."""
    yield
    _check_ctrl_c()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Blame a test that takes Ctrl-C away; leave out families that an old transformers lacks."""
    try:
        yield
    except AttributeError as error:
        if "OLDEST" in os.environ and NO_SUCH_FAMILY.search(str(error)):
            pytest.skip(str(error))
        raise
    _check_ctrl_c()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Blame what cleans up after a test."""
    yield
    _check_ctrl_c()


@pytest.fixture(scope="session")
def smollm2():
    """The embedded default model, real weights."""
    return lens_recipes.load("smollm2")


@pytest.fixture(scope="session")
def llama():
    """A random Llama with a tokenizer: fast, and strings work."""
    return lens_recipes.load(
        tiny.llama(vocab_size=tiny.STRING_VOCAB), tokenizer=tiny.tiny_tokenizer()
    )


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process, on a model that is there or loads: (exit status, stdout, stderr)."""

    def on(model=None):
        if model is not None:
            monkeypatch.setattr(lens_recipes, "load", lambda *args, **kwargs: model)

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

    return on


@pytest.fixture(scope="session")
def folder(llama, tmp_path_factory):
    """A checkpoint folder of the tiny model."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    llama._module.save_pretrained(path)
    llama.tokenizer.save_pretrained(path)
    return path
