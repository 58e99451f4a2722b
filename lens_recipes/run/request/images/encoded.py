"""Prompts that are ids already, image tokens among them, with the images that these stand for.

So a result keeps what the model was given, and whoever runs it again has the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.images import NO_PLACE
from lens_recipes.models.images.processor import image_token_id, processor_of
from lens_recipes.run.request.encodings import IDS, EncodedPrompt, read_encoding
from lens_recipes.run.request.images.asked.given import images_of_prompts
from lens_recipes.run.request.images.asked.slots import slot_of
from lens_recipes.run.request.images.opened import OpenedImage, open_image
from lens_recipes.run.request.images.places.encoded import Encoded
from lens_recipes.run.request.images.places.places import image_places
from lens_recipes.run.request.images.prompts import ImagePrompt, image_prompt, processed_text
from lens_recipes.run.request.prompts import sort_prompts

IMAGE_TYPES = "mm_token_type_ids"  # which ids are an image's, beside those of text


def are_ids(prompts: Any) -> bool:
    """Tell whether prompts are token ids: lists of them, or an encoding."""
    if isinstance(prompts, Mapping):
        return IDS in prompts
    return not isinstance(prompts, str) and sort_prompts(prompts).kind == "ids"


def read_encoded_prompts(
    model: Envoy, prompts: Any, images: Any, forward_options: frozenset[str]
) -> list[ImagePrompt]:
    """Return prompts that are ids already, with what the model is given of their images.

    Args:
        model: What `load()` returns.
        prompts: Ids, or an encoding of them with token types; an image's tokens are among them.
        images: Of each prompt, as for `read_image_prompts`.
        forward_options: The names of the arguments that the model's forward takes.

    Raises:
        ValueError: prompts or images that cannot be used, or that do not go together.
        LensError: this model takes no images, or they leave nothing in the stream.
    """
    processor, token = processor_of(model), image_token_id(model)
    if not isinstance(prompts, Mapping):
        prompts = {IDS: sort_prompts(prompts).items}
    encoded = read_encoding(prompts, forward_options, also=(IMAGE_TYPES,))
    found = []
    for number, given in enumerate(images_of_prompts(images, len(encoded))):
        opened = [open_image(image, index) for index, image in enumerate(given)]
        prompt, what = encoded[number], f"prompt {number}"
        if not opened and token in prompt.token_ids:
            raise ValueError(
                f"{what} has tokens of an image among its ids, and no image goes with it: pass "
                "images=."
            )
        made = None
        if opened:
            n_tokens = prompt.token_ids.count(token)
            made = made_of_images(model, processor, token, opened, n_tokens, what)
        found.append(with_images(model, processor, token, prompt, opened, made, what))
    return found


def made_of_images(
    model: Envoy,
    processor: Any,
    token: int,
    opened: list[OpenedImage],
    n_tokens: int,
    what: str,
) -> ImagePrompt:
    """Return what the processor makes of images with nothing around them.

    They are given as they are beside a text, or where that makes other numbers of tokens, together
    as in a chat: LLaVA-OneVision sees less of images that come together.
    """
    text = slot_of(processor) * len(opened)
    ways = (False, True) if len(opened) > 1 else (False,)
    found = []
    for together in ways:
        encoding = processed_text(
            processor, text, opened, what, add_special_tokens=True, together=together
        )
        found.append(image_prompt(model, processor, token, encoding, opened))
        if found[-1].token_ids.count(token) == n_tokens:
            return found[-1]
    return found[0]


def with_images(
    model: Envoy,
    processor: Any,
    token: int,
    prompt: EncodedPrompt,
    opened: list[OpenedImage],
    made: ImagePrompt | None,
    what: str,
) -> ImagePrompt:
    """Return ids with their images: pixels, token types, and the place of each patch.

    Raises:
        ValueError: the ids have more or fewer image tokens than the images make.
    """
    ids = list(prompt.token_ids)
    if made is None:
        return ImagePrompt(ids, dict(prompt.inputs), {}, [], [NO_PLACE] * len(ids), [])
    there, expected = ids.count(token), made.token_ids.count(token)
    if there != expected:
        raise ValueError(
            f"{what} has {there} tokens of an image among its ids, and its images make {expected}: "
            "these are other images, or more or fewer of them."
        )
    inputs = dict(prompt.inputs)
    for name, row in made.inputs.items():
        kind = row[made.token_ids.index(token)]
        inputs.setdefault(name, [kind if each == token else 0 for each in ids])
    sizes = [(each.picture.width, each.picture.height) for each in opened]
    places = image_places(model, processor, token, Encoded(ids, made.tensors, sizes))
    return ImagePrompt(ids, inputs, made.tensors, made.pictures, places, made.digests)
