"""Turn a `BatchEncoding` into prompts: every key of it reaches the model, or is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from lens_recipes.run.request.prompts import id_rows

IDS, MASK, POSITIONS, TYPES = "input_ids", "attention_mask", "position_ids", "token_type_ids"
HONOURED = (IDS, MASK, POSITIONS, TYPES)


class EncodedPrompt(NamedTuple):
    """One prompt of an encoding, without its padding.

    Attributes:
        token_ids: `[position]`.
        inputs: What else the model is given, by the names of its forward's arguments, each
            `[position]`.
    """

    token_ids: list[int]
    inputs: dict[str, list[int]]


def read_encoding(
    encoding: Mapping[str, Any], forward_options: frozenset[str], also: tuple[str, ...] = ()
) -> list[EncodedPrompt]:
    """Return the prompts of an encoding.

    Zeros that begin or end an attention mask are padding, and dropped. A mask with a hole, position
    ids and token types are given to the model.

    Args:
        encoding: Has `input_ids`, `[row, column]` or rows of several lengths.
        forward_options: The names of the arguments that the model's forward takes.
        also: What else of it is given to the model, as of prompts with images.

    Raises:
        ValueError: a key that cannot be honoured, or one of another shape than the ids.
    """
    unknown = [str(key) for key in encoding if key not in (*HONOURED, *also)]
    if unknown:
        advice = "Leave out the others, if the model can do without them."
        if any(name.startswith("pixel") for name in unknown):
            advice = "Of prompts with images pass the texts, and the images as images=."
        raise ValueError(
            f"the encoding has {', '.join(unknown)}, which a lens does not give to the model; "
            f"accepted are {', '.join(HONOURED)}. {advice}"
        )
    token_ids = id_rows(encoding[IDS])
    columns = {}
    for name in (MASK, POSITIONS, TYPES, *also):
        if encoding.get(name) is not None:
            columns[name] = rows_beside(token_ids, encoding[name], name)
    prompts = []
    for number, row in enumerate(token_ids):
        values = {name: rows[number] for name, rows in columns.items()}
        prompts.append(read_row(row, values, forward_options))
    return prompts


def rows_beside(token_ids: list[list[int]], values: Any, name: str) -> list[list[int]]:
    """Return what an encoding has beside each token id, in rows as long as those of the ids.

    Raises:
        ValueError: it has another shape.
    """
    try:
        if not isinstance(values, list):
            values = torch.as_tensor(values)
            if values.dtype is torch.bool:  # a mask may be one of truth values
                values = values.int()
        rows = id_rows(values)
    except (TypeError, ValueError):
        rows = []
    if len(rows) == 1 < len(token_ids):  # as the position ids of a whole batch
        rows = rows * len(token_ids)
    if [len(row) for row in rows] != [len(ids) for ids in token_ids]:
        shape = list(values.shape) if hasattr(values, "shape") else [len(row) for row in rows]
        raise ValueError(
            f"{name} of the encoding must be whole numbers, one beside each of its input_ids; "
            f"received {shape}."
        )
    return rows


def read_row(
    token_ids: list[int], values: dict[str, list[int]], forward_options: frozenset[str]
) -> EncodedPrompt:
    """Return one row of an encoding without its padding.

    Raises:
        ValueError: the model's forward does not take what the encoding has.
    """
    mask = values.get(MASK, [1] * len(token_ids))
    kept = [column for column, is_kept in enumerate(mask) if is_kept]
    if not kept:
        return EncodedPrompt([], {})
    part = slice(kept[0], kept[-1] + 1)
    inputs = {}
    for name, row in values.items():
        if name == TYPES and not any(row) and TYPES not in forward_options:
            continue  # what a model without types is given by any tokenizer
        inputs[name] = row[part]
    if all(mask[part]):
        inputs.pop(MASK, None)
    elif POSITIONS in forward_options:
        # Without them, nnsight would count the positions by the mask, which the model does not.
        inputs.setdefault(POSITIONS, list(range(len(mask[part]))))
    if inputs.get(POSITIONS) == list(range(len(mask[part]))) and MASK not in inputs:
        del inputs[POSITIONS]  # those that the model counts by itself
    refused = [name for name in inputs if name not in forward_options]
    if refused:
        raise ValueError(
            f"the encoding has {', '.join(refused)}, which this model's forward does not take. "
            "Leave it out, if the model can do without it."
        )
    return EncodedPrompt(token_ids[part], inputs)


def as_recorded(prompts: list[EncodedPrompt]) -> Any:
    """Return prompts in a form from which the same ones can be read again.

    That is lists of ids, or an encoding where a prompt has more than its ids.
    """
    if any(prompt.inputs for prompt in prompts):
        return as_encoding(prompts)
    return [prompt.token_ids for prompt in prompts]


def as_encoding(prompts: list[EncodedPrompt]) -> dict[str, list[list[int]]]:
    """Return prompts as one encoding again, of rows without padding."""
    names = {name for prompt in prompts for name in prompt.inputs}
    encoding: dict[str, list[list[int]]] = {IDS: [prompt.token_ids for prompt in prompts]}
    for name in sorted(names):
        rows = []
        for prompt in prompts:
            length = len(prompt.token_ids)
            default = {MASK: [1] * length, POSITIONS: list(range(length)), TYPES: [0] * length}
            rows.append(prompt.inputs.get(name, default.get(name, [0] * length)))
        encoding[name] = rows
    return encoding
