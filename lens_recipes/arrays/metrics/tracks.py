"""Along the sites of a result: which of them stand out, and how single tokens fare."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.followed import numbers_of_token, target_column, tracked_only
from lens_recipes.arrays.metrics.table import find_metric
from lens_recipes.arrays.metrics.values import metric_values
from lens_recipes.arrays.sites import UNORDERED, Important, previous_sites, token_index
from lens_recipes.arrays.text import visible_token

# What `important` measures, and from which value on a site stands out: probability, nats, nats.
DEFAULT_THRESHOLD = {"prob": 0.5, "kl_drop": 0.5, "target_jump": 1.0}


# -- sites that stand out ----------------------------------------------


def important(
    result: LensArrays,
    metric: str = "prob",
    threshold: float | None = None,
    *,
    of: str | int | None = None,
    prompt: int = 0,
    position: int = -1,
) -> list[Important]:
    """Return the sites that stand out after one token. See `LensResult.important`."""
    limit = _checked_threshold(metric, threshold)
    if metric == "kl_drop" and of is not None:
        raise ValueError(
            f'metric="kl_drop" is about the whole distribution: leave `of` out (received {of!r}).'
        )
    single = result[prompt]
    if metric != "prob" and all(site.component in UNORDERED for site in single.sites):
        raise ValueError(
            f"metric={metric!r} compares layers, and heads or vectors have no order: use "
            'metric="prob".'
        )
    token = token_index(len(single.tokens), position, "position")
    values = _values_of_sites(single, metric, of, token)
    return [
        Important(index, single.sites[index], float(value))
        for index, value in enumerate(values)
        if value >= limit  # a NaN is never important
    ]


def _checked_threshold(metric: str, threshold: Any) -> float:
    """Return the threshold of a metric, its default for None.

    Raises:
        ValueError: an unknown metric, or a threshold that it cannot have.
    """
    if metric not in DEFAULT_THRESHOLD:
        known = ", ".join(map(repr, DEFAULT_THRESHOLD))
        raise ValueError(f"metric={metric!r} is unknown: accepted are {known}.")
    if threshold is None:
        return DEFAULT_THRESHOLD[metric]
    is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not is_number or not math.isfinite(threshold):
        raise ValueError(
            f"threshold={threshold!r} must be a finite number, or None for the default."
        )
    if metric == "prob" and not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold={threshold!r} must be a probability from 0 to 1 (0.5 is 50 %)."
        )
    return float(threshold)


def _values_of_sites(
    result: LensArrays, metric: str, of: str | int | None, token: int
) -> NDArray[np.float64]:
    """Return the number of each site after one token, `[site]`; NaN where there is none.

    `result` is a result of one prompt; `metric` and `of` are those of `important`.
    """
    if metric == "kl_drop":
        kl_to_final = result.kl_to_final[:, token].astype(np.float64)
        return -_rises(result, kl_to_final)
    if metric == "prob":
        if of is None:
            return np.exp(result.top_logprobs[:, token, 0].astype(np.float64))
        return np.exp(at_token(result, of, token))
    if of is None:
        of = "final" if result.target_ids.size == 0 else int(result.target_ids[0, 0])
    return _rises(result, at_token(result, of, token))


def _rises(result: LensArrays, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much each site's value is above its previous site's, `[site]`.

    It is NaN where no site comes before (see `previous_sites`).
    """
    previous = np.array(previous_sites(result.sites), dtype=int)
    with np.errstate(invalid="ignore"):  # −∞ − −∞: a token that the model never says
        return np.where(previous >= 0, values - values[previous], np.nan)


def at_token(result: LensArrays, of: str | int, token: int) -> NDArray[np.float64]:
    """Return the log-probability of a followed token after one token of the prompt, `[site]`.

    Args:
        result: A result of one prompt.
        of: The token that is followed, as for `numbers_of_token`.
        token: Index of a token of this prompt.

    Raises:
        ValueError: the result does not follow it, or it has no number there.
    """
    logprobs = numbers_of_token(result, of).logprobs[:, token]
    if np.isnan(logprobs).all():
        reason = _why_no_number(result, of)
        raise ValueError(
            f"of={of!r} has no number at this token: {reason}. Name a target that has one, or "
            "another position=."
        )
    return logprobs.astype(np.float64)


def _why_no_number(result: LensArrays, of: str | int) -> str:
    """Say why a followed token has no log-probability after a token."""
    if of == "next":
        return "the prompt ends there"
    if of == "final":
        return "there is no answer of a model to follow"
    if tracked_only(result, of) is None:
        return "its log-probability is NaN at every site"
    return "it was not tracked there"


# -- tokens through the sites ------------------------------------------


class Track(NamedTuple):
    """One token, or the difference of two, followed through all sites of one prompt.

    Attributes:
        key: What tells tokens apart: an id, a pair of ids, "next" or "final". It is the same for
            the same token of several prompts.
        name: What the token is called.
        values: The metric's value at each site, `[site]`.
    """

    key: int | str | tuple[int, ...]
    name: str
    values: NDArray[np.float64]


def tracks(result: LensArrays, of: Any, metric: str, token: int) -> list[Track]:
    """Return what `of` names, followed through the sites of one prompt.

    What has no number after this token is left out.

    Args:
        result: A result of one prompt.
        of: As for `trajectory`.
        metric: "prob", "logprob" (nats), "rank" (NaN for none), "logit" or "logit_diff" (nats).
        token: Index of a token of this prompt.
    """
    targets = list(dict.fromkeys(result.target_ids[0].tolist()))
    if find_metric(metric).about == "pair":
        pair = targets if of is None else named(of)
        return [_track_of_pair(result, pair, metric, token)]
    if of is None:
        of = targets or ["final"]
    known = followed(result, token, metric)
    by_key: dict[Any, Track] = {}
    for name in named(of):
        if name in known and has_number(result, name, token):
            track = _track_of_token(result, name, metric, token)
            by_key.setdefault(track.key, track)  # "target" may be one that is named, too
    return list(by_key.values())


def _track_of_pair(result: LensArrays, pair: list[Any], metric: str, token: int) -> Track:
    """Return the track of a metric that is about two targets."""
    values, track_name = metric_values(result, metric, pair)
    key = tuple(int(result.target_ids[0, target_column(result, 0, what)]) for what in pair)
    names_of_targets = track_name.removeprefix(find_metric(metric).label).strip()
    return Track(key, names_of_targets, values[:, token].astype(np.float64))


def _track_of_token(result: LensArrays, of: str | int, metric: str, token: int) -> Track:
    """Return the track of one followed token."""
    key: int | str
    if of == "final":
        key = "final"
        track_name = f"answer {visible_token(result.text(result.final_ids[token]), 20)}"
    elif of == "next":
        key = "next"
        track_name = f"next token {visible_token(result.text(result.tokens.next_id[token]), 20)}"
    else:
        tracked_id = tracked_only(result, of)
        if tracked_id is None:
            key = int(result.target_ids[0, target_column(result, 0, of)])
        else:
            key = tracked_id
        track_name = visible_token(result.text(key), 20)
    values, _ = metric_values(result, metric, of)
    return Track(key, track_name, values[:, token].astype(np.float64))


def has_number(result: LensArrays, of: str | int, token: int) -> bool:
    """Return whether a followed token has a log-probability at some site after one token."""
    logprobs = numbers_of_token(result, of).logprobs
    return not np.isnan(logprobs[:, token]).all()


def followed(result: LensArrays, token: int, metric: str) -> set[str | int]:
    """Return what `of` may name after one token: its roles, and texts and ids of tokens.

    The roles are "next", "final" and, where there are targets, "target". The tokens are the
    targets, and the tracked tokens where the metric needs no rank.
    """
    candidates = list(result.target_ids[0])
    if not find_metric(metric).needs_rank:
        candidates += list(result.tracked_ids[token])
    token_ids = {int(token_id) for token_id in candidates if token_id >= 0}
    texts = {result.text(token_id) for token_id in token_ids}
    roles = {"next", "final"}
    if len(result.target_ids[0]) > 0:
        roles.add("target")
    return {*roles, *token_ids, *texts}


# -- one or several names ----------------------------------------------


def named(of: Any) -> list[Any]:
    """Return one or several names as a list without repetitions.

    Raises:
        ValueError: one of them is neither a text nor a whole number.
    """
    is_several = isinstance(of, Iterable) and not isinstance(of, str)
    items = list(of) if is_several else [of]
    for item in items:
        if not isinstance(item, str | int | np.integer):
            raise ValueError(
                f"expected texts or whole numbers, one or a list of them; received {item!r}."
            )
    return list(dict.fromkeys(items))


def named_prompts(result: LensArrays, prompts: Any) -> list[int]:
    """Return one or several prompts of a result as a list of numbers from 0, each once.

    Raises:
        ValueError: one of them is none of the result's.
    """
    n_prompts = len(result)
    numbers = []
    for item in named(prompts):
        is_number = isinstance(item, int | np.integer) and not isinstance(item, bool)
        if not is_number or not -n_prompts <= item < n_prompts:
            raise ValueError(
                f"prompts={prompts!r}: {item!r} is none of the prompts 0 to {n_prompts - 1} of "
                "this result."
            )
        numbers.append(int(item) % n_prompts)
    return list(dict.fromkeys(numbers))
