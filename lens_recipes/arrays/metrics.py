"""The numbers that a figure can show: one table of metrics, and what the pair (`metric`, `of`) means in all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.text import visible_token

if TYPE_CHECKING:
    from lens_recipes.arrays.lens import LensArrays


# Orange-red for less than nothing, blue for more: told apart by all eyes, and the white between them is zero.
DIVERGING = [[0, "#c8501e"], [0.25, "#f0a985"], [0.5, "#fafafa"], [0.75, "#8fbbdc"], [1, "#2166ac"]]

# For `of`: of tracked tokens the recipe counts no ranks.
NO_RANK = (
    "of={!r} is a tracked token, and of those only the log-probabilities are known, no ranks. Pass targets= with it to "
    'the recipe, or take metric="logprob".'
)


class Metric(NamedTuple):
    """How one metric is called and coloured, in every figure.

    `about` says which `of` it takes: "top" any token or none (a cell's own top-1), "token" any token, "next" the
    prompt's next token alone, "pair" two targets, "all" none, it is about the whole distribution. `colors` is
    colour-blind safe (viridis, cividis), and bright is always better or more certain.
    """

    title: str
    unit: str
    colors: Any
    about: str

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def two_sided(self) -> bool:
        """Whether zero is a middle rather than an end."""
        return self.colors is DIVERGING


METRICS = {
    "prob": Metric("probability", "", "Viridis", "top"),
    "logprob": Metric("log-probability", "nats", "Viridis", "top"),
    "rank": Metric("rank", "", "Viridis", "token"),
    "entropy": Metric("entropy", "nats", "Cividis_r", "all"),
    "kl": Metric("KL to final", "nats", "Cividis_r", "all"),
    "loss": Metric("next-token loss", "nats", "Viridis_r", "next"),
    "logit": Metric("logit", "", "Viridis", "token"),
    "logit_diff": Metric("logit difference", "nats", DIVERGING, "pair"),
}


def find_metric(metric: str, accepted: Iterable[str] = METRICS) -> Metric:
    """The entry of a metric.

    Raises:
        ValueError: it is not among the accepted ones.
    """
    names = list(accepted)
    if metric not in names:
        raise ValueError(
            f"metric={metric!r} is unknown here; accepted are {', '.join(map(repr, names))}."
        )
    return METRICS[metric]


def metric_values(
    one: LensArrays, metric: str, of: Any = None
) -> tuple[NDArray[np.floating[Any]], str]:
    """The numbers `[site, token]` that the pair (`metric`, `of`) names, and what they are called.

    Args:
        one: A result of one prompt.
        metric: "prob", "logprob" (nats), "rank" (0 is the top), "entropy" (nats), "kl" (nats, to the model's own
            output), "loss" (nats: −log p of the prompt's next token), "logit" or "logit_diff" (nats).
        of: Whose. None: the cell's own top-1 ("prob", "logprob"), or what the metric is about anyhow. "next": the token
            that follows in the prompt. "final": the model's own answer there. Or a target or tracked token, as text or
            id. For "logit_diff" the pair (a, b), a − b; None where there are just two targets.

    Raises:
        ValueError: an unknown metric, a metric that does not go with `of`, or a token that the result does not follow.
    """
    kind = find_metric(metric)
    if kind.about == "all":
        if of is not None:
            raise ValueError(
                f"metric={metric!r} is about the whole distribution: leave `of` out (received {of!r})."
            )
        return (one.entropy if metric == "entropy" else one.kl_to_final), kind.label
    if kind.about == "next":
        if of not in (None, "next"):
            raise ValueError(
                f'metric="loss" is about the next token (received of={of!r}): use metric="logprob".'
            )
        return -one.next_logprobs, kind.label
    if kind.about == "pair":
        return _difference(one, of)
    if of is None:
        if kind.about == "token":
            raise ValueError(
                f'metric={metric!r} needs `of`: "next", "final", or one of the targets, as text or id.'
            )
        logprobs, whose = one.top_logprobs[..., 0], "the top token"
        return (np.exp(logprobs) if metric == "prob" else logprobs), f"{kind.label} of {whose}"
    if not isinstance(of, str | int | np.integer):
        raise ValueError(
            f"of={of!r}: metric={metric!r} is about one token here, a text or an id (trajectory takes a list of them, "
            'metric="logit_diff" a pair).'
        )
    of = of if isinstance(of, str) else int(of)
    if metric == "rank":
        if tracked_only(one, of) is not None:
            raise ValueError(NO_RANK.format(of))
        _, ranks, whose = one.of(of)
        return np.where(ranks < 0, np.nan, ranks), f"rank of {whose}"
    logprobs, whose = logprobs_of(one, of)
    numbers = {"prob": np.exp(logprobs), "logprob": logprobs, "logit": logprobs + one.logsumexp}
    return numbers[metric], f"{kind.label} of {whose}"


def logprobs_of(one: LensArrays, of: str | int) -> tuple[NDArray[np.float32], str]:
    """Log-probabilities `[site, token]` of one token at each position, and its name.

    A tracked token has them only where it was tracked, and is NaN elsewhere.

    Raises:
        ValueError: the result does not follow it, or the text is that of several tokens.
    """
    tracked = tracked_only(one, of)
    if tracked is None:
        logprobs, _, whose = one.of(of)
        return logprobs, whose
    token, column = np.nonzero(one.tracked_ids == tracked)
    logprobs = np.full(one.entropy.shape, np.nan, dtype=np.float32)
    logprobs[:, token] = one.tracked_logprobs[:, token, column]
    return logprobs, one.name(tracked, [*one.target_ids[0], *one.tracked_ids.ravel()])


def tracked_only(one: LensArrays, of: str | int) -> int | None:
    """The id of a tracked token that is not among the targets; None for everything else that `of` may be."""
    if of in ("next", "final") or one.named(one.target_ids[0], of) is not None:
        return None
    return one.named(one.tracked_ids.ravel(), of)


def _difference(one: LensArrays, of: Any) -> tuple[NDArray[np.float32], str]:
    pair = list(dict.fromkeys(one.target_ids[0].tolist())) if of is None else of
    if isinstance(pair, str) or not isinstance(pair, Iterable) or len(pair := list(pair)) != 2:
        raise ValueError(
            f'metric="logit_diff" is about two targets: pass of=(a, b) (received {pair!r}).'
        )
    ids = [int(one.target_ids[0, target_column(one, 0, what)]) for what in pair]
    names = [one.name(i, ids) for i in ids]
    return logit_diff(one, *pair), f"{METRICS['logit_diff'].label} {' − '.join(names)}"


def logit_diff(result: LensArrays, a: str | int, b: str | int) -> NDArray[np.float32]:
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
        ValueError: a prompt that has no such target, or has it as both `a` and `b`; the message lists what it has.

    Example:
        >>> result = logit_lens(model, "The capital of France is", targets=[" Paris", " London"])
        >>> logit_diff(result, " Paris", " London")[:, -1]
    """
    columns = np.array(
        [[target_column(result, p, what) for what in (a, b)] for p in range(len(result))], dtype=int
    )
    for ids, (first, second) in zip(result.target_ids, columns.reshape(-1, 2), strict=True):
        if ids[first] == ids[second]:
            raise ValueError(
                f"{a!r} and {b!r} are the same token, {ids[first]}: pass two different targets."
            )
    spots, here = np.arange(len(result.tokens)), columns.reshape(-1, 2)[result.tokens.prompt]
    logits = result.target_logits
    with np.errstate(invalid="ignore"):  # ∞ − ∞ has no value
        return logits[:, spots, here[:, 0]] - logits[:, spots, here[:, 1]]


def target_column(result: LensArrays, prompt: int, what: str | int) -> int:
    """Which of a prompt's targets is `what`, a text or an id.

    Raises:
        ValueError: none, or a text that several have.
    """
    ids = [int(i) for i in result.target_ids[prompt]]
    if (found := result.named(ids, what)) is not None:
        return ids.index(found)
    known = ", ".join(f"{result.text(i)!r} ({i})" for i in ids) or "none"
    raise ValueError(
        f"{what!r} is not a target of the prompt {visible_token(result.prompts[prompt], 60)!r}: its targets are {known}. "
        "Pass targets= to the recipe."
    )


# -- colours -----------------------------------------------------------


def vocab_size(result: LensArrays) -> int:
    return max(2, int(result.provenance.get("vocab_size") or 2))


def fixed_range(metric: str, vocab: int) -> tuple[float | None, float | None]:
    """The range that a metric can have, of ranks that of −log10(rank + 1); None for an end that depends on the data."""
    at_random = math.log(
        vocab
    )  # nats: what a layer that knows nothing gives each token; less is as dark
    return {
        "prob": (0.0, 1.0),
        "logprob": (-at_random, 0.0),
        "rank": (-math.log10(vocab), 0.0),
        "entropy": (0.0, at_random),
        "kl": (0.0, None),
        "loss": (0.0, None),
    }.get(metric, (None, None))


def output_site(one: LensArrays) -> int:
    """The index of the site that is the model's own output, where it was read; −1 where it was not."""
    last = [s for s, site in enumerate(one.sites) if site.component == "resid_post"][-1:]
    return last[0] if last and one.kl_to_final[last[0]].max(initial=0) < 1e-3 else -1


def rank_ticks(vocab: int) -> tuple[list[float], list[str]]:
    """Where ranks 0, 1, 10, 100 … stand on an axis of log10(rank + 1), and how they are written."""
    ranks = [0, *(10**power for power in range(int(math.log10(vocab)) + 1))]
    return [math.log10(rank + 1) for rank in ranks], [f"{rank:,}" for rank in ranks]
