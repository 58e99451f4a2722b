"""Places in a prompt that are named by its text, whatever the tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lens_recipes.run.request.prompts import shortened

AT, BEFORE = "at", "before"


class Place(NamedTuple):
    """A token of a prompt, named by text.

    Attributes:
        word: "at" for the token that holds the end of the text where it last stands in the prompt;
            "before" for the last token before the text, which would follow the prompt.
        text: Which text.
    """

    word: str
    text: str


def as_place(value: Mapping[str, Any]) -> Place:
    """Return a place that was written as {"at": text} or {"before": text}.

    Raises:
        ValueError: it is neither, in words without a full stop.
    """
    if len(value) == 1:
        word, text = next(iter(value.items()))
        if word in (AT, BEFORE) and isinstance(text, str) and text:
            return Place(word, text)
    raise ValueError(
        f"the position is {shortened(dict(value))}; accepted are a whole number, "
        '{"at": "text of the prompt"} and {"before": "text that would follow it"}'
    )


def ids_up_to(prompt: Any, place: Place, tokenizer: Any, *, add_special_tokens: bool) -> list[int]:
    """Return the ids of a prompt up to a place: the last one is the token that is meant.

    What comes after that token does not change what the model says there.

    For "before", prompt and text are tokenised together. A space at the end of the prompt is then
    part of the text's first token, as in " Atlantic", or a token by itself, as before a digit in
    many tokenizers. The prompt alone would end in a space that the model never sees there.

    Args:
        prompt: A text.
        place: Which token.
        tokenizer: The model's, or None.
        add_special_tokens: Whether the tokenizer adds its own.

    Raises:
        ValueError: there is no such token, in words without a full stop.
    """
    if not isinstance(prompt, str):
        raise ValueError("a position that is named by text needs a prompt that is a text")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            "this model's tokenizer does not tell where its tokens stand in a text: give the "
            "position as a number"
        )
    text, character = prompt, prompt.rfind(place.text) + len(place.text) - 1
    if place.word == BEFORE:
        text, character = prompt + place.text, len(prompt)
    elif place.text not in prompt:
        raise ValueError(f"the prompt has no {place.text!r}")
    encoding = tokenizer(
        text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
    )
    ends = [end for _, end in encoding.offset_mapping]
    covering = first_beyond(ends, character)
    last = covering - 1 if place.word == BEFORE else covering
    if last < 0:
        raise ValueError(f"there is no token before {place.text!r}")
    return list(encoding.input_ids[: last + 1])


def first_beyond(ends: list[int], character: int) -> int:
    """Return the first token that ends beyond a character.

    Raises:
        ValueError: there is none: the tokenizer leaves the character out.
    """
    for index, end in enumerate(ends):
        if end > character:
            return index
    raise ValueError("the tokenizer leaves the end of the text out")
