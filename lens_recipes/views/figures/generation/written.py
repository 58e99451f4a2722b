"""The tokens that a model wrote after one prompt, and how it chose them, in words."""

from __future__ import annotations

import math
from typing import NamedTuple

from lens_recipes.arrays.generation import Step, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.views.figures.base.style import check_result_kind
from lens_recipes.views.words import probability


class WrittenSteps(NamedTuple):
    """The result of one prompt, and the tokens that were written after it."""

    single: LensArrays
    steps: list[Step]


def written_steps(result: LensArrays, prompt: int) -> WrittenSteps:
    """Return one prompt's result and the tokens that the model wrote after it.

    Raises:
        TypeError: not a lens result.
        ValueError: the model wrote no token.
    """
    check_result_kind(LensArrays, result)
    single = result[prompt]
    written = steps(single)
    if not written:
        recipe = single.provenance.get("recipe", "?")
        raise ValueError(
            f"prompt {prompt} of this result has no generated token (recipe {recipe!r}): "
            "this needs what generate_lens() gives; heatmap() shows any result."
        )
    return WrittenSteps(single, written)


def describe_choice(step: Step) -> list[str]:
    """Return how likely a written token was, and whether the model itself ranks it first."""
    probabilities = []
    for source, logprob in (("model", step.logprob), ("sampler", step.sampler_logprob)):
        if not math.isnan(logprob):
            probabilities.append(f"{source} {probability(logprob)}")
    first_choice = "the model's first choice"
    if not step.first_choice:
        answer = f"{plotly_safe(step.answer, 20)} ({probability(step.answer_logprob)})"
        first_choice = f"not the model's first choice, {answer}"
    return [f"p: {', '.join(probabilities)}", first_choice]
