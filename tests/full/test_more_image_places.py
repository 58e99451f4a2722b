"""Where image tokens are in more families; those of torchvision run where it is installed."""

from __future__ import annotations

import functools

import pytest
from more_images import MORE
from test_image_places import SIZES, Family, picture, placed, some, wrong


@functools.cache
def family_of(name):
    make, slot, needed = MORE[name]
    if needed is not None:
        pytest.importorskip(needed)
    return Family(slot, *make())


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("size", SIZES)
def test_the_token_that_moves_is_the_one_whose_box_was_changed(name, size):
    family = family_of(name)
    images = [picture(size)]
    places = family.read(images).places
    chosen = some(placed(places), places, 24)
    assert len(chosen) >= 4
    assert wrong(family, images, places, chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_each_of_several_images_has_its_own_places(name):
    family = family_of(name)
    images = [picture((160, 100)), picture((100, 130), seed=1), picture((120, 120), seed=2)]
    places = family.read(images).places
    assert {place.image for place in places} == {-1, 0, 1, 2}
    assert wrong(family, images, places, some(placed(places), places, 9)) == []


@pytest.mark.slow
def test_llama4_has_no_places_on_padding():
    family = family_of("llama4")
    places = family.read([picture((300, 70))]).places
    of_image = [place for place in places if place.image == 0]
    assert (len(of_image), len(placed(places))) == (64, 49)
