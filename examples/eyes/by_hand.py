"""SmolLM2 with eyes made by hand: each patch of an image becomes the word for its colour.

The eyes stand where a multimodal model has its vision tower. What they see was written here, so it
is known what the decoder is given at each patch. Of how trained eyes see, they show nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import transformers as hf
from transformers.modeling_outputs import BaseModelOutputWithPooling

import lens_recipes as lr

PATCH = 28  # pixels of its side; an image is 4 × 4 patches
MARK = "<file_sep>"  # a token of SmolLM2 that stands for a patch here
CHAT = "\nColours:{% for part in messages[0].content %}{{ part.text or '<file_sep>' }}{% endfor %}"


def red_above_blue() -> np.ndarray:
    """Return an image, `[row, column, 3]`."""
    image = np.zeros((4 * PATCH, 4 * PATCH, 3), dtype="uint8")
    image[: 2 * PATCH, :, 0] = 255
    image[2 * PATCH :, :, 2] = 255
    return image


def smollm2_with_eyes():
    """Return a LLaVA whose decoder is SmolLM2, with its processor."""
    model = lr.load("smollm2")
    decoder, tokenizer = model._module, model.tokenizer
    colours = tokenizer.convert_tokens_to_ids(["Ġred", "Ġgreen", "Ġblue"])
    words = decoder.get_input_embeddings().weight[colours]

    def look(pixel_values, **_):
        patches = torch.nn.functional.avg_pool2d(pixel_values, PATCH)  # [1, colour, row, column]
        embeddings = patches.flatten(2).mT[0] @ words
        return BaseModelOutputWithPooling(pooler_output=[embeddings])

    mark = tokenizer.convert_tokens_to_ids(MARK)
    grid = hf.CLIPVisionConfig(patch_size=PATCH, image_size=4 * PATCH)
    config = hf.LlavaConfig(vision_config=grid, text_config=decoder.config, image_token_index=mark)
    with torch.device("meta"):
        module = hf.LlavaForConditionalGeneration(config).eval()
    module.model.vision_tower = module.model.multi_modal_projector = None
    module.model.get_image_features = look
    module.model.language_model = decoder.model
    module.lm_head = decoder.lm_head
    return lr.load(module, processor=processor(tokenizer))


def processor(tokenizer):
    """Return what makes an image 112 × 112 pixels large, between 0 and 1."""
    side = 4 * PATCH
    pixels = hf.CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
    )
    return hf.LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=MARK,
        chat_template=CHAT,
    )
