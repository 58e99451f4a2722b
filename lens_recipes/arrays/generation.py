"""What each step of a generation comes to, in numbers: what the text views and the summary say."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import layer_series, main_component, site_label
from lens_recipes.arrays.tracks import settled_layers


class Step(NamedTuple):
    """One token that a model wrote.

    `number` counts the steps of its prompt from 1; `token` is an index into `result.tokens`, the token *after which* it
    was written. `wrote` is its text, `logprob` and `sampler_logprob` what the model and the sampler gave it (nats).
    `answer` and `answer_logprob` are the model's own first choice, `site` and `margin` say from where on that choice
    was settled, as in `Settled`: −1 and NaN for never, and where the sites that were read have no order.
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
    margin: float


class Statistics(NamedTuple):
    """Over all tokens that were written, of one or several prompts.

    `layers` are the settled layers, one for each token whose first choice settled; `last` how many of them settled only
    at the last layer read; `not_first` how many written tokens were not the model's first choice. `entropy` is the
    mean at the last layer, `changes` by how many tokens the top-1 changes along the layers; None where no layers were
    read in order. `probability` and `sampler_probability` are means over the tokens written, `perplexity` is the
    exponential of their mean −log-probability under the model. `margin` is the median in nats, NaN for none.
    """

    tokens: int
    layers: NDArray[np.int64]
    last: int
    not_first: int
    probability: float
    sampler_probability: float
    perplexity: float
    entropy: float | None
    changes: NDArray[np.int64] | None
    margin: float


def settling(result: LensArrays) -> list[int]:
    """The sites along which an answer settles: those of the main component; none where there is no order."""
    return [] if main_component(result.sites) in (None, "head_out") else layer_series(result.sites)


def steps(one: LensArrays) -> list[Step]:
    """The steps of one prompt, in the order in which they were taken.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> print([(step.wrote, step.first_choice) for step in steps(result[0])])
    """
    tokens = one.tokens
    if settling(one) and tokens.generated.any():
        settled = [(each.site, each.margin) for each in settled_layers(one)]
    else:
        settled = [(-1, math.nan)] * int(tokens.generated.sum())
    own, sampler = tokens.next_logprob, tokens.sampler_logprob
    return [
        Step(
            number,
            t,
            one.text(tokens.next_id[t]),
            float(one.next_logprobs[-1, t] if own is None else own[t]),
            math.nan if sampler is None else float(sampler[t]),
            bool(tokens.next_id[t] == one.final_ids[t]),
            one.text(one.final_ids[t]),
            float(one.model_logprobs[t]),
            *where,
        )
        for number, (t, where) in enumerate(
            zip(np.flatnonzero(tokens.generated).tolist(), settled, strict=True), 1
        )
    ]


def statistics(result: LensArrays) -> Statistics:
    """What a whole generation comes to, all prompts together."""
    every = [step for one in result for step in steps(one)]
    line, here = settling(result), result.tokens.generated
    sites = np.array([step.site for step in every])
    settled = sites[sites >= 0]
    logprobs = np.array([step.logprob for step in every])
    tops = result.top_ids[:, here, 0][line]
    margins = [step.margin for step in every if not math.isnan(step.margin)]
    return Statistics(
        tokens=len(every),
        layers=np.array([result.sites[s].layer or 0 for s in settled], dtype=np.int64),
        last=int((settled == line[-1]).sum()) if line else 0,
        not_first=sum(not step.first_choice for step in every),
        probability=float(np.exp(logprobs).mean()),
        sampler_probability=float(np.exp([step.sampler_logprob for step in every]).mean()),
        perplexity=float(np.exp(-logprobs.mean())),
        entropy=float(result.entropy[line[-1], here].mean()) if line else None,
        changes=(tops[1:] != tops[:-1]).sum(0) if line else None,
        margin=float(np.median(margins)) if margins else math.nan,
    )


def quartiles(values: NDArray[np.int64]) -> str:
    """Median and quartiles in words.

    >>> quartiles(np.array([20, 29, 28, 24]))
    '26 (median; quartiles 23–28.2)'
    """
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} (median; quartiles {low:.3g}–{high:.3g})"


def settled_at(one: LensArrays, step: Step) -> str:
    """In words: "layer 27", or "later" where the first choice is not yet top-1 at the last site read."""
    return site_label(one.sites[step.site]) if step.site >= 0 else "later"
