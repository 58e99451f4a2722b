"""Small random checkpoints of many families with a tokenizer: models that no candidate has seen."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import tiny
from tiny import save as save
from tiny import tiny_tokenizer as tokenizer

SCALED = {"cohere": 7.0, "granite": 7.0, "minicpm3": 7.0}  # what their logits are divided by would leave little


def build(family: str, seed: int, vocab: int = tiny.STRING_VOCAB) -> PreTrainedModel:
    """A model of a family in tests/tiny.py, large enough for the tokenizer, with weights of its own."""
    module = tiny.for_text(family, vocab)
    tiny.unsettle(module, seed, logit_std=SCALED.get(family, 4.0))
    return module


def ids_of(text: str) -> torch.Tensor:
    """The ids [1, token] of a text."""
    return torch.tensor([tokenizer()(text).input_ids])


def one_token_words() -> list[str]:
    """Words with a space before them that are one token, in the order of their ids."""
    words = tokenizer()
    texts = {i: words.decode([i]) for i in range(tiny.FIRST_TEXT_ID, len(words))}
    return [t for i, t in texts.items() if t[:1] == " " and t[1:].isalpha() and words(t).input_ids == [i]]
