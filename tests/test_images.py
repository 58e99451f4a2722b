"""The lens on image tokens is what the model itself would say there if it stopped after each layer."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import oracle
import pytest
import tiny
import tiny_images
import torch
from PIL import Image

import lens_recipes as lr
from lens_recipes.models.images.both_ways import stated_both_ways
from lens_recipes.views.files.schema.certificate import read_certificate, write_certificate

# Those that a lens reads: the others are refused, and say why.
REFUSED = ("blip_2", "mllama")
READ = [name for name in tiny_images.FAMILIES if name not in REFUSED]
NESTED = ("idefics2", "idefics3")  # their processors want a list of images for each text


@functools.cache
def loaded(name):
    """A small model that takes images, nothing of it left at a value that hides a mistake."""
    module, processor = tiny_images.FAMILIES[name]()
    with torch.no_grad():
        tiny.unsettle(module, seed=1)
    return lr.load(module, processor=processor), processor


@pytest.fixture(params=READ)
def family(request):
    """A small random model that takes images, and its name."""
    return (request.param, *loaded(request.param))


@functools.cache
def picture(width=160, height=100, seed=0):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def text_of(name, n_images=1):
    """A prompt with the marks of its images."""
    slots = " and ".join([tiny_images.SLOTS[name]] * n_images)
    return f"USER: {slots} what? ASSISTANT:"


def encoded(processor, name, images, text=None):
    """A prompt with images as its own processor makes it."""
    given = [images] if name in NESTED else images
    text = text or text_of(name, len(images))
    return processor(text=[text], images=given, return_tensors="pt")


def check_against_oracle(found, model, inputs, close=1e-4):
    """Compare a result of one prompt, at all positions, with the model's own early exits."""
    exits, own = oracle.image_exit_logits(model._module, inputs)
    expected = oracle.metrics(exits, own, k=found.top_ids.shape[-1])
    ids = found.top_ids.astype(int)
    at_ids = np.take_along_axis(expected["logprobs"], ids, -1)
    np.testing.assert_allclose(found.top_logprobs, at_ids, atol=close)
    np.testing.assert_allclose(at_ids, expected["top_logprobs"], atol=close)
    np.testing.assert_allclose(found.entropy, expected["entropy"], atol=close)
    np.testing.assert_allclose(found.kl_to_final, expected["kl_to_final"], atol=close)
    token = model._module.config.image_token_id
    assert found.tokens.id.tolist() == inputs["input_ids"][0].tolist()
    assert (found.tokens.id == token).sum() > 4
    np.testing.assert_array_equal(found.tokens.is_image, found.tokens.id == token)
    np.testing.assert_array_equal(found.tokens.is_image, found.tokens.id == token)


def test_every_layer_at_every_position_is_the_models_own_early_exit(family):
    name, model, processor = family
    found = lr.logit_lens(model, text_of(name), images=picture(), top_k=3)
    assert found.certificate.passed
    check_against_oracle(found, model, encoded(processor, name, [picture()]))


def test_two_images_of_two_sizes_in_one_prompt(family):
    name, model, processor = family
    images = [picture(), picture(100, 120, seed=1)]
    found = lr.logit_lens(model, text_of(name, 2), images=images, top_k=3)
    assert found.certificate.passed
    check_against_oracle(found, model, encoded(processor, name, images))


def test_another_image_is_another_prompt(family):
    name, model, _ = family
    one, other = (lr.logit_lens(model, text_of(name), images=picture(seed=s)) for s in (0, 1))
    of_image = one.tokens.id == model._module.config.image_token_id
    assert np.abs(one.entropy - other.entropy)[:, of_image].max() > 1e-3


def test_a_text_beside_an_image_prompt_is_read_as_alone(family):
    name, model, processor = family
    if name == "paligemma":
        pytest.skip("its processor takes no text without an image")
    text = "USER: what is the capital of France?"
    both = lr.logit_lens(model, [text_of(name), text], images=[picture(), None])
    with_image = lr.logit_lens(model, text_of(name), images=picture())
    ids = processor(text=[text], return_tensors="pt")["input_ids"][0].tolist()
    alone = lr.logit_lens(model, [ids])
    assert both.certificate.passed
    for together, apart in ((both[0], with_image), (both[1], alone)):
        assert together.tokens.id.tolist() == apart.tokens.id.tolist()
        np.testing.assert_allclose(together.top_logprobs, apart.top_logprobs, atol=1e-5)


def test_some_positions_are_those_of_the_whole():
    model, _ = loaded("qwen2_vl")
    text = text_of("qwen2_vl")
    whole = lr.logit_lens(model, text, images=picture())
    for positions in (-1, [4, 9, -2]):
        some = lr.logit_lens(model, text, images=picture(), positions=positions)
        np.testing.assert_allclose(
            some.top_logprobs, whole.top_logprobs[:, some.tokens.position], atol=1e-5
        )
        assert some.certificate.passed


def test_in_half_precision():
    module, processor = tiny_images.llava()
    with torch.no_grad():
        tiny.unsettle(module, seed=1)
    model = lr.load(module.to(torch.bfloat16), processor=processor)
    found = lr.logit_lens(model, text_of("llava"), images=picture(), top_k=1)
    assert found.certificate.passed
    assert found.certificate.dtype == "bfloat16"
    inputs = encoded(processor, "llava", [picture()])
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    exits, _ = oracle.image_exit_logits(module, inputs)
    expected = torch.log_softmax(exits, -1).max(-1).values
    np.testing.assert_allclose(found.top_logprobs[..., 0], expected, atol=0.1)


# -- masks that are not causal -----------------------------------------


def test_the_token_types_of_gemma_3_reach_the_model():
    model, processor = loaded("gemma3")
    inputs = encoded(processor, "gemma3", [picture()])
    with torch.no_grad():
        own = model._module(**inputs).logits[0]
        del inputs["token_type_ids"]
        without = model._module(**inputs).logits[0]
    found = lr.logit_lens(model, text_of("gemma3"), images=picture())
    expected = torch.log_softmax(own, -1).max(-1).values
    np.testing.assert_allclose(found.model_logprobs, expected, atol=1e-5)
    assert (own - without).abs().max() > 0.1  # so the comparison can fail


def test_an_edit_in_an_image_of_gemma_3_reaches_that_image_and_nothing_before():
    model, _ = loaded("gemma3")
    text = text_of("gemma3", 2)
    images = [picture(), picture(seed=1)]
    whole = lr.logit_lens(model, text, images=images)
    of_image = np.flatnonzero(whole.tokens.id == model._module.config.image_token_id)
    first, second = of_image[:16], of_image[16:]
    edit = lr.ablate(layer=0, positions=[int(second[9])])
    found = lr.logit_lens(model, text, images=images, edits=edit)
    assert found.certificate.passed
    moved = np.abs(found.entropy[-1] - whole.entropy[-1])
    assert (moved[second[:9]] > 1e-4).all()  # tokens of its own image, before it
    assert (moved[: second[0]] == 0).all()
    assert not np.isnan(moved[first]).any()
    assert found.effects.n_outside == second[0]
    assert found.effects.max_outside == 0


def test_a_prompt_that_is_read_both_ways_says_so():
    model, _ = loaded("paligemma")
    anatomy = lr.anatomy(model)
    assert anatomy.is_prefix
    assert "read both ways" in str(anatomy)
    found = lr.logit_lens(model, text_of("paligemma"), images=picture())
    words = "its prompt is read both ways: only the last token predicts"
    assert words in str(found.certificate)
    assert f"distrust: {words}" in found.summary()
    text = lr.logit_lens(model, "USER: what?")
    assert text.certificate.passed
    assert text.certificate.read_both_ways
    other = lr.logit_lens(model, "USER: what!")
    assert np.abs(text.entropy - other.entropy)[:, 0].max() > 1e-4  # it does see what is later


def test_a_prompt_that_is_read_both_ways_is_so_in_either_attention():
    module, processor = tiny_images.paligemma()
    model = lr.load(module, processor=processor)
    for prompt, images in (("USER: what?", None), (text_of("paligemma"), picture())):
        module.set_attn_implementation("sdpa")
        fused = lr.logit_lens(model, prompt, images=images)
        module.set_attn_implementation("eager")
        eager = lr.logit_lens(model, prompt, images=images)
        np.testing.assert_allclose(fused.entropy, eager.entropy, atol=1e-5)


def test_edits_of_a_prompt_that_is_read_both_ways_reach_all_of_it():
    model, _ = loaded("paligemma")
    plain = lr.logit_lens(model, text_of("paligemma"), images=picture())
    edit = lr.ablate(layer=0, positions=[-2])
    found = lr.logit_lens(model, text_of("paligemma"), images=picture(), edits=edit)
    assert found.certificate.passed
    assert found.effects.n_outside == 0
    assert (found.entropy[-1] != plain.entropy[-1]).all()


@pytest.mark.parametrize(
    "run",
    [
        lambda model: lr.generate_lens(model, "USER: what?", max_new_tokens=2),
        lambda model: lr.patch_map(model, "USER: dog", "USER: cat", target=[47], against=[51]),
    ],
)
def test_what_needs_a_model_that_reads_left_to_right_says_so(run):
    model, _ = loaded("paligemma")
    with pytest.raises(lr.LensError, match="reads its prompt both ways"):
        run(model)


@pytest.mark.parametrize("name", ["paligemma", "gemma3", "llava"])
def test_without_weights_the_config_says_what_is_read_both_ways(name):
    model, _ = loaded(name)
    anatomy = lr.anatomy(model)
    stated = stated_both_ways(model.config.get_text_config(), anatomy.forward_options)
    assert stated == anatomy.both_ways


def test_a_model_that_is_not_causal_in_any_type_is_refused_as_before():
    module, processor = tiny_images.paligemma()
    model = lr.load(module, processor=processor)
    own = module.forward

    def forward(input_ids=None, pixel_values=None, token_type_ids=None, use_cache=None):
        types = None if token_type_ids is None else torch.zeros_like(token_type_ids)
        return own(input_ids=input_ids, pixel_values=pixel_values, token_type_ids=types)

    module.forward = forward
    with pytest.raises(lr.LensError, match="not causal"):
        lr.anatomy(model)


# -- what a model adds to its image tokens -----------------------------


def test_what_qwen_3_adds_to_image_tokens_is_said_to_be_its_own():
    model, _ = loaded("qwen3_vl")
    found = lr.logit_lens(model, text_of("qwen3_vl"), images=picture())
    assert found.certificate.image_layers == (0,)
    assert not found.certificate.changed_layers
    assert "after layer 0 the model itself adds to the tokens of an image" in str(found.certificate)
    assert "hook" not in str(found.certificate)
    assert "hook" not in found.summary()
    text = lr.logit_lens(model, "USER: what?")
    assert not text.certificate.image_layers
    for certificate in (found.certificate, replace(found.certificate, read_both_ways=True)):
        stored = json.loads(json.dumps(write_certificate(certificate)))
        assert read_certificate(stored, {}) == certificate
    assert "image_layers" not in write_certificate(text.certificate)


def test_a_hook_beside_what_a_model_adds_is_a_hook():
    module, processor = tiny_images.qwen3_vl()
    model = lr.load(module, processor=processor)
    block = module.get_decoder().layers[1]
    with block.register_forward_pre_hook(lambda _block, args: (args[0] * 1.5, *args[1:])):
        found = lr.logit_lens(model, text_of("qwen3_vl"), images=picture())
    assert found.certificate.changed_layers == (0,)
    assert not found.certificate.image_layers


def test_sums_of_parts_that_lack_what_was_added_say_so():
    model, _ = loaded("qwen3_vl")
    with pytest.raises(lr.LensError, match="adds to the tokens of an image what it saw there"):
        lr.logit_lens(model, text_of("qwen3_vl"), images=picture(), components=["attn_out"])
    text = text_of("qwen3_vl")
    last = lr.logit_lens(model, text, images=picture(), components=["attn_out"], positions=-1)
    assert last.certificate.passed  # nothing is added to a token of the text


# -- what is refused ---------------------------------------------------


def test_images_that_are_read_in_blocks_of_their_own_are_refused():
    module, processor = tiny_images.mllama()
    model = lr.load(module, processor=processor)
    assert lr.logit_lens(model, "USER: what?").certificate.passed
    with pytest.raises(lr.LensError, match=r"cross attention, in blocks of their own \(1, 3\)"):
        lr.logit_lens(model, text_of("mllama"), images=picture())


@pytest.mark.filterwarnings("ignore:Module .* has a submodule")
def test_a_model_that_reads_no_text_without_an_image_is_refused():
    module, processor = tiny_images.blip_2()
    model = lr.load(module, processor=processor)
    with pytest.raises(lr.LensError, match="does not run on a text alone"):
        lr.logit_lens(model, text_of("blip_2"), images=picture())
