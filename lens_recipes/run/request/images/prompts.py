"""Prompts with images: as ids, as what the model is given beside them, and where each patch is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.images import NO_PLACE, ImagePlace, Picture
from lens_recipes.models.images.processor import image_token_id, processor_of
from lens_recipes.run.request.images.digests import image_digest
from lens_recipes.run.request.images.opened import OpenedImage, is_image, open_image
from lens_recipes.run.request.images.places.places import Encoded, image_places
from lens_recipes.run.request.prompts import is_chat_turn, shortened, sort_prompts, writes_chats
from lens_recipes.terminal import one_line

NOT_GIVEN = ("input_ids", "attention_mask", "labels", "position_ids")
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


def has_image_parts(prompts: Any) -> bool:
    """Tell whether prompts are chats of which a turn has an image among its parts."""
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence):
        return False
    return any(_is_turn_with_image(turn) for turn in _turns(prompts))


def _turns(prompts: Sequence[Any]) -> list[Any]:
    """Return the turns of one chat, or of several."""
    turns: list[Any] = []
    for item in prompts:
        turns += list(item) if isinstance(item, list | tuple) else [item]
    return turns


def _is_turn_with_image(turn: Any) -> bool:
    """Tell whether a turn of a chat has an image among its parts."""
    if not is_chat_turn(turn) or not isinstance(turn.get("content"), list):
        return False
    return any(is_image_part(part) for part in turn["content"])


def is_image_part(part: Any) -> bool:
    """Tell whether a part of a turn stands for an image."""
    return isinstance(part, Mapping) and part.get("type") == "image"


def read_image_prompts(
    model: Envoy, prompts: Any, images: Any, *, add_special_tokens: bool
) -> list[ImagePrompt]:
    """Return prompts with their images as the model's processor makes them.

    Args:
        model: What `load()` returns.
        prompts: One or several texts with the model's mark where an image belongs, or chats with
            parts of the type "image".
        images: Of one prompt: an image or a list of them. Of several: a list with an entry for
            each, an image, a list or None. None where chats hold their own.
        add_special_tokens: As for text.

    Raises:
        ValueError: prompts or images that cannot be used, or that do not go together.
        LensError: this model takes no images, or they leave nothing in the stream.
    """
    processor = processor_of(model)
    token = image_token_id(model)
    sorted_prompts = sort_prompts(prompts)
    if sorted_prompts.kind == "ids":
        raise ValueError(
            "images go with texts or chats, in which the model's mark says where each belongs; "
            "received token ids."
        )
    of_each = images_of_prompts(images, len(sorted_prompts.items))
    found = []
    for number, (prompt, given) in enumerate(zip(sorted_prompts.items, of_each, strict=True)):
        what = f"prompt {number}"
        if sorted_prompts.kind == "chat":
            chat, opened = with_opened_images(list(prompt), given, what)
            encoding = processed_chat(processor, chat, what)
        else:
            opened = [open_image(image, index) for index, image in enumerate(given)]
            encoding = processed_text(processor, prompt, opened, what, add_special_tokens)
        found.append(image_prompt(model, processor, token, encoding, opened))
    return found


def images_of_prompts(images: Any, n_prompts: int) -> list[list[Any]]:
    """Return the images of each prompt.

    Raises:
        ValueError: not one entry for each prompt.
    """
    if images is None:
        return [[] for _ in range(n_prompts)]
    if is_image(images):
        images = [images]
    if not isinstance(images, Sequence):
        raise ValueError(
            f"received {shortened(images)} as images; accepted are an image, or a list of them."
        )
    if n_prompts == 1 and all(is_image(image) for image in images):
        return [list(images)]
    if len(images) != n_prompts:
        raise ValueError(
            f"received images for {len(images)} prompts, but there are {n_prompts}: pass a list "
            "with an image, a list of images or None for each prompt."
        )
    of_each: list[list[Any]] = []
    for entry in images:
        if entry is None:
            of_each.append([])
        else:
            of_each.append([entry] if is_image(entry) else list(entry))
    return of_each


# -- through the processor ---------------------------------------------


def with_opened_images(
    chat: list[Any], given: list[Any], what: str
) -> tuple[list[Any], list[OpenedImage]]:
    """Return a chat whose image parts hold opened images, and these.

    Raises:
        ValueError: there are more or fewer images than parts for them.
    """
    waiting = list(given)
    opened: list[OpenedImage] = []
    turns = []
    for turn in chat:
        content = turn.get("content")
        if not isinstance(content, list):
            turns.append(turn)
            continue
        parts = []
        for part in content:
            if not is_image_part(part):
                parts.append(part)
                continue
            source = part.get("image", part.get("path", part.get("url")))
            if source is None:
                if not waiting:
                    raise ValueError(
                        f"{what} has more parts for images than there are images ({len(given)})."
                    )
                source = waiting.pop(0)
            opened.append(open_image(source, len(opened)))
            parts.append({"type": "image", "image": opened[-1].image})
        turns.append({**turn, "content": parts})
    if waiting:
        raise ValueError(
            f"{what} has fewer parts for images than there are images ({len(given)}): "
            '{"type": "image"} stands for one.'
        )
    return turns, opened


def processed_chat(processor: Any, chat: list[Any], what: str) -> Mapping[str, Any]:
    """Return a chat through the processor's template.

    Raises:
        ValueError: there is no template, or it does not take this chat.
    """
    if not writes_chats(processor) and not writes_chats(getattr(processor, "tokenizer", None)):
        raise ValueError(
            "received a chat, but this model's processor has no chat template: pass a text with "
            f"{slot_of(processor)!r} where an image belongs."
        )
    try:
        return processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
    except Exception as error:  # whatever a template or a processor raises
        raise ValueError(
            f"this model's processor does not take {what}: {one_line(str(error), 200)}"
        ) from None


def processed_text(
    processor: Any, text: str, opened: list[OpenedImage], what: str, add_special_tokens: bool
) -> Mapping[str, Any]:
    """Return a text with its images through the processor.

    Raises:
        ValueError: more or fewer images than marks, or what the processor does not take.
    """
    slot = slot_of(processor)
    n_slots = text.count(slot) if slot else len(opened)
    if n_slots != len(opened):
        raise ValueError(
            f"{what} has {n_slots} marks for an image, and {len(opened)} images go with it: write "
            f"{slot!r} where each belongs, or pass a chat."
        )
    images: Any = [each.image for each in opened]
    if images and type(processor).__name__.startswith(NESTED):
        images = [images]
    options: dict[str, Any] = {} if add_special_tokens else {"add_special_tokens": False}
    try:
        return processor(text=[text], images=images or None, return_tensors="pt", **options)
    except Exception as error:  # whatever a processor raises
        raise ValueError(
            f"this model's processor does not take {what}: {one_line(str(error), 200)}"
        ) from None


def slot_of(processor: Any) -> str:
    """Return what stands for an image in a text, before the processor has run."""
    if type(processor).__name__.startswith("Gemma3"):
        return str(processor.boi_token)
    return str(getattr(processor, "image_token", "") or "")


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
    inputs: dict[str, list[int]] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in encoding.items():
        if name in NOT_GIVEN or not isinstance(value, Tensor):
            continue
        if value.shape == ids.shape and not value.is_floating_point():
            inputs[name] = value[0].tolist()
        else:
            tensors[name] = value
    token_ids = ids[0].tolist()
    pictures = [each.picture for each in opened]
    encoded = Encoded(token_ids, tensors, [(one.width, one.height) for one in pictures])
    places = [NO_PLACE] * len(token_ids)
    if pictures:
        places = image_places(model, processor, token, encoded)
    digests = [image_digest(each.image) for each in opened]
    return ImagePrompt(token_ids, inputs, tensors, pictures, places, digests)
