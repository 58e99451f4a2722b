"""Chats whose turns have images among their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lens_recipes.arrays.text import counted
from lens_recipes.run.request.images.asked.slots import slot_of
from lens_recipes.run.request.images.opened import OpenedImage, is_image, open_image
from lens_recipes.run.request.prompts import is_chat_turn, writes_chats
from lens_recipes.terminal import one_line

# What stands for an image, here and in servers' chats.
IMAGE_PARTS = ("image", "image_url", "input_image")
OTHER_MEDIA = ("video", "video_url", "audio", "input_audio", "audio_url")
SOURCES = ("image", "path", "url", "image_url", "base64")  # where a part holds its image


def has_image_parts(prompts: Any) -> bool:
    """Tell whether prompts are chats of which a turn has an image among its parts.

    Or a video or a sound, which are refused where images are read: a template that does not know
    them passes over them, and nothing would say so.
    """
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence):
        return False
    turns: list[Any] = []
    for item in prompts:
        turns += list(item) if isinstance(item, list | tuple) else [item]
    parts: list[Any] = []
    for turn in turns:
        parts += parts_of(turn) or []
    return any(is_image_part(part) or is_other_media(part) for part in parts)


def parts_of(turn: Any) -> list[Any] | None:
    """Return the parts of a turn of a chat; None where it has a text, or is no turn."""
    content = turn.get("content") if is_chat_turn(turn) else None
    if isinstance(content, Mapping):
        return [content]
    return list(content) if isinstance(content, list | tuple) else None


def is_image_part(part: Any) -> bool:
    """Tell whether a part of a turn stands for an image: by its type, or without one by its field.

    As in {"image": "dog.png"}. An image of PIL or an array is a part, too.
    """
    if not isinstance(part, Mapping):
        return not isinstance(part, str) and is_image(part)
    if part.get("type") is None:
        return any(part.get(name) is not None for name in IMAGE_PARTS)
    return str(part["type"]).lower() in IMAGE_PARTS


def is_other_media(part: Any) -> bool:
    """Tell whether a part of a turn is a video or a sound."""
    return isinstance(part, Mapping) and str(part.get("type")).lower() in OTHER_MEDIA


def source_of(part: Any) -> Any:
    """Return what a part holds as its image, or None where it only stands for one."""
    if not isinstance(part, Mapping):
        return part
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
        ValueError: there are more or fewer images than parts for them.
    """
    held = [source_of(part) for part in image_parts(chat)]
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


def image_parts(chat: Sequence[Any]) -> list[Any]:
    """Return the parts of a chat that stand for images, in their order."""
    found: list[Any] = []
    for turn in chat:
        found += filter(is_image_part, parts_of(turn) or [])
    return found


def chat_with(opened: list[OpenedImage], chat: Sequence[Any]) -> list[Any]:
    """Return a chat in which the parts for images hold these, in their order."""
    images = iter(opened)
    turns = []
    for turn in chat:
        written = parts_of(turn)
        if written is None:
            turns.append(turn)
            continue
        parts: list[Any] = []
        for part in written:
            if is_image_part(part):
                part = {"type": "image", "image": next(images).image}
            parts.append(part)
        turns.append({**turn, "content": parts})
    return turns


def refuse_other_media(chats: Sequence[Sequence[Any]]) -> None:
    """Raise a ValueError for a part that is a video or a sound."""
    for number, chat in enumerate(chats):
        for turn in chat:
            for part in filter(is_other_media, parts_of(turn) or []):
                raise ValueError(
                    f"prompt {number} has a part of the type {part['type']!r}; read are text and "
                    "images."
                )


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
