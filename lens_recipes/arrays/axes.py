"""The named axes of every result: sites, parts, tokens, prompts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The arrays of a result by name, and the axes of each.
Axes = dict[str, tuple[str, ...]]

# What a model is given of one prompt: "input_ids", and what else an encoding had, by the names of
# its forward's arguments. Each is `[position]`.
Inputs = dict[str, list[int]]


class Part(NamedTuple):
    """One summand of a logit.

    `component` is one of these:

    - "embed": the stream before block 0
    - "layer": all that a block adds
    - "attn_out", "mlp_out", "mixer_out", "other_out", "head_out": what one component adds
    - "attn_bias": what the output projection and a post-norm add by themselves
    - "value_bias": what a head writes because of the bias of its values, not because of a token
    - "edit": what the caller's edits of a layer added to the stream, which no part of the model did
    - "bias": what the final norm and the unembedding add by themselves

    `source` is the position of the token that a head read from (`unit="token"`).
    """

    layer: int | None
    component: str
    head: int | None = None
    source: int | None = None

    def __str__(self) -> str:
        if self.component in ("embed", "bias"):  # of no layer
            return self.component
        if self.component == "layer":
            return str(self.layer)
        name = f"{self.layer}.{self.component}"
        if self.head is not None:
            name += f".{self.head}"
        if self.source is not None:
            name += f"←{self.source}"
        return name

    @property
    def short(self) -> str:
        """Return the name as papers write it for a head, "L23H4"; else as `str` does."""
        if self.component != "head_out" or self.head is None:
            return str(self)
        source = "" if self.source is None else f"←{self.source}"
        return f"L{self.layer}H{self.head}{source}"


class Site(NamedTuple):
    """One place that is read: a layer, a component, and a head (None where heads do not apply)."""

    layer: int | None
    component: str = "resid_post"
    head: int | None = None

    def __str__(self) -> str:
        if self.component in ("embed", "vector"):  # of no layer
            return self.component
        if self.component == "resid_post":
            return str(self.layer)
        name = f"{self.layer}.{self.component}"
        if self.head is not None:
            name += f".{self.head}"
        return name


@dataclass(frozen=True, eq=False)
class Tokens:
    """The packed token axis: prompts end to end, only the positions that were asked for.

    Each field is an array `[token]`. A token at `position` t predicts the token at t+1, `next_id`
    (−1 where the prompt ends). `generated` says that the model itself wrote `next_id`. Then
    `next_logprob` is what its own distribution gave that token, and `sampler_logprob` what was left
    of it after temperature, top-p and the rest. Both are NaN where nothing was generated, and None
    in a result without generation.

    The last eight say where a token is in an image, as `ImagePlace` does, and are None in a result
    without images: number of the image in its prompt (−1 for text) and of its tile, row and column
    of the patch, and its box in pixels of the original.
    """

    prompt: NDArray[np.int32]
    position: NDArray[np.int32]
    id: NDArray[np.int32]
    next_id: NDArray[np.int32]
    generated: NDArray[np.bool_]
    text: list[str]
    next_logprob: NDArray[np.float32] | None = None
    sampler_logprob: NDArray[np.float32] | None = None
    image: NDArray[np.int32] | None = None
    tile: NDArray[np.int32] | None = None
    row: NDArray[np.int32] | None = None
    column: NDArray[np.int32] | None = None
    left: NDArray[np.float32] | None = None
    top: NDArray[np.float32] | None = None
    right: NDArray[np.float32] | None = None
    bottom: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.id)

    @property
    def is_image(self) -> NDArray[np.bool_]:
        """Which tokens stand for a part of an image, `[token]`."""
        if self.image is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(self.image >= 0)

    @property
    def has_place(self) -> NDArray[np.bool_]:
        """Which tokens have a place in an image, `[token]`."""
        if self.row is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(self.row >= 0)

    @property
    def box(self) -> NDArray[np.float32]:
        """Left, top, right and bottom of each token's patch, `[token, 4]`; NaN without a place."""
        if self.left is None:
            return np.full((len(self), 4), np.nan, dtype=np.float32)
        edges = [self.left, self.top, self.right, self.bottom]
        return np.stack(edges, axis=1)  # type: ignore[arg-type]


# The type of each column of `Tokens`, but for the texts.
TOKEN_DTYPES: dict[str, type[np.generic]] = {
    "prompt": np.int32,
    "position": np.int32,
    "id": np.int32,
    "next_id": np.int32,
    "generated": np.bool_,
    "next_logprob": np.float32,
    "sampler_logprob": np.float32,
    "image": np.int32,
    "tile": np.int32,
    "row": np.int32,
    "column": np.int32,
    "left": np.float32,
    "top": np.float32,
    "right": np.float32,
    "bottom": np.float32,
}

# Why a model can stop. `Response` says what each means.
FINISH_REASONS = ("eos", "stop", "length", "time", "interrupted")


class Response(NamedTuple):
    """What a model wrote after one prompt, and why it stopped.

    `finish` is "eos", "stop" (a stop string), "length" (`max_new_tokens`), "time" (`max_time`) or
    "interrupted".
    """

    text: str
    finish: str


def prompt_number(prompt: Any, n_prompts: int) -> int:
    """Return which prompt `result[prompt]` is, counted from 0.

    Raises:
        TypeError: it is not a whole number.
        IndexError: the result holds no such prompt.
    """
    if not isinstance(prompt, int | np.integer):
        raise TypeError(f"result[i] is one prompt's result, i a whole number; received {prompt!r}.")
    if not -n_prompts <= prompt < n_prompts:
        raise IndexError(f"prompt {prompt} is out of range: the result holds {n_prompts}.")
    return int(prompt) % n_prompts


def fields_of_prompt(result: Any, axes: Axes, number: int) -> dict[str, Any]:
    """Return the arrays, tokens and prompts of a result, cut to one of its prompts.

    Args:
        result: A lens result or an attribution.
        axes: Its arrays, and the axes of each.
        number: Which prompt, counted from 0.
    """
    token_indices = np.flatnonzero(result.tokens.prompt == number)
    fields: dict[str, Any] = {
        "prompts": [result.prompts[number]],
        "inputs": result.inputs[number : number + 1],
    }
    for array_name, axis_names in axes.items():
        array = getattr(result, array_name)
        if "token" in axis_names:
            array = array.take(token_indices, axis_names.index("token"))
        if axis_names[0] == "prompt":
            array = array[number : number + 1]
        fields[array_name] = array
    tokens = _take_tokens(result.tokens, token_indices)
    fields["tokens"] = dataclasses.replace(tokens, prompt=np.zeros_like(tokens.prompt))
    return fields


def _take_tokens(tokens: Tokens, indices: NDArray[np.intp]) -> Tokens:
    """Return some of the tokens, with every column that they have."""
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(Tokens):
        column = getattr(tokens, field.name)
        if field.name == "text":
            columns[field.name] = [column[index] for index in indices]
        elif column is not None:
            columns[field.name] = column[indices]
    return Tokens(**columns)
