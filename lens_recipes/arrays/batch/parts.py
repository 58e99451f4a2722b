"""`over_prompts()`: what each part of a logit adds on average over many prompts, and how surely."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.axes import Part
from lens_recipes.arrays.lens import EACH_TARGET
from lens_recipes.arrays.sites import token_index

EACH_RIVAL = "each prompt's rival"  # what is subtracted, where that differs


class Spread(NamedTuple):
    """Some numbers, one for each prompt.

    Attributes:
        mean: Their mean.
        standard_error: Of the mean: the standard deviation (n − 1) over √n; NaN for one number.
        positive: How many of them are above zero.
        n: How many they are.
    """

    mean: float
    standard_error: float
    positive: int
    n: int


class PartOverPrompts(NamedTuple):
    """What one part adds to the logits of many prompts' targets, in logits.

    Attributes:
        part: Which part.
        name: What it is called: "L23H4" for a head, else as `str(part)`.
        mean: The mean over the prompts.
        standard_error: Of the mean; NaN for one prompt.
        positive: In how many prompts it helps the target.
        n: How many prompts there are.
    """

    part: Part
    name: str
    mean: float
    standard_error: float
    positive: int
    n: int


def over_prompts(
    result: AttributionArrays, *, position: int = -1, target: int = 0
) -> list[PartOverPrompts]:
    """Return the parts with their means over prompts. See `Attribution.over_prompts`."""
    values = prompt_values(result, position, target)
    rows = []
    for part, numbers in zip(result.parts, values, strict=True):
        rows.append(PartOverPrompts(part, part.short, *spread(numbers)))
    means = np.array([row.mean for row in rows])
    return [rows[index] for index in by_size(means)]


def prompt_values(
    result: AttributionArrays, position: int = -1, target: int = 0
) -> NDArray[np.float64]:
    """Return what each part adds in each prompt of which a token was read, `[part, prompt]`.

    Raises:
        ValueError: as for `over_prompts`.
    """
    if result.unit == "token":
        raise ValueError(
            'unit="token": the tokens that heads read differ from prompt to prompt. Run the recipe '
            'with unit="head" for a mean over prompts, or take one prompt: result[i].'
        )
    column = target_index(result, target)
    return result.values[:, read_tokens(result, position), column].astype(np.float64)


def target_index(result: AttributionArrays, target: int) -> int:
    """Return the index of a target, negative ones from the end.

    Raises:
        ValueError: there is no such target.
    """
    count = result.target_ids.shape[1]
    if not isinstance(target, int | np.integer) or not -count <= target < count:
        raise ValueError(
            f"target={target!r} is out of range: an index, and there are {count} targets."
        )
    return int(target) % count


def read_tokens(result: AttributionArrays, position: int) -> list[int]:
    """Return one token of each prompt, as indices into `result.tokens`.

    A prompt of which no token was read is left out.

    Raises:
        ValueError: a prompt of which tokens were read, but not so many.
    """
    counts = np.bincount(result.tokens.prompt, minlength=len(result)).tolist()
    tokens = []
    first_token = 0
    for count in counts:  # the prompts stand end to end
        if count > 0:
            tokens.append(first_token + token_index(count, position, "position"))
        first_token += count
    if not tokens:
        raise ValueError("no token of any prompt was read: pass other positions= to the recipe.")
    return tokens


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def spread(numbers: NDArray[np.floating[Any]]) -> Spread:
    """Return the mean of some numbers, its standard error, and how many are positive."""
    n = len(numbers)
    standard_error = math.nan
    if n > 1:
        standard_error = float(numbers.std(ddof=1)) / math.sqrt(n)
    return Spread(float(numbers.mean()), standard_error, int((numbers > 0).sum()), n)


def is_parts_batch(result: AttributionArrays) -> bool:
    """Return whether the same parts were read of several prompts."""
    return result.unit != "token" and len(np.unique(result.tokens.prompt)) > 1


def common_target_name(result: AttributionArrays, target: int, show: Any) -> str:
    """Return what the values of all prompts are about: "each prompt's target − ·London".

    Args:
        result: Any attribution.
        target: Which target, an index.
        show: Makes a text legible, cut to so many characters.
    """
    names = {result.target_name(prompt, target, show=show) for prompt in range(len(result))}
    if len(names) == 1:
        return names.pop()
    target_names = {show(result.text(token), 20) for token in result.target_ids[:, target]}
    name = target_names.pop() if len(target_names) == 1 else EACH_TARGET
    rival_ids = set(result.against_ids[:, target].tolist())
    if rival_ids == {-1}:
        if not result.against:
            return name
        return f"{name} − {show(result.against, 40).replace('·', ' ')}"
    rivals = {show(result.text(token), 20) for token in rival_ids}
    return f"{name} − {rivals.pop() if len(rivals) == 1 else EACH_RIVAL}"
