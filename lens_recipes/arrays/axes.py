"""The named axes of every result: sites, tokens, prompts, parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Part(NamedTuple):
    """One summand of a logit.

    `component` is "embed", "layer" (all that a block adds), "attn_out", "mlp_out", "mixer_out", "other_out",
    "head_out", "attn_bias" (what the output projection and a post-norm add by themselves), "value_bias" (a head's write
    that comes from the bias of its values, not from a token) or "bias" (of the final norm and the unembedding).
    `source` is the position of the token that a head read from (`unit="token"`).
    """

    layer: int | None
    component: str
    head: int | None = None
    source: int | None = None

    def __str__(self) -> str:
        if self.component in ("embed", "bias"):
            return self.component
        head = "" if self.head is None else f".{self.head}"
        source = "" if self.source is None else f"←{self.source}"
        return (
            f"{self.layer}"
            if self.component == "layer"
            else f"{self.layer}.{self.component}{head}{source}"
        )


class Site(NamedTuple):
    """One place that is read: a layer, what of it, and which head (None where heads do not apply)."""

    layer: int | None
    component: str = "resid_post"
    head: int | None = None

    def __str__(self) -> str:
        if self.component in ("embed", "vector"):  # of no layer
            return self.component
        head = "" if self.head is None else f".{self.head}"
        return (
            f"{self.layer}"
            if self.component == "resid_post"
            else f"{self.layer}.{self.component}{head}"
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """The packed token axis: prompts end to end, only the positions that were asked for.

    Each field is an array `[token]`. A token at `position` t predicts the token at t+1, `next_id` (−1 where the
    prompt ends). `generated` says that the model itself wrote `next_id`; then `next_logprob` is what its own
    distribution gave it, and `sampler_logprob` what was left of that after temperature, top-p and the rest (NaN where
    nothing was generated; both None in a result without generation).
    """

    prompt: NDArray[np.int32]
    position: NDArray[np.int32]
    id: NDArray[np.int32]
    next_id: NDArray[np.int32]
    generated: NDArray[np.bool_]
    text: list[str]
    next_logprob: NDArray[np.float32] | None = None
    sampler_logprob: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.id)


class Response(NamedTuple):
    """What a model wrote after one prompt, and why it stopped.

    `finish` is "eos", "stop" (a stop string), "length" (`max_new_tokens`), "time" (`max_time`) or "interrupted".
    """

    text: str
    finish: str


def one_prompt(
    result: Any, axes_of: dict[str, tuple[str, ...]], prompt: Any
) -> tuple[int, dict[str, Any]]:
    """Which prompt `result[prompt]` is, and the result's arrays, tokens and prompts cut to it."""
    if not isinstance(prompt, int | np.integer):
        raise TypeError(f"result[i] is one prompt's result, i a whole number; received {prompt!r}.")
    if not -len(result) <= prompt < len(result):
        raise IndexError(f"prompt {prompt} is out of range: the result holds {len(result)}.")
    number = range(len(result))[prompt]
    here = np.flatnonzero(result.tokens.prompt == number)
    cut: dict[str, Any] = {"prompts": [result.prompts[number]]}
    for name, axes in axes_of.items():
        array = getattr(result, name)
        if "token" in axes:
            array = array.take(here, axes.index("token"))
        cut[name] = array[number : number + 1] if axes[0] == "prompt" else array
    columns = {
        f.name: getattr(result.tokens, f.name)
        for f in dataclasses.fields(Tokens)
        if f.name != "text"
    }
    there = {name: column[here] for name, column in columns.items() if column is not None}
    tokens = Tokens(**there, text=[result.tokens.text[i] for i in here])
    cut["tokens"] = dataclasses.replace(tokens, prompt=np.zeros_like(tokens.prompt))
    return number, cut
