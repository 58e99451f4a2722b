"""Prompts with images: as ids, as what the model is given beside them, and where each patch is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.images import NO_PLACE, ImagePlace, Picture
from lens_recipes.arrays.text import counted
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.images.processor import image_token_id, processor_of
from lens_recipes.run.request.images.asked.chats import (
    processed_chat,
    refuse_other_media,
    with_opened_images,
)
from lens_recipes.run.request.images.asked.given import images_of_prompts
from lens_recipes.run.request.images.asked.slots import mark_of, slot_of
from lens_recipes.run.request.images.digests import image_digest
from lens_recipes.run.request.images.opened import OpenedImage, open_image
from lens_recipes.run.request.images.places.encoded import Encoded
from lens_recipes.run.request.images.places.places import image_places
from lens_recipes.run.request.prompts import Prompts, encode_each, sort_prompts, writes_chats
from lens_recipes.terminal import one_line

NOT_GIVEN = ("input_ids", "attention_mask", "labels", "position_ids")
OF_IMAGES = ("_thw", "_sizes", "_shapes")  # what tensors are called that have a row for each image
NESTED = ("Idefics", "SmolVLM", "Mllama")  # their processors want a list of images for each text


class ImagePrompt(NamedTuple):
    """One prompt with its images.

    Attributes:
        token_ids: `[position]`.
        inputs: What the model is given beside each id, by name, `[position]`.
        tensors: What else it is given, as the processor made it: pixels, sizes, grids.
        pictures: Its images.
        places: Where each token is in them, `[position]`.
        digests: What tells each image from any other.
    """

    token_ids: list[int]
    inputs: dict[str, list[int]]
    tensors: dict[str, Tensor]
    pictures: list[Picture]
    places: list[ImagePlace]
    digests: list[str]


def read_image_prompts(
    model: Envoy, prompts: Any, images: Any, tokenizer: Any, *, add_special_tokens: bool
) -> list[ImagePrompt]:
    """Return prompts with their images as the model's processor makes them.

    Args:
        model: What `load()` returns.
        prompts: One or several texts with the model's mark where an image belongs, or chats with
            parts of the type "image".
        images: Of one prompt: an image or a list of them. Of several: a list with an entry for
            each, an image, a list or None. None where chats hold their own.
        tokenizer: The model's, for prompts without images: they are read as ever.
        add_special_tokens: As for text.

    Raises:
        ValueError: prompts or images that cannot be used, or that do not go together.
        LensError: this model takes no images, or they leave nothing in the stream.
    """
    sorted_prompts = sort_prompts(prompts)
    if sorted_prompts.kind == "chat":
        refuse_other_media(sorted_prompts.items)
    processor = processor_of(model)
    token = image_token_id(model)
    of_each = images_of_prompts(images, len(sorted_prompts.items))
    found = []
    for number, (prompt, given) in enumerate(zip(sorted_prompts.items, of_each, strict=True)):
        what = f"prompt {number}"
        if sorted_prompts.kind == "chat":
            chat, opened = with_opened_images(list(prompt), given, what)
        else:
            chat, opened = [], [open_image(image, index) for index, image in enumerate(given)]
            check_slots(processor, prompt, len(opened), what)
        if not opened and (sorted_prompts.kind == "text" or writes_chats(tokenizer)):
            alone = Prompts(sorted_prompts.kind, [prompt])
            (token_ids,) = encode_each(alone, tokenizer, add_special_tokens)
            found.append(ImagePrompt(token_ids, {}, {}, [], [NO_PLACE] * len(token_ids), []))
            continue
        if sorted_prompts.kind == "chat":
            encoding = processed_chat(processor, chat, what)
        else:
            encoding = processed_text(processor, prompt, opened, what, add_special_tokens)
        found.append(image_prompt(model, processor, token, encoding, opened))
    return found


# -- through the processor ---------------------------------------------


def check_slots(processor: Any, text: str, n_images: int, what: str) -> None:
    """Raise a ValueError for more or fewer images than a text has marks for them."""
    slot = slot_of(processor)
    n_slots = text.count(slot) if slot else n_images
    if n_slots != n_images:
        raise ValueError(
            f"{what} has {counted(n_slots, 'mark')} for an image, and {counted(n_images, 'image')} "
            f"of its own: write {mark_of(processor)!r} where each belongs, or "
            + say(python='pass a chat with parts {"type": "image"}.', shell="add --chat.")
        )


def processed_text(
    processor: Any,
    text: str,
    opened: list[OpenedImage],
    what: str,
    add_special_tokens: bool,
    *,
    together: bool = False,
) -> Mapping[str, Any]:
    """Return a text with its images through the processor.

    Args:
        processor: Of the model.
        text: With a mark for each image.
        opened: They.
        what: Which prompt it is, for messages.
        add_special_tokens: As for text.
        together: Whether they are given as those of one text, as chats give them.

    Raises:
        ValueError: the processor does not take them.
    """
    images: Any = [each.image for each in opened]
    if together or type(processor).__name__.startswith(NESTED):
        images = [images]
    options: dict[str, Any] = {} if add_special_tokens else {"add_special_tokens": False}
    try:
        return processor(text=[text], images=images, return_tensors="pt", **options)
    except Exception as error:  # whatever a processor raises
        raise ValueError(
            f"this model's processor does not take {what}: {one_line(str(error), 200)}"
        ) from None


# -- what came of it ---------------------------------------------------


def image_prompt(
    model: Envoy,
    processor: Any,
    token: int,
    encoding: Mapping[str, Any],
    opened: list[OpenedImage],
) -> ImagePrompt:
    """Return what the processor made of one prompt, sorted.

    Raises:
        LensError: the images have no tokens in the prompt.
    """
    ids = torch.as_tensor(encoding["input_ids"])
    is_read = torch.ones_like(ids[0], dtype=torch.bool)
    if isinstance(encoding.get("attention_mask"), Tensor):  # some pad each text to one length
        is_read = encoding["attention_mask"][0].bool()
    inputs: dict[str, list[int]] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in encoding.items():
        if name in NOT_GIVEN or not isinstance(value, Tensor):
            continue
        is_of_images = name.endswith(OF_IMAGES)  # also where there are as many tokens
        if value.shape == ids.shape and not value.is_floating_point() and not is_of_images:
            inputs[name] = value[0][is_read].tolist()
        else:
            tensors[name] = value
    token_ids = ids[0][is_read].tolist()
    pictures = [each.picture for each in opened]
    encoded = Encoded(token_ids, tensors, [(one.width, one.height) for one in pictures])
    places = [NO_PLACE] * len(token_ids)
    if pictures:
        places = image_places(model, processor, token, encoded)
    digests = [image_digest(each.image) for each in opened]
    return ImagePrompt(token_ids, inputs, tensors, pictures, places, digests)


def refuse_text_part(model: Envoy, prompts: list[ImagePrompt], taken: Collection[str]) -> None:
    """Raise a LensError for a model that would run without the pixels that its processor made.

    Args:
        model: What `load()` returns.
        prompts: What the processor made.
        taken: What the model's forward takes, by name.
    """
    for prompt in prompts:
        pixels = [name for name, value in prompt.tensors.items() if value.is_floating_point()]
        if prompt.pictures and not any(name in taken for name in pixels):
            raise LensError(
                f"this model is a {type(model._module).__name__}, the text part of one that takes "
                f"images: it has no place for {', '.join(pixels) or 'pixels'}. Load the whole "
                "model, or leave the images out."
            )
