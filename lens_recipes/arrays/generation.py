"""What each step of a generation comes to, in numbers: what text views and summaries say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.followed import ROLES
from lens_recipes.arrays.sites import layer_series, main_component, site_label
from lens_recipes.arrays.text import visible_token
from lens_recipes.terminal import show_lines

SETTLED_LETTERS = 20  # of the answer in a sentence

# -- from where on a token is top-1 ------------------------------------


class Settled(NamedTuple):
    """From which layer on the answer after one token is top-1, to the end.

    `token` is an index into `result.tokens`, and `text` the answer's. `site` is an index into
    `result.sites` (−1 for never), and `layer` that site's (None for never). `margin` is by how many
    nats the answer is ahead of the runner-up there. It is NaN for never, and where the result holds
    no runner-up (`top_k=1`).
    """

    token: int
    text: str
    site: int
    layer: int | None
    margin: float

    def __str__(self) -> str:
        name = visible_token(self.text, SETTLED_LETTERS)
        if self.layer is None:
            return f"{name}: top-1 to the end from no layer on"
        sentence = f"{name}: top-1 from layer {self.layer} on"
        if not math.isnan(self.margin):
            sentence += f", there {self.margin:.2f} nats ahead"
        return sentence

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the sentence in a notebook."""
        show_lines(printer, str(self))


def settled_layers(
    result: LensArrays, of: str = "final", *, component: str | None = None
) -> list[Settled]:
    """Return from which layer on each generated token is top-1, one entry each.

    In a result without generation there is an entry for each of its tokens. It does not ask whether
    the lens can be read there: `result.readable` says that, and where the layer before cannot be
    read, the token may have been top-1 earlier.

    Args:
        result: Any lens result.
        of: "final" for the model's own answer, "next" for the token that was sampled, which settles
            nowhere unless it is the model's answer, or "target" for each prompt's own target.
            (`LensResult.settled` takes single targets too.)
        component: Along which sites, as in `LensResult.settled`.

    Raises:
        ValueError: as `LensResult.settled`, or an `of` that is none of these.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> print([(step.text, step.layer) for step in settled_layers(result)])
    """
    if of not in ROLES:
        raise ValueError(
            f'of={of!r} must be "final", "next" or "target"; for one target there is '
            f"result.settled({of!r})."
        )
    site_of_token = result.settled(of, component=component)
    if of == "final":
        token_ids = result.final_ids
    elif of == "next":
        token_ids = result.tokens.next_id
    else:
        token_ids = result.target_ids[result.tokens.prompt, 0]
    generated = result.tokens.generated
    shown = generated if generated.any() else token_ids >= 0
    settled = []
    for token in np.flatnonzero(shown).tolist():
        site = int(site_of_token[token])
        layer = None
        margin = math.nan
        if site >= 0:
            layer = result.sites[site].layer
            margin = _margin(result, site, token)
        settled.append(Settled(token, result.text(token_ids[token]), site, layer, margin))
    return settled


def _margin(result: LensArrays, site: int, token: int) -> float:
    """Return by how many nats the top-1 is ahead of the runner-up; NaN where none was kept."""
    logprobs = result.top_logprobs[site, token]
    if len(logprobs) < 2:
        return math.nan
    return float(logprobs[0] - logprobs[1])


def settling(result: LensArrays) -> list[int]:
    """Return the sites along which an answer settles; none where the sites have no order.

    They are the sites of the main component.
    """
    if main_component(result.sites) in (None, "head_out"):
        return []
    return layer_series(result.sites)


def known_from(
    result: LensArrays, series: Sequence[int], settled_site: int, token: int
) -> int | None:
    """Return from which of some sites on a token is known to be top-1; None for nowhere.

    That is where it settles, or the first site after it from which on all can be read.

    Args:
        result: Any lens result.
        series: Indices of the sites along which it settles.
        settled_site: The one of them from which on it is top-1.
        token: Index of the token after which it is predicted.

    Returns:
        An index into `series`.
    """
    return known_start(result.readable[list(series), token], list(series).index(settled_site))


def known_start(readable: NDArray[np.bool_], start: int) -> int | None:
    """Return the first of some sites, from `start` on, from which all can be read.

    None stands for none. `readable` says of each site whether it can be read.
    """
    unreadable_later = np.flatnonzero(~readable[start:])
    if len(unreadable_later):
        start += int(unreadable_later[-1]) + 1
    return None if start == len(readable) else start


def starts_there(readable: NDArray[np.bool_], start: int) -> bool:
    """Return whether what is known from the site `start` on began just there.

    Else the site before cannot be read, and it may have begun earlier.
    """
    return start == 0 or bool(readable[start - 1])


# -- steps -------------------------------------------------------------


class Step(NamedTuple):
    """One token that a model wrote.

    Attributes:
        number: Which step of its prompt, counted from 1.
        token: An index into `result.tokens`: the token *after which* it was written.
        wrote: Its text.
        logprob: Its log-probability under the model (nats).
        sampler_logprob: Its log-probability under the sampler (nats).
        first_choice: Whether it is the model's own first choice.
        answer: The text of the model's own first choice.
        answer_logprob: The log-probability of that choice (nats).
        site: From which site on that choice is known to be settled; −1 for never, and where the
            sites that were read have no order.
        is_dated: Whether it was settled just there: the site before can be read, and it was not
            yet top-1 there. Else it may have been settled earlier.
        margin: By how many nats it was ahead there; NaN where `site` is −1.
    """

    number: int
    token: int
    wrote: str
    logprob: float
    sampler_logprob: float
    first_choice: bool
    answer: str
    answer_logprob: float
    site: int
    is_dated: bool
    margin: float


def steps(result: LensArrays) -> list[Step]:
    """Return the steps of one prompt, in the order in which they were taken.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> print([(step.wrote, step.first_choice) for step in steps(result[0])])
    """
    generated_tokens = np.flatnonzero(result.tokens.generated).tolist()
    settled_by_token: dict[int, Settled] = {}
    if generated_tokens and settling(result):
        settled_by_token = {settled.token: settled for settled in settled_layers(result)}
    return [
        _step(result, number, token, settled_by_token.get(token))
        for number, token in enumerate(generated_tokens, start=1)
    ]


def _step(result: LensArrays, number: int, token: int, settled: Settled | None) -> Step:
    """Return one step of one prompt; `settled` is None where the sites have no order."""
    tokens = result.tokens
    written_id = tokens.next_id[token]
    answer_id = result.final_ids[token]
    logprob = result.next_logprobs[-1, token]
    if tokens.next_logprob is not None:
        logprob = tokens.next_logprob[token]
    sampler_logprob = math.nan
    if tokens.sampler_logprob is not None:
        sampler_logprob = float(tokens.sampler_logprob[token])
    site, is_dated, margin = -1, True, math.nan
    if settled is not None and settled.site >= 0:
        series = settling(result)
        start = known_from(result, series, settled.site, token)
        if start is not None:
            site = series[start]
            is_dated = starts_there(result.readable[series, token], start)
            margin = _margin(result, site, token)
    return Step(
        number=number,
        token=token,
        wrote=result.text(written_id),
        logprob=float(logprob),
        sampler_logprob=sampler_logprob,
        first_choice=bool(written_id == answer_id),
        answer=result.text(answer_id),
        answer_logprob=float(result.model_logprobs[token]),
        site=site,
        is_dated=is_dated,
        margin=margin,
    )


def settled_at(result: LensArrays, step: Step) -> str:
    """Return where a step's first choice settled, in words: "layer 27".

    It is "later" where the first choice is not yet top-1 at the last site read.
    """
    if step.site < 0:
        return "later"
    return site_label(result.sites[step.site])


# -- statistics --------------------------------------------------------


class Statistics(NamedTuple):
    """Numbers over all tokens that were written, of one or several prompts.

    Attributes:
        tokens: How many tokens were written.
        layers: The settled layers, one for each token whose first choice settled.
        undated: How many of them may have settled earlier, where the lens cannot be read.
        last: How many of them settled only at the last layer read.
        not_first: How many written tokens were not the model's first choice.
        probability: The mean probability of a written token under the model.
        sampler_probability: The same under the sampler.
        perplexity: The exponential of the mean −log-probability under the model.
        entropy: The mean at the last layer (nats); None where no layers were read in order.
        changes: How often the top-1 changes along the layers, one number for each token written;
            None where no layers were read in order.
        margin: The median margin in nats; NaN for none.
    """

    tokens: int
    layers: NDArray[np.int64]
    undated: int
    last: int
    not_first: int
    probability: float
    sampler_probability: float
    perplexity: float
    entropy: float | None
    changes: NDArray[np.int64] | None
    margin: float


def statistics(result: LensArrays) -> Statistics:
    """Return what a whole generation comes to, all prompts together."""
    all_steps = [step for single in result for step in steps(single)]
    logprobs = np.array([step.logprob for step in all_steps])
    sampler_logprobs = np.array([step.sampler_logprob for step in all_steps])
    settled_sites = [step.site for step in all_steps if step.site >= 0]
    margins = [step.margin for step in all_steps if not math.isnan(step.margin)]
    n_last = 0
    entropy = None
    changes = None
    series = settling(result)
    if series:
        generated = result.tokens.generated
        n_last = settled_sites.count(series[-1])
        entropy = float(result.entropy[series[-1], generated].mean())
        top_ids = result.top_ids[:, generated, 0][series]
        changes = (top_ids[1:] != top_ids[:-1]).sum(axis=0)
    return Statistics(
        tokens=len(all_steps),
        layers=np.array([result.sites[site].layer or 0 for site in settled_sites], dtype=np.int64),
        undated=sum(not step.is_dated for step in all_steps),
        last=n_last,
        not_first=sum(not step.first_choice for step in all_steps),
        probability=float(np.exp(logprobs).mean()),
        sampler_probability=float(np.exp(sampler_logprobs).mean()),
        perplexity=float(np.exp(-logprobs.mean())),
        entropy=entropy,
        changes=changes,
        margin=float(np.median(margins)) if margins else math.nan,
    )


def quartiles(values: NDArray[np.int64]) -> str:
    """Return median and quartiles in words.

    >>> quartiles(np.array([20, 29, 28, 24]))
    '26 (median; quartiles 23–28.2)'
    """
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} (median; quartiles {low:.3g}–{high:.3g})"
