"""What is asked of each item at each site, and over the sites: numbers that have a mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.survey.arrays import CONTROLS, SurveyArrays

Values = NDArray[np.float64]


def ranked(survey: SurveyArrays, control: str | None) -> NDArray[np.int32]:
    """Return the ranks of the answer, or of a control in its place; −1 where there is none."""
    return survey.ranks if control is None else getattr(survey, f"{CONTROLS[control]}_ranks")


def within(k: int) -> Callable[[SurveyArrays, str | None], Values]:
    """Return what tells whether an answer is among the k most likely tokens: 1, 0, or NaN."""

    def values(survey: SurveyArrays, control: str | None) -> Values:
        ranks = ranked(survey, control)
        return np.where(ranks < 0, np.nan, ranks < k)

    return values


def reciprocal_rank(survey: SurveyArrays, control: str | None) -> Values:
    """Return 1 / (rank + 1)."""
    ranks = ranked(survey, control)
    return np.where(ranks < 0, np.nan, 1.0 / (np.maximum(ranks, 0) + 1.0))


def rank(survey: SurveyArrays, control: str | None) -> Values:
    """Return the rank, 0 for the top."""
    ranks = ranked(survey, control)
    return np.where(ranks < 0, np.nan, ranks)


def logprob(survey: SurveyArrays, control: str | None) -> Values:
    """Return the log-probability, in nats."""
    name = "logprobs" if control is None else f"{CONTROLS[control]}_logprobs"
    return np.asarray(getattr(survey, name), dtype=np.float64)


def prob(survey: SurveyArrays, control: str | None) -> Values:
    """Return the probability."""
    return np.exp(logprob(survey, control))


def logit_diff(survey: SurveyArrays, control: str | None) -> Values:
    """Return the log-odds of the answer against what it is held against, in nats.

    For two tokens that is the difference of their logits.
    """
    return logprob(survey, control) - survey.against_logprobs


def entropy(survey: SurveyArrays, control: str | None) -> Values:
    """Return the entropy of the lens, in nats; it has no answer, and so no control."""
    return survey.entropy.astype(np.float64)


def kl(survey: SurveyArrays, control: str | None) -> Values:
    """Return KL(model ‖ lens), in nats; it has no answer, and so no control."""
    return survey.kl_to_final.astype(np.float64)


def agreement(survey: SurveyArrays, control: str | None) -> Values:
    """Return whether the lens's top token is the model's own answer."""
    return (survey.top_ids == survey.answer_ids[:, None]).astype(np.float64)


METRICS: dict[str, Callable[[SurveyArrays, str | None], Values]] = {
    "accuracy@1": within(1),
    "accuracy@5": within(5),
    "accuracy@10": within(10),
    "reciprocal_rank": reciprocal_rank,
    "rank": rank,
    "logprob": logprob,
    "prob": prob,
    "logit_diff": logit_diff,
    "entropy": entropy,
    "kl": kl,
    "agreement": agreement,
}

WITHOUT_ANSWER = ("entropy", "kl", "agreement")  # they have no control


def item_values(survey: SurveyArrays, metric: str, control: str | None = None) -> Values:
    """Return a metric of each item at each site, `[item, site]`; NaN where it has none.

    Args:
        survey: The survey.
        metric: One of `METRICS`.
        control: None for the answer itself, or "shuffle" or "random".

    Raises:
        ValueError: no such metric or control.
    """
    if metric not in METRICS:
        known = ", ".join(map(repr, METRICS))
        raise ValueError(f"metric={metric!r} is unknown: accepted are {known}.")
    if control is not None and control not in list(CONTROLS):
        known = ", ".join(map(repr, CONTROLS))
        raise ValueError(f"control={control!r} is unknown: accepted are None, {known}.")
    if control is not None and metric in WITHOUT_ANSWER:
        raise ValueError(f"{metric} looks at no answer, so it has no control.")
    return METRICS[metric](survey, control)


# -- over the sites ----------------------------------------------------


def first_to_stay(is_so: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first site from which something stays true, `[item]`; −1 for never.

    Args:
        is_so: `[item, site]`, the sites of one component in order.
    """
    stays = np.logical_and.accumulate(is_so[:, ::-1], axis=1)[:, ::-1]
    return np.where(stays.any(1), stays.argmax(1), -1)


def emergence(survey: SurveyArrays, control: str | None = None) -> NDArray[np.int64]:
    """Return from which site on each answer is the top token and stays it, `[item]`; −1 for never.

    Sites are counted among those of the stream after each block.
    """
    return first_to_stay(ranked(survey, control)[:, survey.layer_sites] == 0)


def prediction_depth(survey: SurveyArrays) -> NDArray[np.int64]:
    """Return from which site on the lens says what the model says, `[item]`; −1 for never.

    Source: Baldock et al. 2021, "Deep Learning Through the Lens of Example Difficulty".
    """
    is_so = survey.top_ids == survey.answer_ids[:, None]
    return first_to_stay(is_so[:, survey.layer_sites])


def emerged(first: NDArray[np.int64], n_sites: int) -> Values:
    """Return whether something has come about by each site, `[item, site]`.

    Its mean is a curve that items which never arrive hold down, as in Kaplan & Meier 1958: an
    average layer over those that arrive would leave them out.
    """
    sites = np.arange(n_sites)
    return ((first[:, None] >= 0) & (sites >= first[:, None])).astype(np.float64)


def best_over_sites(ranks: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the best rank over all sites, `[item]`; for pass@k over layers."""
    return np.where(ranks < 0, np.iinfo(np.int32).max, ranks).min(1)
