"""Along the sites of a result: which sites matter, what becomes of a token, and when it is decided."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.metrics import (
    METRICS,
    logprobs_of,
    metric_values,
    target_column,
    tracked_only,
)
from lens_recipes.arrays.sites import UNORDERED, Important, previous_sites, token_index
from lens_recipes.arrays.text import visible_token

if TYPE_CHECKING:
    from lens_recipes.arrays.lens import LensArrays


DEFAULT_THRESHOLD = {"prob": 0.5, "kl_drop": 0.5, "target_jump": 1.0}  # probability, nats, nats


# -- which sites stand out ---------------------------------------------


def important(
    result: LensArrays,
    metric: str = "prob",
    threshold: float | None = None,
    *,
    of: str | int | None = None,
    prompt: int = 0,
    position: int = -1,
) -> list[Important]:
    """See `LensResult.important`."""
    limit = _threshold(metric, threshold)
    if metric == "kl_drop" and of is not None:
        raise ValueError(
            f'metric="kl_drop" is about the whole distribution: leave `of` out (received {of!r}).'
        )
    one = result[prompt]
    if metric != "prob" and all(site.component in UNORDERED for site in one.sites):
        raise ValueError(
            f'metric={metric!r} compares layers, and heads or vectors have no order: use metric="prob".'
        )
    values = _values(one, metric, of, token_index(len(one.tokens), position, "position"))
    return [  # a NaN is never important
        Important(s, one.sites[s], float(value)) for s, value in enumerate(values) if value >= limit
    ]


def _threshold(metric: str, threshold: Any) -> float:
    if metric not in DEFAULT_THRESHOLD:
        raise ValueError(
            f"metric={metric!r} is unknown: accepted are {', '.join(map(repr, DEFAULT_THRESHOLD))}."
        )
    if threshold is None:
        return DEFAULT_THRESHOLD[metric]
    number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold):
        raise ValueError(
            f"threshold={threshold!r} must be a finite number, or None for the default."
        )
    if metric == "prob" and not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold={threshold!r} must be a probability from 0 to 1 (0.5 is 50 %)."
        )
    return float(threshold)


def _values(one: LensArrays, metric: str, of: str | int | None, token: int) -> NDArray[np.float64]:
    """The number of each site of one prompt, `[site]`; NaN where there is none."""
    if metric == "kl_drop":
        return -_rise(one, one.kl_to_final[:, token].astype(np.float64))
    if metric == "prob" and of is None:
        return np.exp(one.top_logprobs[:, token, 0].astype(np.float64))
    if of is None:
        of = int(one.target_ids[0, 0]) if one.target_ids.size else "final"
    logprobs = at_token(one, of, token)
    return np.exp(logprobs) if metric == "prob" else _rise(one, logprobs)


def at_token(one: LensArrays, of: str | int, token: int) -> NDArray[np.float64]:
    """Log-probability of one token at each site, `[site]`.

    Raises:
        ValueError: not a token that this prompt follows, or it has no number there.
    """
    if not has_number(one, of, token):
        target = tracked_only(one, of) is None
        why = {
            "next": "the prompt ends there",
            "final": "there is no answer of a model to follow",
        }.get(
            str(of),
            "its log-probability is NaN at every site" if target else "it was not tracked there",
        )
        raise ValueError(
            f"of={of!r} has no number at this token: {why}. Name a target that has one, or another position=."
        )
    return logprobs_of(one, of)[0][:, token].astype(np.float64)


def _rise(one: LensArrays, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each site is above the one that it is a step from (`previous`); NaN where there is none."""
    before = np.array(previous_sites(one.sites), dtype=int)
    with np.errstate(invalid="ignore"):  # −∞ − −∞: a token that the model never says
        return np.where(before >= 0, values - values[before], np.nan)


# -- tokens through the sites ------------------------------------------


class Track(NamedTuple):
    """One token of one prompt followed through all sites."""

    key: Any  # the same for the same token of several prompts
    name: str
    values: NDArray[np.float64]  # [site]


def tracks(one: LensArrays, of: Any, metric: str, token: int) -> list[Track]:
    """What `of` names, followed through the sites of one prompt; what has no number there is left out.

    Args:
        one: A result of one prompt.
        of: As for `trajectory`.
        metric: "prob", "logprob" (nats), "rank" (NaN for none), "logit" or "logit_diff" (nats).
        token: Index of a token of this prompt.
    """
    ids = list(dict.fromkeys(one.target_ids[0].tolist()))
    wanted = (ids or ["final"]) if of is None else named(of)
    if metric == "logit_diff":
        pair = ids if of is None else wanted
        difference, name = metric_values(one, metric, pair)
        key = tuple(int(one.target_ids[0, target_column(one, 0, what)]) for what in pair)
        return [
            Track(
                key,
                name.removeprefix(METRICS[metric].label).strip(),
                difference[:, token].astype(np.float64),
            )
        ]
    there = followed(one, token, metric)
    return [
        _one_track(one, what, metric, token)
        for what in wanted
        if what in there and has_number(one, what, token)
    ]


def has_number(one: LensArrays, of: str | int, token: int) -> bool:
    """Whether a token that this prompt follows has a log-probability at some site after this one of its tokens."""
    return not np.isnan(logprobs_of(one, of)[0][:, token]).all()


def followed(one: LensArrays, token: int, metric: str) -> set[str | int]:
    """What `of` may name after one token: targets and tracked tokens, as text and id, "next" and "final"; a tracked
    token has no rank."""
    tracked = [] if metric == "rank" else one.tracked_ids[token]
    ids = {int(i) for i in (*one.target_ids[0], *tracked) if i >= 0}
    return {"next", "final", *ids, *map(one.text, ids)}


def named(of: Any) -> list[Any]:
    """One or several names as a list without repetitions."""
    items = list(of) if isinstance(of, Iterable) and not isinstance(of, str) else [of]
    if wrong := [item for item in items if not isinstance(item, str | int | np.integer)]:
        raise ValueError(
            f"expected texts or whole numbers, one or a list of them; received {wrong[0]!r}."
        )
    return list(dict.fromkeys(items))


def named_prompts(result: LensArrays, prompts: Any) -> list[int]:
    """One or several prompts of a result as a list of their numbers from 0, without repetitions.

    Raises:
        ValueError: one of them is none of the result's.
    """
    items, n = named(prompts), len(result)
    for item in items:
        if not isinstance(item, int | np.integer) or isinstance(item, bool) or not -n <= item < n:
            raise ValueError(
                f"prompts={prompts!r}: {item!r} is none of the prompts 0 to {n - 1} of this result."
            )
    return list(dict.fromkeys(int(item) % n for item in items))


def _one_track(one: LensArrays, what: str | int, metric: str, token: int) -> Track:
    if what == "final":
        key: str | int = what
        name = f"answer {visible_token(one.text(one.final_ids[token]), 20)}"
    elif what == "next":
        key = what
        name = f"next token {visible_token(one.text(one.tokens.next_id[token]), 20)}"
    else:
        tracked = tracked_only(one, what)
        key = int(one.target_ids[0, target_column(one, 0, what)]) if tracked is None else tracked
        name = visible_token(one.text(key), 20)
    return Track(key, name, metric_values(one, metric, what)[0][:, token].astype(np.float64))


class Settled(NamedTuple):
    """From which layer on the answer after one token is top-1, to the end.

    `token` is an index into `result.tokens`, `site` one into `result.sites` (−1 for never), `layer` that site's (None
    for never). `margin` is by how many nats the answer is ahead of the runner-up there; NaN for never, and where the
    result holds no runner-up (`top_k=1`). `text` is the answer's.
    """

    token: int
    text: str
    site: int
    layer: int | None
    margin: float


def settled_layers(
    result: LensArrays, of: str = "final", *, component: str | None = None
) -> list[Settled]:
    """When each generated token was decided, one entry each; in a result without generation, all its tokens.

    Args:
        result: Any lens result.
        of: "final" for the model's own answer, "next" for the token that was sampled, which settles nowhere unless it
            is the model's answer. (`LensResult.settled` takes targets too.)
        component: Along which sites, as in `LensResult.settled`.

    Raises:
        ValueError: as `LensResult.settled`, or an `of` that is neither.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> print([(step.text, step.layer) for step in settled_layers(result)])
    """
    if of not in ("final", "next"):
        raise ValueError(
            f'of={of!r} must be "final" or "next"; for a target there is result.settled({of!r}).'
        )
    ids, generated = (
        result.final_ids if of == "final" else result.tokens.next_id,
        result.tokens.generated,
    )
    sites, tops = result.settled(of, component=component), result.top_logprobs
    found = []
    for token in np.flatnonzero(generated if generated.any() else ids >= 0).tolist():
        site = int(sites[token])
        ahead = site >= 0 and tops.shape[-1] > 1
        margin = float(tops[site, token, 0] - tops[site, token, 1]) if ahead else math.nan
        layer = result.sites[site].layer if site >= 0 else None
        found.append(Settled(token, result.text(ids[token]), site, layer, margin))
    return found
