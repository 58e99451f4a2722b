"""Numbers along the sites of a result: which sites matter, and how far one token is ahead of another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .components import UNORDERED, Important, previous, token_index
from .display import visible

if TYPE_CHECKING:
    from .result import LensResult

DEFAULT_THRESHOLD = {"prob": 0.5, "kl_drop": 0.5, "target_jump": 1.0}  # probability, nats, nats


def logit_diff(result: LensResult, a: str | int, b: str | int) -> NDArray[np.float32]:
    """The logit of target `a` minus that of target `b`, `[site, token]`, in nats: the log of the odds of a over b.

    Within one site this is a fair comparison: softmax subtracts the same log Σ exp from every logit of a site, so it
    falls out of the difference, and logit(a) − logit(b) = logprob(a) − logprob(b). A single logit has no such
    meaning: each layer's logits have a level of their own, which the softmax does not see, so that the logit of one
    token in layer 3 and in layer 20 cannot be compared, while the two layers' differences can.

    Args:
        result: Any lens result with targets.
        a: One of the targets of every prompt, as text or id.
        b: Another.

    Raises:
        ValueError: a prompt that has no such target; the message lists what it has.

    Example:
        >>> result = logit_lens(model, "The capital of France is", targets=[" Paris", " London"])
        >>> logit_diff(result, " Paris", " London")[:, -1]
    """
    columns = np.array([[target_column(result, p, what) for what in (a, b)] for p in range(len(result))], dtype=int)
    spots, here = np.arange(len(result.tokens)), columns.reshape(-1, 2)[result.tokens.prompt]
    logits = result.target_logits
    return logits[:, spots, here[:, 0]] - logits[:, spots, here[:, 1]]


def target_column(result: LensResult, prompt: int, what: str | int) -> int:
    """Which of a prompt's targets is `what`, a text or an id."""
    ids = [int(i) for i in result.target_ids[prompt]]
    for j, i in enumerate(ids):
        if (result.text(i) if isinstance(what, str) else i) == what:
            return j
    known = ", ".join(f"{result.text(i)!r} ({i})" for i in ids) or "none"
    raise ValueError(
        f"{what!r} is not a target of the prompt {visible(result.prompts[prompt], 60)!r}: its targets are {known}. "
        "Pass targets= to the recipe."
    )


# -- which sites stand out -----------------------------------------------------------------------------------


def important(
    result: LensResult,
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
        raise ValueError(f'metric="kl_drop" is about the whole distribution: leave `of` out (received {of!r}).')
    one = result[prompt]
    if metric != "prob" and all(site.component in UNORDERED for site in one.sites):
        raise ValueError(f'metric={metric!r} compares layers, and heads or vectors have no order: use metric="prob".')
    values = _values(one, metric, of, token_index(len(one.tokens), position, "position"))
    return [  # a NaN is never important
        Important(s, one.sites[s], float(value)) for s, value in enumerate(values) if value >= limit
    ]


def _threshold(metric: str, threshold: Any) -> float:
    if metric not in DEFAULT_THRESHOLD:
        raise ValueError(f"metric={metric!r} is unknown: accepted are {', '.join(map(repr, DEFAULT_THRESHOLD))}.")
    if threshold is None:
        return DEFAULT_THRESHOLD[metric]
    number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold):
        raise ValueError(f"threshold={threshold!r} must be a finite number, or None for the default.")
    if metric == "prob" and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must be a probability from 0 to 1 (0.5 is 50 %).")
    return float(threshold)


def _values(one: LensResult, metric: str, of: str | int | None, token: int) -> NDArray[np.float64]:
    """The number of each site of one prompt, `[site]`; NaN where there is none."""
    if metric == "kl_drop":
        return -_rise(one, one.kl_to_final[:, token].astype(np.float64))
    if metric == "prob" and of is None:
        return np.exp(one.top_logprobs[:, token, 0].astype(np.float64))
    if of is None:
        of = int(one.target_ids[0, 0]) if one.target_ids.size else "final"
    logprobs = logprobs_of(one, of, token)
    return np.exp(logprobs) if metric == "prob" else _rise(one, logprobs)


def logprobs_of(one: LensResult, of: str | int, token: int) -> NDArray[np.float64]:
    """Log-probability of one token at each site, `[site]`.

    Raises:
        ValueError: not a token that this prompt follows, or it has no number there.
    """
    logprobs = one.of(of)[0][:, token].astype(np.float64)
    if of in ("next", "final") and np.isnan(logprobs).all():
        why = "the prompt ends there" if of == "next" else "there is no answer of a model to follow"
        raise ValueError(f"of={of!r} has no number at this token: {why}. Name a target, or another position=.")
    return logprobs


def _rise(one: LensResult, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each site is above the one that it is a step from (`previous`); NaN where there is none."""
    before = np.array(previous(one.sites), dtype=int)
    with np.errstate(invalid="ignore"):  # −∞ − −∞: a token that the model never says
        return np.where(before >= 0, values - values[before], np.nan)


# -- tokens through the sites --------------------------------------------------------------------------------


class Track(NamedTuple):
    """One token of one prompt followed through all sites."""

    key: Any  # the same for the same token of several prompts
    name: str
    values: NDArray[np.float64]  # [site]


def tracks(one: LensResult, of: Any, metric: str, token: int) -> list[Track]:
    """What `of` names, followed through the sites of one prompt; targets that only other prompts have are left out.

    Args:
        one: A result of one prompt.
        of: As for `trajectory`.
        metric: "prob", "logprob" (nats), "rank" (NaN for none), "logit" or "logit_diff" (nats).
        token: Index of a token of this prompt.
    """
    ids = list(dict.fromkeys(one.target_ids[0].tolist()))
    wanted = (ids or ["final"]) if of is None else named(of)
    if metric == "logit_diff":
        return [_difference(one, ids if of is None else wanted, token)]
    known = {"next", "final", *ids, *(one.text(i) for i in ids)}
    return [_one_track(one, what, metric, token) for what in wanted if what in known]


def named(of: Any) -> list[Any]:
    """One or several names as a list without repetitions."""
    items = list(of) if isinstance(of, Iterable) and not isinstance(of, str) else [of]
    if wrong := [item for item in items if not isinstance(item, str | int | np.integer)]:
        raise ValueError(f"expected texts or whole numbers, one or a list of them; received {wrong[0]!r}.")
    return list(dict.fromkeys(items))


def _one_track(one: LensResult, what: str | int, metric: str, token: int) -> Track:
    logprobs, ranks = logprobs_of(one, what, token), one.of(what)[1][:, token]
    key: str | int = what
    if what == "final":
        name = f"answer {visible(one.text(one.final_ids[token]), 20)}"
    elif what == "next":
        name = f"next token {visible(one.text(one.tokens.next_id[token]), 20)}"
    else:
        key = int(one.target_ids[0, target_column(one, 0, what)])
        name = visible(one.text(key), 20)
    if metric == "rank":
        return Track(key, name, np.where(ranks < 0, np.nan, ranks))
    if metric == "logit":
        return Track(key, name, logprobs + one.logsumexp[:, token])
    return Track(key, name, np.exp(logprobs) if metric == "prob" else logprobs)


def _difference(one: LensResult, pair: list[Any], token: int) -> Track:
    if len(pair) != 2:
        raise ValueError(f'metric="logit_diff" is about two targets: pass of=(a, b) (received {len(pair)}: {pair!r}).')
    a, b = (int(one.target_ids[0, target_column(one, 0, what)]) for what in pair)
    name = f"{visible(one.text(a), 20)} − {visible(one.text(b), 20)}"
    return Track((a, b), name, logit_diff(one, a, b)[:, token].astype(np.float64))


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


def settled_layers(result: LensResult, of: str = "final", *, component: str | None = None) -> list[Settled]:
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
        raise ValueError(f'of={of!r} must be "final" or "next"; for a target there is result.settled({of!r}).')
    ids, generated = result.final_ids if of == "final" else result.tokens.next_id, result.tokens.generated
    sites, tops = result.settled(of, component=component), result.top_logprobs
    found = []
    for token in np.flatnonzero(generated if generated.any() else ids >= 0).tolist():
        site = int(sites[token])
        ahead = site >= 0 and tops.shape[-1] > 1
        margin = float(tops[site, token, 0] - tops[site, token, 1]) if ahead else math.nan
        layer = result.sites[site].layer if site >= 0 else None
        found.append(Settled(token, result.text(ids[token]), site, layer, margin))
    return found
