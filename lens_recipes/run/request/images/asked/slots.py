"""What stands in a text where an image belongs: the model's mark, before its processor has run."""

from __future__ import annotations

from typing import Any


def slot_of(processor: Any) -> str:
    """Return the token that stands for an image in a text; empty where there is none."""
    # Gemma 3n is another: its mark is the token of a patch.
    if any(kind.__name__ == "Gemma3Processor" for kind in type(processor).__mro__):
        return str(processor.boi_token)
    token = getattr(processor, "image_token", None)
    return str(getattr(token, "content", token) or "")


def mark_of(processor: Any) -> str:
    """Return what a text has for an image, with what the model was trained to see around it.

    As in Qwen's, where tokens stand before and after: as the chat template writes it, where there
    is one.
    """
    slot = slot_of(processor)
    parts = [{"type": "text", "text": "BEFORE"}, {"type": "image"}, {"type": "text", "text": "END"}]
    try:
        written = processor.apply_chat_template([{"role": "user", "content": parts}])
    except Exception:  # no template, or one that wants another chat
        return slot
    between = str(written).partition("BEFORE")[2].partition("END")[0].strip()
    return between if slot and between.count(slot) == 1 else slot
