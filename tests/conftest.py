"""Models that many tests share, loaded once."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import beartype  # noqa: F401 - before nnsight, which adds .save to every object: beartype stumbles over that
import pytest
import tiny

import lens_recipes


@pytest.fixture(scope="session")
def smollm2():
    """The embedded default model, real weights."""
    return lens_recipes.load("smollm2")


@pytest.fixture(scope="session")
def llama():
    """A random Llama with a tokenizer: fast, and strings work."""
    return lens_recipes.load(tiny.llama(vocab_size=tiny.STRING_VOCAB), tokenizer=tiny.tiny_tokenizer())
