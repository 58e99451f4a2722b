"""Whether two lens results say the same, on any machine.

Two ways to compute a log-probability differ by rounding, and every machine rounds in its own way.
Numbers are compared up to a tolerance. Ids and ranks are whole numbers, so they need another rule:
an id may change its place, and a rank may move, as far as near ties explain it and no further. At
rank ten thousand of a large vocabulary there are tokens on both sides that are closer than
rounding; at rank 0 of a sure model there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from lens_recipes.arrays.lens import AXES

# Arrays of log-probabilities of tokens that do not depend on which token came first.
LOGPROBS = (
    "top_logprobs",
    "next_logprobs",
    "model_logprobs",
    "target_logprobs",
)

# Each rank, and the log-probability that it is the rank of.
RANKS = {
    "next_ranks": "next_logprobs",
    "final_ranks": "final_logprobs",
    "target_ranks": "target_logprobs",
}

# Two tokens change places when each is off by the rounding of one. Those that were compared are
# few, and others may be off by more.
CAUTION = 4.0


def assert_same_ranks(
    ranks: Any,
    expected: Any,
    logprobs: Any,
    ordered: Any,
    rounding: float,
    name: str = "ranks",
) -> None:
    """Check that ranks are those expected, but for tokens within rounding.

    The rank of a token is the number of tokens above it. Those above by more than `rounding` must
    be counted, those below by more must not, and those between may be.

    Args:
        ranks, expected: `[…]`; −1 where there is no token.
        logprobs: Of the ranked tokens, `[…]`.
        ordered: The largest log-probabilities of each distribution, the largest first, `[…, n]`.
            A list that ends above a token says nothing about it: its rank must be equal.
        rounding: How much the difference of two log-probabilities may be off.
        name: What an error calls them.
    """
    ranks, expected, logprobs = np.asarray(ranks), np.asarray(expected), np.asarray(logprobs)
    ordered = np.asarray(ordered)
    assert ranks.shape == expected.shape == logprobs.shape == ordered.shape[:-1], name
    for place in np.argwhere(ranks != expected):
        cell = tuple(place)
        fewest, most = rank_bounds(ordered[cell], logprobs[cell], rounding)
        explained = fewest <= ranks[cell] <= most
        assert explained, (
            f"{name} at {place.tolist()}: {ranks[cell]}, expected {expected[cell]}; tokens "
            f" within {rounding:.2g} nats allow {fewest} to {most}"
        )


def rank_bounds(ordered: np.ndarray, logprob: float, rounding: float) -> tuple[int, int]:
    """Return the least and the largest rank of a token that rounding explains.

    A range that holds nothing, where the list ends above the token or there is no token.
    """
    nothing = (0, -1)
    if np.isnan(logprob):
        return nothing
    may_be_above = int((ordered >= logprob - rounding).sum()) - 1  # without the token itself
    is_above = int((ordered > logprob + rounding).sum())
    if may_be_above == len(ordered) - 1 and np.exp(ordered.astype(float)).sum() < 0.999:
        return nothing
    return is_above, may_be_above


def assert_ranks(ranks: Any, logprobs: Any, token: Any, rounding: float) -> None:
    """Check the ranks `[…]` of a token, or of one for each, in distributions `[…, vocab]`."""
    logprobs = np.asarray(logprobs)
    ids = np.broadcast_to(np.asarray(token), logprobs.shape[:-1])
    ordered = -np.sort(-logprobs, axis=-1)
    ranked = np.take_along_axis(logprobs, ids[..., None], -1)[..., 0]
    expected = (logprobs > ranked[..., None]).sum(-1)
    assert_same_ranks(ranks, expected, ranked, ordered, rounding)


def assert_top_ids(ids: Any, logprobs: Any, rounding: float, name: str = "top_ids") -> None:
    """Check that ids `[…, k]` are the likeliest of distributions `[…, vocab]`, in their order.

    Each must be as likely as the token of its place, up to rounding.
    """
    ids, logprobs = np.asarray(ids), np.asarray(logprobs)
    in_order = np.sort(ids, axis=-1)
    assert (in_order[..., 1:] != in_order[..., :-1]).all(), f"{name} holds an id twice"
    likeliest = -np.sort(-logprobs, axis=-1)[..., : ids.shape[-1]]
    np.testing.assert_allclose(
        np.take_along_axis(logprobs, ids.astype(int), -1), likeliest, atol=rounding, err_msg=name
    )


def assert_same_lens(
    found: Any,
    expected: Any,
    *,
    atol: float,
    rtol: float = 0.0,
    names: Iterable[str] = AXES,
    everything: Callable[[], Any] | None = None,
) -> None:
    """Check that the arrays of two lens results say the same.

    Numbers may differ by a tolerance. Ids and ranks may differ where tokens are nearly as likely.
    What counts as near is read off the results: `CAUTION` times the largest difference between
    log-probabilities that both hold. Results that are equal to the bit must have equal ranks.

    Args:
        found, expected: Two `LensResult`s.
        atol, rtol: Of the numbers.
        names: The arrays to compare.
        everything: Runs what gave `expected` once more, with `top_k` the size of the vocabulary:
            the distributions in which near ties are looked up. It is called when an id or a rank
            differs. None: they are looked up in what `expected` lists.
    """
    names = set(names)
    same_answer = _same_answers(found, expected) if "final_ids" in names else None
    rounding = CAUTION * _largest_difference(found, expected, names)
    for name in names - {"top_ids", "final_ids", "tracked_ids", "tracked_logprobs", *RANKS}:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if name == "final_logprobs" and same_answer is not None:
            ours, theirs = ours[:, same_answer], theirs[:, same_answer]
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=rtol, err_msg=name)
    if same_answer is not None and not same_answer.all():
        _assert_near_answers(found, expected, np.flatnonzero(~same_answer), rounding)
    replaced = _assert_same_tracked(found, expected, atol, rtol) if "tracked_ids" in names else []
    differ = [
        name for name in RANKS if name in names and _differ(found, expected, name, same_answer)
    ]
    top_differs = "top_ids" in names and (found.top_ids != expected.top_ids).any()
    if not differ and not top_differs and not replaced:
        return
    listed = expected if everything is None else everything()
    assert listed.sites == expected.sites
    assert len(listed.tokens) == len(expected.tokens)
    if top_differs:
        _assert_same_top(found, expected, listed, rounding)
    for token in replaced:
        _assert_near_tracked(found, expected, listed, token, rounding)
    for name in differ:
        _assert_same_ranks_of(found, expected, name, listed.top_logprobs, same_answer, rounding)


def distributions(run: partial[Any]) -> np.ndarray:
    """Return all log-probabilities `[site, token, vocab]` of a recipe that is run here.

    Args:
        run: A recipe, its model as first argument, and all else that it takes.
    """
    listed = listing_all(run)()
    dense = np.empty_like(listed.top_logprobs)
    np.put_along_axis(dense, listed.top_ids.astype(int), listed.top_logprobs, -1)
    return dense


def listing_all(run: partial[Any]) -> partial[Any]:
    """Return a recipe's run with `top_k` the size of the vocabulary."""
    return partial(run, top_k=run.args[0]._module.config.get_text_config().vocab_size)


def assert_same_as(
    found: Any,
    run: partial[Any],
    *,
    atol: float,
    rtol: float = 0.0,
    names: Iterable[str] = AXES,
) -> None:
    """Check that a result says what running a recipe says, and of the same tokens.

    Args:
        found: A `LensResult`.
        run: A recipe, its model as first argument, and all else that it takes.
        atol, rtol, names: As for `assert_same_lens`.
    """
    expected = run()
    assert_same_tokens(found, expected)
    assert_same_lens(
        found, expected, atol=atol, rtol=rtol, names=names, everything=listing_all(run)
    )


def assert_same_tokens(found: Any, expected: Any) -> None:
    """Check that two results are about the same tokens in the same order."""
    for name in ("prompt", "position", "id", "next_id", "generated"):
        np.testing.assert_array_equal(
            getattr(found.tokens, name), getattr(expected.tokens, name), err_msg=name
        )
    assert found.tokens.text == expected.tokens.text


def _same_answers(found: Any, expected: Any) -> np.ndarray:
    """Return whether the model's answer is the same token, `[token]`."""
    assert found.final_ids.shape == expected.final_ids.shape
    return found.final_ids == expected.final_ids


def _largest_difference(found: Any, expected: Any, names: set[str]) -> float:
    """Return the largest difference of log-probabilities that are of the same token in both."""
    largest = 0.0
    for name in names.intersection(LOGPROBS):
        gap = np.abs(getattr(found, name).astype(float) - getattr(expected, name).astype(float))
        finite = gap[np.isfinite(gap)]
        largest = max(largest, float(finite.max(initial=0.0)))
    return largest


def _assert_same_top(found: Any, expected: Any, listed: Any, rounding: float) -> None:
    """Check that ids at other places than expected are as likely as those expected there."""
    assert found.top_ids.shape == expected.top_ids.shape
    for site, token in np.argwhere((found.top_ids != expected.top_ids).any(-1)):
        ids = found.top_ids[site, token].tolist()
        assert len(set(ids)) == len(ids), f"top_ids at {[int(site), int(token)]}: one stands twice"
        likelihood = dict(
            zip(
                listed.top_ids[site, token].tolist(),
                listed.top_logprobs[site, token].tolist(),
                strict=True,
            )
        )
        for place, identity in enumerate(ids):
            logprob = expected.top_logprobs[site, token, place]
            gap = abs(logprob - likelihood.get(identity, -np.inf))
            assert gap <= rounding, (
                f"top_ids at {[int(site), int(token), place]}: {identity} is {gap:.2g} nats from "
                f"what is expected there; near ties allow {rounding:.2g}"
            )


def _assert_near_answers(found: Any, expected: Any, tokens: np.ndarray, rounding: float) -> None:
    """Check that the model's answers, where they differ, are as likely as each other.

    The last site must show it: that is where the model's own distribution is.
    """
    for token in tokens:
        answers = {int(found.final_ids[token]), int(expected.final_ids[token])}
        ids = expected.top_ids[-1, token].tolist()
        logprobs = expected.top_logprobs[-1, token]
        near = {
            identity
            for identity, logprob in zip(ids, logprobs, strict=True)
            if logprob >= logprobs[0] - rounding
        }
        assert answers <= near, f"final_ids of token {token}: {answers} are no near tie"


def _assert_same_tracked(found: Any, expected: Any, atol: float, rtol: float) -> list[int]:
    """Check what both results say of the tokens that both track.

    The width of their axis is that of the widest prompt.

    Returns:
        The positions at which one result tracks a token that the other does not.
    """
    replaced = []
    for token in range(len(expected.tokens)):
        ours, theirs = _tracked(found, token), _tracked(expected, token)
        for identity in ours.keys() & theirs.keys():
            np.testing.assert_allclose(
                ours[identity],
                theirs[identity],
                atol=atol,
                rtol=rtol,
                err_msg=f"tracked_logprobs of {identity} at token {token}",
            )
        if ours.keys() != theirs.keys():
            replaced.append(token)
    return replaced


def _assert_near_tracked(
    found: Any, expected: Any, listed: Any, token: int, rounding: float
) -> None:
    """Check that what one result tracks alone was nearly tracked by the other.

    It must be nearly the likeliest at some site (`track="top1"`), or as likely as the last of those
    that are tracked at the last site (`track=5`). What it is said to be everywhere must be true.
    """
    ours, theirs = _tracked(found, token), _tracked(expected, token)
    for tracked, others, other in ((ours, theirs, expected), (theirs, ours, found)):
        least = min((logprobs[-1] for logprobs in others.values()), default=np.inf)
        for identity in tracked.keys() - others.keys():
            logprobs = tracked[identity]
            near_top = (logprobs >= other.top_logprobs[:, token, 0] - rounding).any()
            assert near_top or abs(logprobs[-1] - least) <= rounding, (
                f"tracked_ids of token {token}: {identity} is tracked in one result alone"
            )
            for site, ids in enumerate(listed.top_ids[:, token].tolist()):
                if identity in ids:
                    true = listed.top_logprobs[site, token, ids.index(identity)]
                    assert abs(logprobs[site] - true) <= rounding, (
                        f"tracked_ids of token {token}: {identity} is not as likely at site {site}"
                    )


def _tracked(result: Any, token: int) -> dict[int, np.ndarray]:
    """Return the log-probabilities `[site]` of each token that is tracked at a position."""
    followed = {}
    for column, identity in enumerate(result.tracked_ids[token].tolist()):
        if identity >= 0:
            followed[identity] = result.tracked_logprobs[:, token, column]
    return followed


def _differ(found: Any, expected: Any, name: str, same_answer: np.ndarray | None) -> bool:
    differences = getattr(found, name) != getattr(expected, name)
    if name == "final_ranks" and same_answer is not None:
        differences = differences[:, same_answer]
    return bool(differences.any())


def _assert_same_ranks_of(
    found: Any,
    expected: Any,
    name: str,
    ordered: np.ndarray,
    same_answer: np.ndarray | None,
    rounding: float,
) -> None:
    ranks, wanted = getattr(found, name), getattr(expected, name)
    logprobs = getattr(expected, RANKS[name])
    if name == "final_ranks" and same_answer is not None:
        ranks, wanted, logprobs = (array[:, same_answer] for array in (ranks, wanted, logprobs))
        ordered = ordered[:, same_answer]
    if ranks.ndim == 3:
        ordered = np.broadcast_to(ordered[:, :, None], (*ranks.shape, ordered.shape[-1]))
    assert_same_ranks(ranks, wanted, logprobs, ordered, rounding, name)
