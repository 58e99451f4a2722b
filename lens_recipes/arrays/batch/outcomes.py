"""`outcomes()`: for each prompt of a batch, what became of its target or of the model's answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.generation import known_start, settling, starts_there
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.followed import target_column
from lens_recipes.arrays.sites import are_vectors, layer_series, token_index


class Outcome(NamedTuple):
    """What became of one token, the target of a prompt or the model's answer to it.

    Attributes:
        prompt: Which prompt.
        token: After which token it is predicted, an index into `result.tokens`.
        followed_id, followed: The token that is followed, and its text.
        rank: Its rank at the last layer that was read, 0 for the top; −1 where it has none.
        logprob: Its log-probability there, in nats.
        site: From which site on it is known to be top-1 to the end, an index into `result.sites`;
            −1 for none.
        layer: The layer of that site; None for none.
        is_dated: Whether it became top-1 just there. It is False where the site before cannot be
            read (`result.readable`): the token was first read here and may have been top-1 earlier.
        answer_id, answer: The model's own answer, and its text.
        answer_logprob: The log-probability that the model gave its answer, in nats.
        right: Whether the model's answer is the token that is followed.
    """

    prompt: int
    token: int
    followed_id: int
    followed: str
    rank: int
    logprob: float
    site: int
    layer: int | None
    is_dated: bool
    answer_id: int
    answer: str
    answer_logprob: float
    right: bool


class Start(NamedTuple):
    """From which site on a token is known to be top-1, −1 for none, and whether just from there."""

    site: int
    is_dated: bool


def outcomes(
    result: LensArrays,
    of: str | int | None = None,
    *,
    position: int = -1,
    component: str | None = None,
) -> list[Outcome]:
    """Return what became of each prompt's target. See `LensResult.outcomes`."""
    if of is None:
        of = default_of(result)
    logprobs, ranks, _ = result.of(of)
    series = layer_series(result.sites, component)
    settled_sites = result.settled(of, component=component)
    followed_ids = _followed_ids(result, of)
    readable = result.readable[series]
    found = []
    for prompt, token in enumerate(chosen_tokens(result, position)):
        start = _find_start(series, int(settled_sites[token]), readable[:, token])
        followed_id = int(followed_ids[token])
        answer_id = int(result.final_ids[token])
        found.append(
            Outcome(
                prompt=prompt,
                token=token,
                followed_id=followed_id,
                followed=result.text(followed_id) if followed_id >= 0 else "",
                rank=int(ranks[series[-1], token]),
                logprob=float(logprobs[series[-1], token]),
                site=start.site,
                layer=None if start.site < 0 else result.sites[start.site].layer,
                is_dated=start.is_dated,
                answer_id=answer_id,
                answer=result.text(answer_id),
                answer_logprob=float(result.model_logprobs[token]),
                right=followed_id == answer_id,
            )
        )
    return found


def is_batch(result: LensArrays) -> bool:
    """Return whether it is of many prompts whose outcomes one table can say.

    There are several prompts, after which the model wrote nothing, and layers to follow.
    """
    if len(result) < 2 or are_vectors(result.sites) or result.tokens.generated.any():
        return False
    return len(settling(result)) > 0


def default_of(result: LensArrays) -> str:
    """Return what is followed where the caller names nothing: each target, or else the answers."""
    return "target" if result.target_ids.shape[-1] > 0 else "final"


def chosen_tokens(result: LensArrays, position: int) -> list[int]:
    """Return the chosen token of each prompt, as indices into `result.tokens`.

    Args:
        result: Any lens result.
        position: Which of the tokens that were read of a prompt; −1 is the last.

    Raises:
        ValueError: a prompt of which no such token was read.
    """
    counts = np.bincount(result.tokens.prompt, minlength=len(result)).tolist()
    chosen = []
    first_token = 0
    for count in counts:  # the prompts stand end to end
        chosen.append(first_token + token_index(count, position, "position"))
        first_token += count
    return chosen


def _followed_ids(result: LensArrays, of: str | int) -> NDArray[np.int32]:
    """Return the id that `of` names after each token, `[token]`; −1 for none."""
    if of == "final":
        return result.final_ids
    if of == "next":
        return result.tokens.next_id
    columns = [target_column(result, prompt, of) for prompt in range(len(result))]
    target_of_prompt = result.target_ids[np.arange(len(result)), columns]
    return target_of_prompt[result.tokens.prompt]


def _find_start(series: list[int], settled_site: int, readable: NDArray[np.bool_]) -> Start:
    """Return from which site on a token is known to be top-1, and whether it is just from there.

    What cannot be read dates nothing: the token is known from the first site on from which all can
    be read.

    Args:
        series: The sites along which it settles.
        settled_site: The one from which on it is top-1; −1 for none.
        readable: Which sites of the series can be read there, `[site of the series]`.
    """
    if settled_site < 0:
        return Start(-1, is_dated=True)
    start = known_start(readable, series.index(settled_site))
    if start is None:
        return Start(-1, is_dated=False)
    return Start(series[start], is_dated=starts_there(readable, start))
