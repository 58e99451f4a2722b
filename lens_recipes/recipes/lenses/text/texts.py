"""Texts as rows of token ids: from strings, ids, files, or the column of a data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lens_recipes.arrays.text import counted
from lens_recipes.caller import argument, parameter, say
from lens_recipes.recipes.lenses.text.rows import Row, distinct, make_row
from lens_recipes.run.request.prompts import is_token_id, shortened, text_ids

BLOCK_CHARACTERS = 2**18  # of a text file that are read at a time
JSON_LINES = (".jsonl", ".ndjson", ".json")
DEFAULT_COLUMN = "text"
IMAGE_COLUMNS = ("image", "images")
MAX_ID = 2**31 - 1
ENCODING = "utf-8-sig"  # a mark of the byte order is no text


class Texts(NamedTuple):
    """Texts, and what to call them.

    Attributes:
        items: Strings or lists of token ids, perhaps without an end.
        words: What they are, in words.
    """

    items: Iterable[Any]
    words: str


def read_texts(texts: Any, column: str | None) -> Texts:
    """Return texts as they were given: an iterable, or a file that is read as it is needed.

    Args:
        texts: Strings or lists of ids; dicts, such as the rows of a Hugging Face data set; or the
            path of a text file, or of one with JSON in each line.
        column: Which entry of a dict is its text; None for "text", or the only one.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(texts, str | os.PathLike):
        path = Path(os.path.expanduser(texts))
        if not is_file(path):
            raise ValueError(
                f"received {shortened(str(texts))} as {parameter('texts')}, and there is no such "
                "file: name a text file or one with JSON in each line"
                + say(python=", or pass a list of strings.", shell=".")
            )
        if path.suffix.lower() in JSON_LINES:
            return Texts(entries(json_lines(path), column), path.name)
        return Texts(text_blocks(path), path.name)
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise ValueError(
            f"received {shortened(texts)} as texts; accepted are an iterable of strings or of "
            "lists of token ids, the rows of a data set, the path of a file, or None for what the "
            "model itself writes."
        )
    words = counted(len(texts), "text") if isinstance(texts, Sized) else "texts"
    return Texts(entries(texts, column), words)


def is_file(path: Path) -> bool:
    """Return whether there is a file; a text is no path, however long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def text_blocks(path: Path) -> Iterator[str]:
    """Yield a text file in blocks of whole lines; a line that is longer than a block is cut.

    Raises:
        ValueError: it is no text.
    """
    with opened_text(path) as file:
        while True:
            block = file.read(BLOCK_CHARACTERS)
            if not block:
                return
            yield block + file.readline(BLOCK_CHARACTERS)


@contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    """Open a text file.

    Raises:
        ValueError: it cannot be read, or is no text.
    """
    try:
        with path.open(encoding=ENCODING) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error.reason}.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason}.") from None


def json_lines(path: Path) -> Iterator[Any]:
    """Yield what each line of a file says.

    Raises:
        ValueError: a line is no JSON.
    """
    with opened_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(
                    f"line {number} of {str(path)!r} is no JSON: {shortened(line)}. Each line must "
                    'be a string, or an object such as {"text": "…"}.'
                ) from None


def entries(items: Iterable[Any], column: str | None) -> Iterator[Any]:
    """Yield the text of each item.

    Raises:
        ValueError: an item has none.
    """
    for item in items:
        if not isinstance(item, Mapping):
            yield item
            continue
        name = column or DEFAULT_COLUMN
        if column is None and any(item.get(images) is not None for images in IMAGE_COLUMNS):
            raise ValueError(
                "a row has an image, and a lens is fitted on text: the text would be read without "
                f"it. To fit on the text alone name its column: {argument('column', name)}."
            )
        if name not in item and column is None and len(item) == 1:
            name = next(iter(item))
        if name not in item:
            raise ValueError(
                f"there is no column {name!r}; the columns are {', '.join(map(str, item))}. Pass "
                f"{argument('column', '…')}."
            )
        yield item[name]


def rows_of_texts(
    texts: Iterable[Any], tokenizer: Any | None, row_length: int, starts_with_bos: bool
) -> Iterator[Row]:
    """Yield texts as distinct rows of at most so many tokens, each read by itself.

    Args:
        texts: Strings, or lists of token ids.
        tokenizer: The model's, or None where texts are ids.
        row_length: The most tokens of a row.
        starts_with_bos: Whether each row of a string begins with BOS. Ids are left as they are.

    Raises:
        ValueError: something that is no text.
    """
    return distinct(all_rows(texts, tokenizer, row_length, starts_with_bos))


def all_rows(
    texts: Iterable[Any], tokenizer: Any | None, row_length: int, starts_with_bos: bool
) -> Iterator[Row]:
    """Yield texts as rows; see `rows_of_texts`."""
    for text in texts:
        if isinstance(text, str):
            ids = ids_of(text, needed(tokenizer))
            beginning = [tokenizer.bos_token_id] if starts_with_bos and tokenizer else []
        else:
            ids, beginning = as_ids(text), []
        step = row_length - len(beginning)
        for start in range(0, len(ids), step):
            yield make_row([*beginning, *ids[start : start + step]])


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """Return the ids of a text without special tokens, however long it is.

    Raises:
        ValueError: the tokenizer does not take it.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return text_ids(text, tokenizer, add_special_tokens=False)
    try:
        # It would say that a text is longer than the model's context; it is cut into rows.
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    except (TypeError, UnicodeError) as error:  # half of a surrogate pair
        raise ValueError(f"{shortened(text)} is no text that can be tokenised: {error}") from error


def needed(tokenizer: Any | None) -> Any:
    """Return the tokenizer.

    Raises:
        ValueError: there is none.
    """
    if tokenizer is None:
        raise ValueError(
            "this model was loaded without a tokenizer, so texts are lists of token ids; received "
            "strings. Pass load(..., tokenizer=...) to use strings."
        )
    return tokenizer


def as_ids(text: Any) -> list[int]:
    """Return a list, array or tensor of token ids as a list.

    Raises:
        ValueError: it is none.
    """
    if isinstance(text, torch.Tensor | np.ndarray):
        text = text.tolist()
    if not isinstance(text, list | tuple) or not all(is_token_id(token) for token in text):
        raise ValueError(
            f"received {shortened(text)} among the texts; accepted are strings and lists of token "
            "ids."
        )
    ids = [int(token) for token in text]
    beyond = [token for token in ids if abs(token) > MAX_ID]
    if beyond:
        raise ValueError(f"received {shortened(beyond[0])} among the texts, which is no token id.")
    return ids
