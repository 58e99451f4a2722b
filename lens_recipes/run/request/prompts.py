"""Turn prompts into token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lens_recipes.caller import say
from lens_recipes.terminal import one_line

SHOWN = 80  # characters of a value in a message
NUMBERS = "iufcb"  # numpy's kinds of numbers and truth values


class Prompts(NamedTuple):
    """Several prompts of one kind, as they were received."""

    kind: Literal["text", "ids", "chat"]
    items: list[Any]


def encode(
    prompts: Any, tokenizer: Any | None, *, add_special_tokens: bool = True
) -> list[list[int]]:
    """Return one list of token ids for each prompt, without padding.

    Accepts one or several strings, lists of ids or chats (lists of `{"role", "content"}` dicts), an
    array of strings, or a 2-D tensor or array of ids; `read_encoding` takes a `BatchEncoding`. A
    chat goes
    through the model's own template with the generation prompt open; the template's special tokens
    are not added a second time.

    Raises:
        ValueError: something that is none of these.
    """
    if isinstance(prompts, np.ndarray) and prompts.dtype.kind not in NUMBERS:
        prompts = prompts.tolist()  # strings, or lists of ids
    if isinstance(prompts, torch.Tensor | np.ndarray):
        token_ids = id_rows(prompts)
    else:
        token_ids = encode_each(sort_prompts(prompts), tokenizer, add_special_tokens)
    return token_ids


def warn_of_two_beginnings(prompts: Any, token_ids: list[list[int]], tokenizer: Any | None) -> None:
    """Say which text brought its own BOS, before which the tokenizer put another one.

    Args:
        prompts: As they were received.
        token_ids: `[prompt][position]`.
        tokenizer: The model's, or None.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    texts = [prompts] if isinstance(prompts, str) else prompts
    if bos is None or not all(isinstance(text, str) for text in texts):
        return
    for number, prompt_ids in enumerate(token_ids):
        if prompt_ids[:2] == [bos, bos]:
            logging.getLogger("lens_recipes").warning(
                "prompt %d begins with %s twice: the text has one, and the tokenizer adds another. "
                "Pass the chat itself in place of what its template made, or %s",
                number,
                tokenizer.bos_token,  # type: ignore[union-attr]
                say(python="add_special_tokens=False", shell="--no-special-tokens"),
            )


def warn_of_missing_images(token_ids: list[list[int]], image_token: int | None) -> None:
    """Say which prompt has tokens of an image, and no image: the model reads them as text.

    Args:
        token_ids: `[prompt][position]`.
        image_token: What stands for a patch of an image; None for a model that takes none.
    """
    if image_token is None:
        return
    for number, prompt_ids in enumerate(token_ids):
        if image_token in prompt_ids:
            logging.getLogger("lens_recipes").warning(
                "prompt %d has a token that stands for an image, and no image goes with it: the "
                "model sees none there. %s",
                number,
                say(python="Pass it as images=.", shell="Give it with --image."),
            )


def refuse_empty(token_ids: list[list[int]]) -> None:
    """Raise ValueError if there is no prompt, or one without tokens."""
    if not token_ids:
        raise ValueError("received no prompts: pass at least one string, list of ids or chat.")
    for number, prompt_ids in enumerate(token_ids):
        if not prompt_ids:
            raise ValueError(
                f"prompt {number} is empty: it has no tokens, so there is nothing to predict from."
            )


def encode_each(
    prompts: Prompts, tokenizer: Any | None, add_special_tokens: bool
) -> list[list[int]]:
    """Return the ids of prompts whose kind is known."""
    if prompts.kind == "ids":
        return [[int(token) for token in token_ids] for token_ids in prompts.items]
    if tokenizer is None:
        raise ValueError(
            "this model was loaded without a tokenizer, so prompts are lists of token ids; "
            "received text. "
            + say(
                python="Pass load(..., tokenizer=...) to use strings.",
                shell="Name a model with a tokenizer.",
            )
        )
    if prompts.kind == "chat":
        return [chat_ids(chat, tokenizer) for chat in prompts.items]
    return [text_ids(text, tokenizer, add_special_tokens) for text in prompts.items]


def sort_prompts(prompts: Any) -> Prompts:
    """Return which kind of prompts these are, and the list of them, also where there is one.

    Raises:
        ValueError: they are of no kind, or of several.
    """
    if isinstance(prompts, str):
        return Prompts("text", [prompts])
    if isinstance(prompts, Iterable) and not isinstance(prompts, Mapping | bytes):
        items = list(prompts)
        if all(isinstance(item, str) for item in items):
            return Prompts("text", items)
        if all(is_token_id(item) for item in items):
            return Prompts("ids", [items])
        if all(is_chat_turn(item) for item in items):
            return Prompts("chat", [items])
        if all(is_sequence(item) for item in items):
            sequences = [list(item) for item in items]
            if all(turns and all(map(is_chat_turn, turns)) for turns in sequences):
                return Prompts("chat", sequences)
            if all(all(map(is_token_id, token_ids)) for token_ids in sequences):
                return Prompts("ids", sequences)
    raise ValueError(
        f"received {shortened(prompts)} as prompts; accepted are one or several strings, lists of "
        "token ids or "
        'chats (lists of {"role": …, "content": …}), a 2-D tensor of ids, or a BatchEncoding. All '
        "of one sort."
    )


def is_token_id(item: Any) -> bool:
    """Tell whether something is one whole number that can be a token id."""
    if isinstance(item, torch.Tensor | np.ndarray):
        return item.ndim == 0 and is_whole(torch.as_tensor(item))
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def is_whole(numbers: torch.Tensor) -> bool:
    """Tell whether a tensor holds whole numbers, and no truth values."""
    return not numbers.is_floating_point() and numbers.dtype != torch.bool


def is_chat_turn(item: Any) -> bool:
    """Tell whether something is one turn of a chat: a role, and what it says or calls."""
    return isinstance(item, Mapping) and "role" in item and len(item) > 1


def is_sequence(item: Any) -> bool:
    """Tell whether something can hold the ids or the turns of one prompt."""
    return isinstance(item, Iterable) and not isinstance(item, str | Mapping)


def id_rows(ids: Any) -> list[list[int]]:
    """Return a 1-D or 2-D tensor, array or nested list of whole numbers as lists.

    Raises:
        ValueError: no whole numbers, or in another number of dimensions.
    """
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        # A BatchEncoding without tensors may have rows of several lengths.
        return [[int(token) for token in row] for row in ids]
    if isinstance(ids, list) and not ids:
        return [[]]
    try:
        array = torch.as_tensor(ids, device="cpu")
    except TypeError:
        raise ValueError(f"token ids must be whole numbers; received {shortened(ids)}.") from None
    if not is_whole(array) or array.ndim not in (1, 2):
        raise ValueError(
            f"token ids must be whole numbers in one or two dimensions; received {array.dtype} of "
            "shape "
            f"{list(array.shape)}."
        )
    return torch.atleast_2d(array).tolist()


def text_ids(text: str, tokenizer: Any, add_special_tokens: bool) -> list[int]:
    """Return the ids of one text.

    Raises:
        ValueError: the tokenizer does not take it, as half of a surrogate pair.
    """
    try:
        return list(tokenizer(text, add_special_tokens=add_special_tokens).input_ids)
    except (TypeError, UnicodeError) as error:
        raise ValueError(f"{shortened(text)} is no text that can be tokenised: {error}") from error


def chat_ids(chat: Any, tokenizer: Any) -> list[int]:
    """Return the ids of one chat through the model's own template.

    Raises:
        ValueError: there is no template, or it does not take this chat.
    """
    if not writes_chats(tokenizer):
        raise ValueError(
            "received a chat, but this model's tokenizer has no chat template: "
            + say(python="pass a string instead.", shell="leave --chat out.")
        )
    try:
        ids = tokenizer.apply_chat_template(
            list(chat), tokenize=True, return_dict=False, add_generation_prompt=True
        )
    except Exception as error:  # whatever the template raises: it says itself which roles it wants
        raise ValueError(
            f"this model's chat template does not take the chat {shortened(chat)}: "
            f"{one_line(str(error))}"
        ) from None  # the template's words, which anyone may have written
    return [int(token) for token in ids]


def writes_chats(tokenizer: Any) -> bool:
    """Tell whether a tokenizer has a chat template, or a way of its own to write a chat."""
    if getattr(tokenizer, "chat_template", None):
        return True
    own = getattr(type(tokenizer), "apply_chat_template", None)
    return own not in (None, PreTrainedTokenizerBase.apply_chat_template)


def shortened(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
