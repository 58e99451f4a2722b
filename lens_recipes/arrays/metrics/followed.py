"""The tokens that a result follows through all its sites, and what the sites say about them.

A result follows its targets, its tracked tokens, "next" (the token that follows in the prompt) and
"final" (the model's own answer). "target" is each prompt's own target. Of a tracked token only the
log-probabilities are known, no ranks, and only at the positions where it was tracked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.caller import say

# What `of` may name besides texts and ids: the token that has this role in each prompt.
ROLES = ("next", "final", "target")


class TokenNumbers(NamedTuple):
    """What each site says about one token at each position.

    Attributes:
        name: What the token is called: its text, "the next token", "the model's answer" …
        logprobs: Its log-probability in nats, `[site, token]`; NaN where it is not known.
        logsumexp: log Σ exp of all logits, `[site, token]`: logit = logprob + logsumexp.
        ranks: Its rank, `[site, token]`; −1 where there is none.
        has_ranks: Whether its ranks were counted; they were not for a tracked token.
    """

    name: str
    logprobs: NDArray[np.float32]
    logsumexp: NDArray[np.float32]
    ranks: NDArray[np.int32]
    has_ranks: bool = True


def numbers_of_top_token(result: LensArrays) -> TokenNumbers:
    """Return the numbers of each site's own top-1 token."""
    ranks = np.zeros(result.entropy.shape, dtype=np.int32)
    return TokenNumbers("the top token", result.top_logprobs[..., 0], result.logsumexp, ranks)


def numbers_of_token(result: LensArrays, of: str | int) -> TokenNumbers:
    """Return the numbers of one token that the result follows.

    Args:
        result: A result of one prompt.
        of: "next", "final", "target", or a target or a tracked token, as text or id.

    Raises:
        ValueError: the result does not follow it, or the text is that of several tokens.
    """
    tracked_id = tracked_only(result, of)
    if tracked_id is None:
        logprobs, ranks, token_name = result.of(of)
        return TokenNumbers(token_name, logprobs, result.logsumexp, ranks)
    tokens, columns = np.nonzero(result.tracked_ids == tracked_id)
    shape = result.entropy.shape
    logprobs = np.full(shape, np.nan, dtype=np.float32)
    logprobs[:, tokens] = result.tracked_logprobs[:, tokens, columns]
    no_ranks = np.full(shape, -1, dtype=np.int32)
    token_name = result.name(tracked_id, [*result.target_ids[0], *result.tracked_ids.ravel()])
    return TokenNumbers(token_name, logprobs, result.logsumexp, no_ranks, has_ranks=False)


def tracked_only(result: LensArrays, of: str | int) -> int | None:
    """Return the id of a tracked token that is not among the targets, else None.

    None stands for everything else that `of` may be. `result` is a result of one prompt.
    """
    if of in ROLES or result.named(result.target_ids[0], of) is not None:
        return None
    return result.named(result.tracked_ids.ravel(), of)


# -- targets -----------------------------------------------------------


def target_column(result: LensArrays, prompt: int, what: str | int) -> int:
    """Return which of a prompt's targets `what` is: a text, an id, or "target" for the first.

    Raises:
        ValueError: it is none of them, or a text that several have.
    """
    if what == "target" and result.target_ids.shape[-1] > 0:
        return 0
    token_ids = [int(token) for token in result.target_ids[prompt]]
    target_id = result.named(token_ids, what)
    if target_id is not None:
        return token_ids.index(target_id)
    known = ", ".join(f"{result.text(token)!r} ({token})" for token in token_ids) or "none"
    shown_prompt = visible_token(result.prompts[prompt], 60)
    raise ValueError(
        f"{what!r} is not a target of the prompt {shown_prompt!r}: its targets are {known}. "
        + say(python="Pass targets= to the recipe.", shell="Run it with --target.")
    )


def logit_diff(result: LensArrays, a: str | int, b: str | int) -> NDArray[np.float32]:
    """Return the logit of target `a` minus the logit of target `b`, `[site, token]`, in nats.

    It is the log of the odds of a over b. Within one site this is a fair comparison: softmax
    subtracts the same log Σ exp from every logit of a site, so it falls out of the difference, and
    logit(a) − logit(b) = logprob(a) − logprob(b). A single logit has no such meaning. Each layer's
    logits have a level of their own, which the softmax does not see. The logit of one token in
    layer 3 and in layer 20 therefore cannot be compared, while the two layers' differences can.

    Args:
        result: Any lens result with targets.
        a: One of the targets of every prompt, as text or id, or "target": each prompt's first.
        b: Another.

    Raises:
        ValueError: a prompt that has no such target, or has it as both `a` and `b`; the message
            lists what it has.

    Example:
        >>> result = logit_lens(model, "The capital of France is", targets=[" Paris", " London"])
        >>> logit_diff(result, " Paris", " London")[:, -1]
    """
    columns_a = _column_of_each_prompt(result, a)
    columns_b = _column_of_each_prompt(result, b)
    for token_ids, column_a, column_b in zip(result.target_ids, columns_a, columns_b, strict=True):
        if token_ids[column_a] == token_ids[column_b]:
            raise ValueError(
                f"{a!r} and {b!r} are the same token, {token_ids[column_a]}: pass two different "
                "targets."
            )
    tokens = np.arange(len(result.tokens))
    prompts = result.tokens.prompt
    logits_a = result.target_logits[:, tokens, columns_a[prompts]]
    logits_b = result.target_logits[:, tokens, columns_b[prompts]]
    with np.errstate(invalid="ignore"):  # ∞ − ∞ has no value
        return logits_a - logits_b


def _column_of_each_prompt(result: LensArrays, what: str | int) -> NDArray[np.intp]:
    """Return which of the targets `what` is, `[prompt]`."""
    columns = [target_column(result, prompt, what) for prompt in range(len(result))]
    return np.array(columns, dtype=np.intp)
