"""The lens on image tokens is what the model itself would say there if it stopped after each layer."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_images
import torch
from PIL import Image

import lens_recipes as lr

# Those that a lens reads: the others are refused, and say why.
READ = [name for name in tiny_images.FAMILIES if name not in ("paligemma", "blip_2", "mllama")]


@pytest.fixture(scope="module", params=READ)
def family(request):
    """A small random model that takes images, and its name."""
    module, processor = tiny_images.FAMILIES[request.param]()
    return request.param, lr.load(module, processor=processor), processor


def picture(width=160, height=100, seed=0):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(processor, name, image):
    """A prompt with an image as its processor makes it, and as text."""
    text = f"USER: {tiny_images.SLOTS[name]} what? ASSISTANT:"
    return text, processor(text=[text], images=[image], return_tensors="pt")


def early_exits(module, inputs):
    """Log-probabilities after each layer at each position, from plain hooks and the model's own head.

    What stands after a layer is what the next one is given: Qwen3-VL adds to it in between.
    """
    streams = []
    decoder = module.get_decoder()
    hooks = [
        reader.register_forward_pre_hook(lambda _m, args: streams.append(args[0]))
        for reader in [*decoder.layers[1:], decoder.norm]
    ]
    with torch.no_grad():
        logits = module(**{k: v for k, v in inputs.items() if k != "labels"}).logits[0]
        for hook in hooks:
            hook.remove()
        norm, head = decoder.norm, module.get_output_embeddings()
        exits = [head(norm(stream))[0] for stream in streams]
    return torch.log_softmax(torch.stack(exits).float(), -1), torch.log_softmax(logits.float(), -1)


def test_every_layer_at_every_position_is_the_models_own_early_exit(family):
    name, model, processor = family
    image = picture()
    text, inputs = encoded(processor, name, image)
    found = lr.logit_lens(model, text, images=image, top_k=3)
    assert found.certificate.passed
    exits, logits = early_exits(model._module, inputs)
    expected = torch.gather(exits, -1, torch.tensor(found.top_ids, dtype=torch.int64))
    np.testing.assert_allclose(found.top_logprobs, expected, atol=1e-4)
    np.testing.assert_allclose(found.model_logprobs, logits.max(-1).values, atol=1e-4)
    token = model._module.config.image_token_id
    np.testing.assert_array_equal(found.tokens.is_image, inputs["input_ids"][0] == token)


def test_another_image_is_another_prompt(family):
    name, model, processor = family
    text, _ = encoded(processor, name, picture())
    one, other = (lr.logit_lens(model, text, images=picture(seed=seed)) for seed in (0, 1))
    assert np.abs(one.entropy - other.entropy)[:, one.tokens.is_image].max() > 1e-3
