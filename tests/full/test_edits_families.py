"""Every kind of edit at every kind of site of every family: what plain hooks give."""

from __future__ import annotations

import pytest
import tiny
from edited_families import PAIR, RAGGED, Family

import lens_recipes as lr


@pytest.mark.parametrize("prompts", [PAIR[:1], PAIR], ids=["alone", "batch"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_an_edited_model_is_one_with_hooks(name, prompts):
    family = Family(tiny.shared(name))
    for place in family.places():
        assert len(family.check(place, prompts)) >= 6


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_prompts_of_different_lengths_are_edited_as_each_alone(name):
    family = Family(lr.load(tiny.for_text(name), tokenizer=tiny.tiny_tokenizer()))
    for place in family.places():
        assert len(family.check(place, RAGGED)) >= 6


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "falcon_h1"])
def test_edits_of_every_layer_at_once(name):
    """Each layer's edit sees what the ones before it have made."""
    family = Family(tiny.shared(name))
    for place in family.places():
        if place.component != "embed":
            assert family.check_all_layers(place, PAIR)
