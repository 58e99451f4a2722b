"""The numbers that the pair (`metric`, `of`) names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import EACH_TARGET, LensArrays
from lens_recipes.arrays.metrics.entry import Metric, Values
from lens_recipes.arrays.metrics.followed import (
    numbers_of_token,
    numbers_of_top_token,
    target_column,
)
from lens_recipes.arrays.metrics.table import find_metric
from lens_recipes.caller import advised, argument, say


def metric_values(
    one: LensArrays, metric: str, of: Any = None
) -> tuple[NDArray[np.floating[Any]], str]:
    """Return the numbers `[site, token]` that the pair (`metric`, `of`) names, and their name.

    Args:
        one: A result of one prompt.
        metric: "prob", "logprob" (nats), "rank" (0 is the top), "entropy" (nats), "kl" (nats, to
            the model's own output), "loss" (nats: −log p of the prompt's next token), "logit" or
            "logit_diff" (nats).
        of: Whose. None: the cell's own top-1 ("prob", "logprob"), or what the metric is about
            anyhow. "next": the token that follows in the prompt. "final": the model's own answer
            there. "target": the prompt's own target, the first where it has several. Or a target
            or tracked token, as text or id. For "logit_diff" the pair (a, b), a − b; None where
            there are just two targets.

    Raises:
        ValueError: an unknown metric, a metric that does not go with `of`, or a token that the
            result does not follow.
    """
    entry = find_metric(metric)
    if entry.about == "pair":
        return _values_of_pair(one, entry, of)
    _check_of(entry, of)
    if entry.about == "all":
        return _computed(one, entry, one), entry.label
    if entry.about == "next":
        return _computed(one, entry, numbers_of_token(one, "next")), entry.label
    numbers = numbers_of_top_token(one) if of is None else numbers_of_token(one, of)
    if entry.needs_rank and not numbers.has_ranks:
        raise ValueError(no_rank(of))
    return _computed(one, entry, numbers), f"{entry.label} of {numbers.name}"


def common_label(metric: str, of: Any, labels: Iterable[str]) -> str:
    """Return what the numbers of several prompts are called together.

    Args:
        metric: Which one.
        of: As for `metric_values`.
        labels: What `metric_values` calls the numbers of each prompt.
    """
    distinct = list(dict.fromkeys(labels))
    if len(distinct) == 1:
        return distinct[0]
    entry = find_metric(metric)
    if of == "target":
        return f"{entry.label} of {EACH_TARGET}"
    # The pair of a logit difference may be another one in each prompt.
    return entry.label


def _computed(result: LensArrays, entry: Metric, *arguments: Any) -> Values:
    """Return the values of a metric: those that were measured, or computed from the arguments."""
    if isinstance(entry.source, str):
        return getattr(result, entry.source)
    return entry.source(*arguments)


def _check_of(entry: Metric, of: Any) -> None:
    """Check that a metric takes this `of`.

    Raises:
        ValueError: it does not; the message says what it takes.
    """
    metric = entry.name
    if entry.about == "all":
        if of is not None:
            raise ValueError(
                f"{argument('metric', metric)} is about the whole distribution: leave "
                f"{_of()} out (received {of!r})."
            )
    elif entry.about == "next":
        if of not in (None, "next"):
            raise ValueError(
                f"{argument('metric', metric)} is about the next token (received "
                f"{argument('of', of)}): use {advised('metric', 'logprob')}."
            )
    elif of is None:
        if entry.about == "token":
            raise ValueError(
                f'{argument("metric", metric)} needs {_of()}: "next", "final", "target", or one of '
                f"the targets{say(python=', as text or id', shell='')}."
            )
    elif not isinstance(of, str | int | np.integer):
        raise ValueError(
            f"{argument('of', of)}: {argument('metric', metric)} is about one token here"
            + say(
                python=", a text or an id (trajectory takes a list of them, "
                'metric="logit_diff" a pair).',
                shell=": give --of once, or --metric logit_diff.",
            )
        )


def _of() -> str:
    """Return the argument `of` as the reader knows it."""
    return say(python="`of`", shell="--of")


def no_rank(of: Any) -> str:
    """Return the message about a token that was tracked, whose rank nobody counted."""
    advice = say(
        python='Pass targets= with it to the recipe, or take metric="logprob".',
        shell="Run it with --target, or take --metric logprob.",
    )
    return (
        f"{argument('of', of)} is a tracked token, and of those only the log-probabilities are "
        f"known, no ranks. {advice}"
    )


def _values_of_pair(result: LensArrays, entry: Metric, of: Any) -> tuple[Values, str]:
    """Return what a metric of two targets says about a pair, and its name.

    Args:
        result: A result of one prompt.
        entry: The metric.
        of: The two targets, as texts or ids; None where the prompt has just two.
    """
    if of is None:
        of = list(dict.fromkeys(result.target_ids[0].tolist()))
    is_pair = isinstance(of, Iterable) and not isinstance(of, str)
    pair = list(of) if is_pair else []
    if len(pair) != 2:
        received = pair if is_pair else of
        raise ValueError(
            f"{argument('metric', entry.name)} is about two targets: "
            + say(python="pass of=(a, b)", shell="give --of twice")
            + f" (received {received!r})."
        )
    token_ids = [int(result.target_ids[0, target_column(result, 0, target)]) for target in pair]
    first_name, second_name = (result.name(token, token_ids) for token in token_ids)
    values = _computed(result, entry, result, *pair)
    return values, f"{entry.label} {first_name} − {second_name}"


# -- the model ---------------------------------------------------------


def vocab_size(result: LensArrays) -> int:
    """Return the size of the model's vocabulary; at least 2, so that its logarithm is a range."""
    return max(2, int(result.provenance.get("vocab_size") or 2))
