"""Where each image token is: measured by changing one patch of an image after the other."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiny_images
import torch
import transformers as hf
from more_images import MORE
from PIL import Image

import lens_recipes as lr
from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.run.request.images.places.encoded import Encoded
from lens_recipes.run.request.images.places.places import RULES, image_places
from lens_recipes.run.request.images.prompts import read_image_prompts

WITH_PLACES = [
    "llava",
    "llava_next",
    "llava_onevision",
    "paligemma",
    "gemma3",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "idefics3",
    "aya_vision",
]
SIZES = [(160, 100), (100, 160), (224, 224), (300, 70), (60, 44)]
# Which part of a patch is changed: left, top, right and bottom as shares of its sides.
MIDDLE = (0.25, 0.25, 0.75, 0.75)
CORNERS = [
    (0.05, 0.05, 0.3, 0.3),
    (0.7, 0.05, 0.95, 0.3),
    (0.05, 0.7, 0.3, 0.95),
    (0.7, 0.7, 0.95, 0.95),
]


def read(model, prompt, pictures):
    """One prompt with its images."""
    options = {"add_special_tokens": True}
    return read_image_prompts(model, prompt, pictures, model.tokenizer, **options)[0]


class Stop(Exception):
    """Raised where the decoder begins, which need not run."""


class Family:
    """A small model whose vision tower keeps each patch to itself, and its processor."""

    def __init__(self, slot, module, processor):
        self.slot, self.module, self.processor = slot, module, processor
        self.model = lr.load(self.module, processor=self.processor)
        within = set(self.module.get_decoder().modules())
        for part in self.module.modules():
            if part not in within and type(part).__name__.endswith("Attention"):
                part.register_forward_hook(silenced)

    def read(self, images, text=None):
        """A prompt with images as the package reads it."""
        pictures = [Image.fromarray(image) for image in images]
        text = text or "USER:" + f" {self.slot} and" * len(images) + " what?"
        return read(self.model, text, pictures)

    def embeddings(self, images):
        """What the decoder is given at each position, [position, width]."""
        prompt = self.read(images)
        given = {"input_ids": torch.tensor([prompt.token_ids])}
        for name, value in prompt.tensors.items():
            given[name] = value.float() if value.is_floating_point() else value
        for name, values in prompt.inputs.items():
            given[name] = torch.tensor([values])
        seen = []

        def stop(_module, _args, kwargs):
            seen.append(kwargs["inputs_embeds"][0])
            raise Stop

        hook = self.module.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
        with torch.no_grad(), pytest.raises(Stop):
            self.module(**given)
        hook.remove()
        return seen[0]


def silenced(_module, _args, output):
    """Nothing, in place of what an attention adds."""
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def picture(size, seed=0):
    """An image of middling random pixels."""
    width, height = size
    generator = np.random.default_rng(seed)
    return generator.integers(96, 160, (height, width, 3), dtype=np.uint8)


def changed(image, place, part):
    """A copy of an image with a part of a patch changed, of at least a pixel."""
    width, height = place.right - place.left, place.bottom - place.top
    left, top = round(place.left + width * part[0]), round(place.top + height * part[1])
    right, bottom = round(place.left + width * part[2]), round(place.top + height * part[3])
    left, top = min(left, image.shape[1] - 1), min(top, image.shape[0] - 1)
    within = slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))
    copy = image.copy()
    copy[within] = np.where(copy[within] < 128, 255, 0)
    return copy


def placed(places):
    """The positions that have a place."""
    return [at for at, place in enumerate(places) if place.row >= 0]


def some(positions, places, number):
    """About so many of the positions, of the small copy of an image and of its tiles."""
    copies = [at for at in positions if places[at].tile < 0]
    tiles = [at for at in positions if places[at].tile >= 0]
    found = []
    for group in (copies, tiles):
        found += group[:: max(1, len(group) // number)]
    return found


def wrong(family, images, places, chosen, parts=(MIDDLE,)):
    """For which of the positions another one moves most when a part of its patch is changed.

    A small copy of the image is told from its tiles, which show the same.
    """
    before = family.embeddings(images)
    found = []
    for number, position in enumerate(chosen):
        place = places[position]
        others = list(images)
        part = parts[number % len(parts)]
        others[place.image] = changed(images[place.image], place, part)
        moved = (family.embeddings(others) - before).norm(dim=-1)
        alike = [at for at in placed(places) if (places[at].tile < 0) == (place.tile < 0)]
        if max(alike, key=lambda at: float(moved[at])) != position:
            found.append(position)
    return found


def new_family(name):
    return Family(tiny_images.SLOTS[name], *tiny_images.FAMILIES[name]())


family_of = functools.cache(new_family)  # for tests that change nothing about it


@pytest.fixture(params=WITH_PLACES)
def family(request):
    return family_of(request.param)


# -- the boxes are measured ----------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_token_that_moves_is_the_one_whose_box_was_changed(family, size):
    images = [picture(size)]
    places = family.read(images).places
    chosen = some(placed(places), places, 6)
    assert len(chosen) >= 4
    assert wrong(family, images, places, chosen) == []


def test_the_boxes_end_where_the_patches_do(family):
    images = [picture((448, 280))]
    places = family.read(images).places
    chosen = some(placed(places), places, 7)
    assert wrong(family, images, places, chosen, CORNERS) == []


def test_each_of_several_images_has_its_own_places(family):
    images = [picture((160, 100)), picture((100, 130), seed=1), picture((120, 120), seed=2)]
    places = family.read(images).places
    assert {place.image for place in places} == {-1, 0, 1, 2}
    for image in range(3):
        own = [at for at in placed(places) if places[at].image == image]
        assert wrong(family, images, places, some(own, places, 3)) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [*SIZES, (640, 480), (50, 51), (33, 200)])
def test_every_token_moves_with_its_own_box(family, size):
    images = [picture(size)]
    places = family.read(images).places
    chosen = placed(places)
    assert wrong(family, images, places, chosen) == []


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "internvl"])
def test_a_map_that_is_shifted_by_one_token_is_found_out(name):
    family = family_of(name)
    images = [picture((160, 100))]
    places = family.read(images).places
    positions = placed(places)
    shifted = list(places)
    for position, other in zip(positions, [*positions[1:], positions[0]], strict=True):
        shifted[position] = places[other]
    chosen = some(positions, places, 6)
    assert len(wrong(family, images, shifted, chosen)) > 0.8 * len(chosen)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "internvl"])
def test_boxes_that_are_shifted_by_a_third_of_a_patch_are_found_out(name):
    family = family_of(name)
    images = [picture((448, 280))]
    places = family.read(images).places
    shifted = list(places)
    for position in placed(places):
        place = places[position]
        further = (place.right - place.left) / 3
        shifted[position] = place._replace(left=place.left + further, right=place.right + further)
    chosen = [at for at in placed(places) if places[at].column == 1]
    found = wrong(family, images, shifted, chosen, CORNERS[1:2])
    assert len(found) > 0.8 * len(chosen)


# -- other settings of a family ------------------------------------------------


def test_pan_and_scan_places_the_crops_after_the_whole_image():
    family = new_family("gemma3")
    family.processor.images_kwargs = {
        **type(family.processor).images_kwargs,
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 20,
    }
    for size, tiles in [((301, 71), 4), ((90, 130), 2), ((100, 100), 0)]:
        images = [picture(size)]
        places = family.read(images).places
        assert {place.tile for place in places} == {-1, *range(tiles)}
        assert len(placed(places)) == 16 * (1 + tiles)
        assert wrong(family, images, places, some(placed(places), places, 8)) == []


def test_onevision_shrinks_a_grid_of_too_many_patches():
    module, processor = tiny_images.FAMILIES["llava_onevision"]()
    processor.vision_aspect_ratio = module.config.vision_aspect_ratio = "anyres_max_4"
    family = Family("<image>", module, processor)
    images = [picture((224, 224))]
    places = family.read(images).places
    assert len(placed(places)) == 16 + 64
    assert wrong(family, images, places, some(placed(places), places, 16)) == []


def test_onevision_sees_no_more_than_whole_patches_of_a_tile():
    side = 67  # four patches of 14, and 11 pixels
    tokenizer = tiny_images.tokenizer(image_token="<image>", video_token="<video>")
    pins = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    processor = tiny_images.still(hf.LlavaOnevisionProcessor)(
        hf.LlavaOnevisionImageProcessor(
            size={"height": side, "width": side}, image_grid_pinpoints=pins
        ),
        tokenizer,
        tiny_images.video("LlavaOnevisionVideoProcessor"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**tiny_images.vision(side), vision_use_head=False),
        text_config=hf.Qwen2Config(**tiny_images.text(tokenizer)),
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
        **tiny_images.ids(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    )
    made = tiny_images.made(hf.LlavaOnevisionForConditionalGeneration, config)
    family = Family("<image>", made, processor)
    images = [picture((260, 150))]
    places = family.read(images).places
    assert max(place.right for place in places if place.row >= 0) < 250
    chosen = some(placed(places), places, 8)
    assert wrong(family, images, places, chosen, CORNERS) == []


def test_onevision_pads_images_that_are_given_together():
    family = family_of("llava_onevision")
    sources = [picture((160, 100)), picture((60, 130), seed=1)]
    parts = [{"type": "image", "image": Image.fromarray(image)} for image in sources]
    chat = [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]
    prompt = read(family.model, chat, None)
    assert prompt.tensors["batch_num_images"].tolist() == [2]
    of_images = [place for place in prompt.places if place.image >= 0]
    assert len(of_images) == 2 * 17
    boxes = [place[-4:] for place in of_images if place.row == 0]
    # The first is padded by 30 pixels above and below, so its first row of 40 has 10 of its own.
    np.testing.assert_allclose(boxes[:2], [[0, 0, 40, 10], [40, 0, 80, 10]])
    # The second by 35 on each side, so its first column of 32.5 shows nothing of it.
    first = next(place for place in of_images if place.image == 1)
    assert first.row == -1
    np.testing.assert_allclose(boxes[4], [0, 0, 30, 32.5])


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_of_a_strip_the_small_copy_has_places(name):
    """Of the tiles nothing but ends of lines is left."""
    family = family_of(name)
    for size in [(1, 50), (300, 1)]:
        places = family.read([picture(size)]).places
        assert len(placed(places)) == 16
        assert {places[at].tile for at in placed(places)} == {-1}


def llava_of(image, vision, **options):
    """A small LLaVA with another image processor, or another tower."""
    tokenizer = tiny_images.tokenizer(image_token="<image>")
    processor = hf.LlavaProcessor(image, tokenizer, patch_size=14, **options)
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**tiny_images.text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=options["vision_feature_select_strategy"],
    )
    return Family("<image>", tiny_images.made(hf.LlavaForConditionalGeneration, config), processor)


SIDE = {"height": 56, "width": 56}


@pytest.mark.parametrize("size", [(160, 100), (70, 90)])
def test_llava_places_a_class_token_nowhere(size):
    image = hf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SIDE)
    tower = hf.CLIPVisionConfig(**tiny_images.vision(56))
    options = {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    family = llava_of(image, tower, **options)
    images = [picture(size)]
    places = family.read(images).places
    of_image = [place for place in places if place.image == 0]
    assert len(of_image) == 17
    assert of_image[0].row == -1
    assert wrong(family, images, places, placed(places)) == []


@pytest.mark.parametrize("kind", ["stretched", "padded"])
def test_llava_around_another_tower(kind):
    if kind == "stretched":
        image = hf.SiglipImageProcessor(size=SIDE)
    else:
        image = hf.LlavaImageProcessor(
            do_pad=True, size={"shortest_edge": 56}, crop_size=SIDE, do_center_crop=True
        )
    tower = hf.SiglipVisionConfig(**tiny_images.vision(56), vision_use_head=False)
    family = llava_of(image, tower, vision_feature_select_strategy="full")
    images = [picture((200, 110))]
    places = family.read(images).places
    assert wrong(family, images, places, placed(places)) == []
    n_padding = sum(place.image == 0 and place.row < 0 for place in places)
    assert n_padding == 0  # 45 of 200 pixels above and below, and a patch has 50
    edges = {place.top for place in places if place.row == 0}
    assert edges == {0}
    heights = {place.row: place.bottom - place.top for place in places if place.row >= 0}
    expected = [27.5] * 4 if kind == "stretched" else [5, 50, 50, 5]
    np.testing.assert_allclose([heights[row] for row in range(4)], expected)


@pytest.mark.parametrize("settings", [{"size": {"shortest_edge": 41}}, {"do_resize": False}])
def test_what_is_padded_to_a_crop_begins_where_the_processor_put_it(settings):
    image = hf.CLIPImageProcessor(crop_size=SIDE, **settings)
    tower = hf.CLIPVisionConfig(**tiny_images.vision(56))
    options = {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    family = llava_of(image, tower, **options)
    images = [np.full((41, 41, 3), 255, np.uint8)]
    prompt = family.read(images)
    seen = np.flatnonzero(prompt.tensors["pixel_values"][0, 0, 28] > 0)  # black is below
    first = next(place for place in prompt.places if place.row == 0)
    assert (first.left, first.right) == (0, 14 - seen[0])
    assert (first.top, first.bottom) == (0, 14 - seen[0])


def test_an_image_of_one_token_has_a_place():
    """Its sizes are three numbers, and the prompt is three tokens."""
    family = new_family("qwen2_vl")
    family.processor.image_processor.size = {"shortest_edge": 28**2, "longest_edge": 28**2}
    prompt = family.read([picture((28, 28))], family.slot)
    assert [place.row for place in prompt.places] == [-1, 0, -1]
    assert prompt.tensors["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert "image_grid_thw" not in prompt.inputs


# -- what the boxes cover ------------------------------------------------------


def test_the_boxes_cover_what_is_seen_once(family):
    size = (161, 103)
    places = family.read([picture(size)]).places
    for tiles in ({-1}, {place.tile for place in places if place.tile >= 0}):
        boxes = [place[-4:] for place in places if place.row >= 0 and place.tile in tiles]
        if not boxes:
            continue
        left, top, right, bottom = np.array(boxes).T
        area = ((right - left) * (bottom - top)).sum()
        seen = (left.min(), top.min(), right.max(), bottom.max())
        np.testing.assert_allclose(area, (seen[2] - seen[0]) * (seen[3] - seen[1]))
        over = np.minimum(right[:, None], right) - np.maximum(left[:, None], left) > 1e-6
        over &= np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top) > 1e-6
        assert over.sum() == len(boxes)  # with itself alone
        if family is not family_of("llava"):
            np.testing.assert_allclose(seen, (0, 0, *size))
    if family is family_of("llava"):  # cut to a square in the middle
        np.testing.assert_allclose(seen, (29, 0, 132, 103), atol=1.5)  # whole pixels of 56


# -- what is not known is not guessed ------------------------------------------


def places_of(family, images, **config):
    """The places of a prompt with another config."""
    prompt = family.read(images)
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    encoded = Encoded(prompt.token_ids, prompt.tensors, sizes)
    kept = {name: getattr(family.module.config, name) for name in config}
    for name, value in config.items():
        setattr(family.module.config, name, value)
    try:
        token = family.module.config.image_token_id
        return image_places(family.model, family.processor, token, encoded)
    finally:
        for name, value in kept.items():
            setattr(family.module.config, name, value)


def test_a_family_without_a_rule_has_images_and_no_places(family):
    images = [picture((160, 100)), picture((100, 160), seed=1)]
    known = family.read(images).places
    unknown = places_of(family, images, model_type="one of tomorrow")
    assert [place.image for place in unknown] == [place.image for place in known]
    assert placed(unknown) == []


def test_other_numbers_of_tokens_than_the_rule_says_have_no_places():
    family = family_of("gemma3")
    places = places_of(family, [picture((160, 100))], mm_tokens_per_image=25)
    assert placed(places) == []
    assert sum(place.image == 0 for place in places) == 16


def test_an_image_processor_of_other_steps_has_no_places():
    class Mirrored(type(family_of("llava").processor.image_processor)):
        """One that nobody knows."""

    image = Mirrored(size={"shortest_edge": 56}, crop_size=SIDE)
    tower = hf.CLIPVisionConfig(**tiny_images.vision(56))
    options = {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    family = llava_of(image, tower, **options)
    assert placed(family.read([picture((160, 100))]).places) == []


def test_a_resampler_has_images_and_no_places():
    family = family_of("idefics2")
    places = family.read([picture((160, 100)), picture((100, 160), seed=1)]).places
    assert [place.image for place in places if place.image >= 0] == [0] * 6 + [1] * 6
    assert placed(places) == []


def test_tokens_of_an_unknown_image_are_refused():
    family = family_of("llava")
    prompt = family.read([picture((160, 100))])
    encoded = Encoded(prompt.token_ids, prompt.tensors, [(160, 100), (100, 160)])
    with pytest.raises(lr.LensError, match="the 2 images of a prompt are 16 tokens in it"):
        image_places(family.model, family.processor, family.module.config.image_token_id, encoded)


def test_every_rule_is_measured():
    without_places = {"idefics2", "blip-2"}
    assert set(RULES) == {*WITH_PLACES, *MORE, *without_places} - {"pixtral"}  # a LLaVA


# -- where they are asked for --------------------------------------------------


def test_positions_are_found_by_image_and_by_box(tmp_path):
    module, processor = tiny_images.FAMILIES["qwen2_vl"]()
    model = lr.load(module, processor=processor)
    slot = tiny_images.SLOTS["qwen2_vl"]
    images = [[picture((168, 112))], [picture((112, 168)), picture((112, 112), seed=1)]]
    prompts = [f"{slot} what?", f"{slot} and {slot} what?"]
    found = lr.logit_lens(model, prompts, images=images, positions="image", top_k=1)
    assert found.tokens.is_image.all()
    assert len(found.tokens) == 24 + 24 + 16
    box = {"box": (30, 30, 60, 50), "image": 1}
    under = lr.logit_lens(model, prompts[1], images=images[1], positions=box, top_k=1).tokens
    assert set(under.image) == {1}
    np.testing.assert_array_equal(under.row, [1, 1])
    np.testing.assert_array_equal(under.column, [1, 2])
    np.testing.assert_array_equal(under.box, [[28, 28, 56, 56], [56, 28, 84, 56]])
    for own in (under.box[0], tuple(under.box[0]), torch.tensor(under.box[0])):
        box = {"box": own, "image": under.image[0]}
        again = lr.logit_lens(model, prompts[1], images=images[1], positions=box, top_k=1)
        np.testing.assert_array_equal(again.tokens.box, under.box[:1])
        edit = lr.ablate(layer=1, positions=box)
        edited = lr.logit_lens(model, prompts[1], images=images[1], edits=edit, top_k=1)
        assert str(edit_from_json(edited.edits[0].to_json())) == str(edited.edits[0])
    edit = lr.ablate(layer=1, positions={"box": (60, -np.inf, np.inf, np.inf)})
    edited = lr.logit_lens(model, prompts[1], images=images[1], edits=edit, top_k=1)
    edited.save(tmp_path / "edited.json")
    saved = lr.LensResult.load(tmp_path / "edited.json")
    assert saved.verify(model, images=images[1:]).certificate.passed
    no_box = lr.ablate(layer=1, positions={"box": 5})
    with pytest.raises(ValueError, match="is no box"):
        lr.logit_lens(model, prompts[1], images=images[1], edits=no_box)
    text = lr.logit_lens(model, prompts[0], images=images[0], positions="text", top_k=1).tokens
    assert not text.is_image.any()
