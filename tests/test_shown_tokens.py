"""Every token that a result shows is a target, and means the token that was shown."""

from __future__ import annotations

import ast
import re

import pytest
from tokenizers_of_all_kinds import KINDS

from lens_recipes.models.tokens.vocabulary import token_text
from lens_recipes.run.request.selection import target_ids

BEYOND = 3  # rows of the embedding without a token


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


def the_id(target, tokenizer, vocab_size):
    [[token_id]] = target_ids(target, 1, tokenizer, vocab_size)
    return token_id


def test_every_shown_token_is_a_target_and_means_itself(tokenizer):
    vocab_size = len(tokenizer) + BEYOND
    for token_id in range(vocab_size):
        shown = token_text(tokenizer, token_id)
        assert the_id(shown, tokenizer, vocab_size) == token_id, shown


WORDS = [
    *[" capital", "capital", "Paris", " Paris", "the", " the", "THE", "ing", "Zanzibar", "é"],
    *["\n", "\t", " ", "  ", "\n\n", "", "😀", "日", "▁", "▁the", "Ġthe", "</w>", "<s>", "#7"],
    *["#9999", "⟨0A⟩", "⟨F0⟩", "##s", "<0x0A>", "a b"],
]


@pytest.mark.parametrize("word", WORDS)
def test_the_advice_of_a_refusal_can_be_followed(tokenizer, word):
    """Whatever is asked for is found by its exact text, or what is named instead is accepted."""
    vocab_size = len(tokenizer) + BEYOND
    try:
        token_id = the_id(word, tokenizer, vocab_size)
    except ValueError as refusal:
        shown_texts = {token_text(tokenizer, token_id) for token_id in range(vocab_size)}
        assert word not in shown_texts
        message = str(refusal)
        if "0 tokens" in message or f"0 to {vocab_size - 1}" in message:
            return  # there is none to be named
        advice = re.search(r"('(?:[^'\\]|\\.)*'|\"[^\"]*\") \(id (\d+)\)", message)
        assert advice is not None, message
        advised, advised_id = ast.literal_eval(advice[1]), int(advice[2])
        assert advised != word
        assert the_id(advised, tokenizer, vocab_size) == advised_id
        assert the_id(advised_id, tokenizer, vocab_size) == advised_id
    else:
        assert token_text(tokenizer, token_id) == word


def test_without_a_tokenizer_a_shown_number_is_a_target():
    assert the_id(token_text(None, 7), None, 20) == 7
