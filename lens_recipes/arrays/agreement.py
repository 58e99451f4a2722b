"""Two results of one request: where they differ by more than rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.certificate import TOLERANCE, TOTAL, Certificate
from lens_recipes.arrays.lens import AXES, LensArrays

# How often the tolerance of a logit two runs may differ: each rounds by itself, and what is made of
# the logits (an entropy, a divergence) rounds again.
SLACK = 4

# Numbers that are made of logits, each with the sites on its first axis.
OF_LOGITS = [
    array_name
    for array_name, axes in AXES.items()
    if axes[0] == "site" and not array_name.endswith(("_ids", "_ranks"))
]
RANKS = ("next_ranks", "final_ranks", "target_ranks")
TOKEN_COLUMNS = ("prompt", "position", "id", "next_id")
OF_PARTS = ("values", "total", "logit", "capped_logit")


class Difference(NamedTuple):
    """A number of a result that another run gives otherwise.

    Attributes:
        array_name: Where it stands.
        place: Its index there.
        saved, again: The number here, and there.
    """

    array_name: str
    place: tuple[int, ...]
    saved: Any
    again: Any

    def __str__(self) -> str:
        place = ", ".join(map(str, self.place))
        return (
            f"{self.array_name}[{place}] is {self.saved:.6g}, where the model says {self.again:.6g}"
        )


def find_difference(saved: Any, again: Any) -> Difference | str | None:
    """Return the first difference between two results that rounding does not explain.

    Args:
        saved: A lens result or an attribution.
        again: The same kind, of the same prompts, positions, sites and targets, with a certificate.

    Returns:
        A number that differs, or a sentence where the two are about different things. None where
        they agree.
    """
    for name in axes_of(saved):
        if getattr(saved, name) != getattr(again, name):
            return f"its {name} are not those of the run"
    for column_name in TOKEN_COLUMNS:
        saved_column = getattr(saved.tokens, column_name)
        difference = first_unequal(
            f"tokens.{column_name}", saved_column, getattr(again.tokens, column_name)
        )
        if difference is not None:
            return difference
    texts = unequal_text(saved, again)
    if texts is not None:
        return texts
    find = attribution_differences if isinstance(saved, AttributionArrays) else lens_differences
    return next(find(saved, again), None)


def axes_of(result: Any) -> tuple[str, ...]:
    """Return the fields that name the entries of a result's axes."""
    if isinstance(result, AttributionArrays):
        return ("unit", "at_layer", "against", "parts", "prompts", "sources")
    return ("sites", "prompts", "responses")


def unequal_text(saved: Any, again: Any) -> str | None:
    """Say which id has another text, if one has."""
    for token, text in again.texts.items():
        if token in saved.texts and saved.texts[token] != text:
            return f"its id {token} is said to be {saved.texts[token]!r}, and is {text!r}"
    if saved.tokens.text != again.tokens.text:
        return "its tokens have other texts"
    return None


# -- a lens ------------------------------------------------------------


def lens_differences(saved: LensArrays, again: LensArrays) -> Iterator[Difference]:
    """Yield where the numbers of two lenses differ by more than rounding."""
    tolerance = logit_tolerance(saved, again)
    same_answer = saved.final_ids == again.final_ids
    yield from model_differences(saved, again, tolerance[-1], same_answer)
    for array_name in OF_LOGITS:
        here, there = getattr(saved, array_name), getattr(again, array_name)
        allowed = tolerance.reshape(-1, *[1] * (here.ndim - 1))
        if array_name == "top_logprobs":
            there = there[..., : here.shape[-1]]
        is_compared = np.ones(here.shape, dtype=bool)
        if array_name == "final_logprobs":  # of two answers, nothing is to be compared
            is_compared &= same_answer
        if array_name == "tracked_logprobs":
            width = min(here.shape[-1], there.shape[-1])
            here, there = here[..., :width], there[..., :width]
            same = saved.tracked_ids[:, :width] == again.tracked_ids[:, :width]
            is_compared = np.broadcast_to(same, here.shape)
        yield from first(array_name, here, there, is_far(here, there, allowed) & is_compared)
    yield from top_differences(saved, again, tolerance)
    for array_name in RANKS:
        here, there = getattr(saved, array_name), getattr(again, array_name)
        # A nat more or less changes a rank by a factor of about e.
        share = np.minimum(1, 2 * tolerance).reshape(-1, *[1] * (here.ndim - 1))
        is_other = np.abs(here.astype(np.int64) - there) > 1 + np.maximum(here, there) * share
        if array_name == "final_ranks":
            is_other &= same_answer
        yield from first(array_name, here, there, is_other)


def model_differences(
    saved: LensArrays, again: LensArrays, tolerance: float, same_answer: NDArray[np.bool_]
) -> Iterator[Difference]:
    """Yield where the model's own answers differ, other than two that are as likely.

    The last site shows which tokens are, where it is the model's output.
    """
    here, there = saved.model_logprobs, again.model_logprobs
    yield from first("model_logprobs", here, there, is_far(here, there, tolerance))
    here, there = saved.model_entropy, again.model_entropy
    is_known = ~np.isnan(here)  # not in a file of an earlier version
    yield from first("model_entropy", here, there, is_far(here, there, tolerance) & is_known)
    is_answer = again.top_ids[-1] == saved.final_ids[:, None]
    is_as_likely = ~is_far(again.top_logprobs[-1], again.model_logprobs[:, None], tolerance)
    is_tie = (is_answer & is_as_likely).any(-1)
    yield from first("final_ids", saved.final_ids, again.final_ids, ~(same_answer | is_tie))
    written = saved.tokens.next_logprob
    if written is not None and (again.final_ranks[-1] == 0).all():
        there = again.next_logprobs[-1]
        is_other = saved.tokens.generated & is_far(written, there, tolerance)
        yield from first("tokens.next_logprob", written, there, is_other)


def top_differences(
    saved: LensArrays, again: LensArrays, tolerance: NDArray[np.float64]
) -> Iterator[Difference]:
    """Yield a top token that the other run lacks, or finds more or less likely.

    Two that are as likely may stand in another order. The other run holds a few more; where even
    the last of these is as likely, as where a stream was ablated to zero and all tokens are, any
    token may stand there.
    """
    n_held = saved.top_ids.shape[-1]
    for place in np.argwhere(saved.top_ids != again.top_ids[..., :n_held]).tolist():
        site, token, column = place
        saved_id = saved.top_ids[site, token, column]
        found = np.flatnonzero(again.top_ids[site, token] == saved_id)
        here = saved.top_logprobs[site, token, column]
        there = again.top_logprobs[site, token, found]
        is_tie_beyond = not is_far(here, again.top_logprobs[site, token, -1], tolerance[site])
        if not len(found) and is_tie_beyond:
            continue
        if not len(found) or is_far(here, there, tolerance[site]).any():
            other_id = again.top_ids[site, token, column]
            yield Difference("top_ids", tuple(place), saved_id, other_id)
            return


def logit_tolerance(saved: LensArrays, again: LensArrays) -> NDArray[np.float64]:
    """Return how far two numbers may be apart that are made of a site's logits, `[site]`."""
    top_logits = np.abs(again.top_logprobs[..., 0] + again.logsumexp)
    largest = np.where(np.isfinite(top_logits), top_logits, 0.0).max(-1, initial=1.0)
    return SLACK * coarser(TOLERANCE, saved.certificate, again.certificate) * largest


# -- an attribution ----------------------------------------------------


def attribution_differences(
    saved: AttributionArrays, again: AttributionArrays
) -> Iterator[Difference]:
    """Yield where the numbers of two attributions differ by more than rounding."""
    largest = np.abs(again.values).max(0, initial=1e-3)
    largest = np.maximum(largest, np.abs(again.logit))
    allowed = SLACK * coarser(TOTAL, saved.certificate, again.certificate) * largest
    for array_name in OF_PARTS:
        here, there = getattr(saved, array_name), getattr(again, array_name)
        yield from first(array_name, here, there, is_far(here, there, allowed))
    is_larger = ~(saved.error <= np.maximum(allowed, again.error))
    yield from first("error", saved.error, again.error, is_larger)


# -- both --------------------------------------------------------------


def coarser(
    tolerances: dict[str, float], saved: Certificate | None, again: Certificate | None
) -> float:
    """Return the larger tolerance of the two precisions in which the results were made."""
    known = [tolerances["float32"]]
    for certificate in (saved, again):
        if certificate is not None:
            known.append(tolerances.get(certificate.dtype, tolerances["bfloat16"]))
    return max(known)


def is_far(
    here: NDArray[Any], there: NDArray[Any], allowed: float | NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which numbers are further apart than allowed; equal infinities and NaNs are not."""
    with np.errstate(invalid="ignore"):
        is_near = np.abs(here.astype(np.float64) - there) <= allowed
    return ~(is_near | (here == there) | (np.isnan(here) & np.isnan(there)))


def first_unequal(array_name: str, here: NDArray[Any], there: NDArray[Any]) -> Difference | None:
    """Return the first entry in which two columns differ."""
    if here.shape != there.shape:
        return Difference(array_name, (), len(here), len(there))
    return next(first(array_name, here, there, here != there), None)


def first(
    array_name: str, here: NDArray[Any], there: NDArray[Any], is_other: NDArray[np.bool_]
) -> Iterator[Difference]:
    """Yield the first difference of an array, if it has one."""
    indices = np.argwhere(is_other)
    if len(indices):
        index = tuple(indices[0].tolist())
        yield Difference(array_name, index, here[index], there[index])
