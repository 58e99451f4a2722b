"""What every summary has: a headline, some lines for each of the first prompts, and doubts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.certificate import READ_BOTH_WAYS, layers_in_words
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.caller import say

PROMPTS_SUMMARIZED = 5

PROMPTS_APART = 3  # so many prompts have their own lines, more of them are counted

Result = TypeVar("Result", LensArrays, AttributionArrays)


def outline(headline: str, lines: Iterable[str], doubts: Iterable[str]) -> str:
    """Return a summary; each doubt has a line that begins with "distrust:"."""
    doubt_lines = [f"distrust: {doubt}" for doubt in doubts]
    return "\n".join([headline, *lines, *doubt_lines])


def prompt_lines(result: Result, describe: Callable[[Result, int], Iterator[str]]) -> Iterator[str]:
    """Yield what `describe` says of each of the first prompts, and how many are left out.

    Args:
        result: Of any number of prompts.
        describe: Gives the lines of one prompt's result and its number.
    """
    for number, prompt_result in enumerate(itertools.islice(result, PROMPTS_SUMMARIZED)):
        yield from describe(prompt_result, number)
    left_out = len(result) - PROMPTS_SUMMARIZED
    if left_out > 0:
        rest = say(python="result[i].summary()", shell="--prompt N shows one")
        yield f"… and {left_out} more prompts: {rest}"


def certificate_doubts(result: LensArrays | AttributionArrays) -> Iterator[str]:
    """Yield why the numbers may be wrong: no certificate, or one that did not pass."""
    if result.certificate is None:
        reason = result.provenance.get("certificate", "nothing to compare with")
        yield f"no certificate: {reason}"
    elif not result.certificate.passed:
        yield str(result.certificate)
    elif result.certificate.changed_layers:
        layers = layers_in_words(result.certificate.changed_layers)
        yield (
            f"a hook or an edit changes the stream after {layers}: it is read as the model goes on "
            "with it"
        )
    if result.certificate is not None and result.certificate.read_both_ways:
        yield READ_BOTH_WAYS


def sample_doubts(result: LensArrays | AttributionArrays) -> Iterator[str]:
    """Yield a warning if the result is of a single prompt."""
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
