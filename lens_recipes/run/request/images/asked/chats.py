"""Chats whose turns have images among their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lens_recipes.run.request.images.asked.slots import counted, slot_of
from lens_recipes.run.request.images.opened import OpenedImage, open_image
from lens_recipes.run.request.prompts import is_chat_turn, writes_chats
from lens_recipes.terminal import one_line

IMAGE_PARTS = ("image", "image_url")  # what stands for an image, here and in servers' chats
OTHER_MEDIA = ("video", "video_url", "audio", "input_audio", "audio_url")
SOURCES = ("image", "path", "url", "image_url", "base64")  # where a part holds its image


def has_image_parts(prompts: Any) -> bool:
    """Tell whether prompts are chats of which a turn has an image among its parts."""
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence):
        return False
    turns: list[Any] = []
    for item in prompts:
        turns += list(item) if isinstance(item, list | tuple) else [item]
    return any(is_turn_with_image(turn) for turn in turns)


def is_turn_with_image(turn: Any) -> bool:
    """Tell whether a turn of a chat has an image among its parts."""
    if not is_chat_turn(turn) or not isinstance(turn.get("content"), list | tuple):
        return False
    return any(is_image_part(part) for part in turn["content"])


def is_image_part(part: Any) -> bool:
    """Tell whether a part of a turn stands for an image."""
    return isinstance(part, Mapping) and part.get("type") in IMAGE_PARTS


def source_of(part: Mapping[str, Any]) -> Any:
    """Return what a part holds as its image, or None where it only stands for one."""
    for name in SOURCES:
        held = part.get(name)
        if isinstance(held, Mapping):  # {"image_url": {"url": …}}
            held = held.get("url")
        if held is not None:
            return held
    return None


def with_opened_images(
    chat: Sequence[Any], given: list[Any], what: str
) -> tuple[list[Any], list[OpenedImage]]:
    """Return a chat whose image parts hold opened images, and these.

    Args:
        chat: Its turns.
        given: Images for the parts that hold none themselves, in order.
        what: Which prompt it is, for messages.

    Raises:
        ValueError: there are more or fewer images than parts for them, or parts for a video.
    """
    held = [source_of(part) for part in image_parts(chat, what)]
    n_empty = sum(source is None for source in held)
    if n_empty != len(given):
        raise ValueError(
            f"{what} has {counted(n_empty, 'part')} waiting for an image, and "
            f"{counted(len(given), 'image')} of its own: "
            '{"type": "image"} stands for one, as in {"role": "user", "content": [{"type": '
            '"image"}, {"type": "text", "text": …}]}.'
        )
    waiting = iter(given)
    opened = []
    for number, source in enumerate(held):
        opened.append(open_image(next(waiting) if source is None else source, number))
    return chat_with(opened, chat), opened


def image_parts(chat: Sequence[Any], what: str) -> list[Mapping[str, Any]]:
    """Return the parts of a chat that stand for images, in their order.

    Raises:
        ValueError: a part is a video or a sound.
    """
    found = []
    for turn in chat:
        for part in parts_of(turn):
            refuse_other_media(part, what)
            if is_image_part(part):
                found.append(part)
    return found


def parts_of(turn: Any) -> Sequence[Any]:
    """Return the parts of a turn; none where its content is a text."""
    content = turn.get("content")
    return content if isinstance(content, list | tuple) else []


def chat_with(opened: list[OpenedImage], chat: Sequence[Any]) -> list[Any]:
    """Return a chat in which the parts for images hold these, in their order."""
    images = iter(opened)
    turns = []
    for turn in chat:
        parts: list[Any] = []
        for part in parts_of(turn):
            if is_image_part(part):
                part = {"type": "image", "image": next(images).image}
            parts.append(part)
        turns.append({**turn, "content": parts} if parts else turn)
    return turns


def refuse_other_media(part: Any, what: str) -> None:
    """Raise a ValueError for a part that is a video or a sound."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in OTHER_MEDIA:
        raise ValueError(f"{what} has a part of the type {kind!r}; read are text and images.")


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
