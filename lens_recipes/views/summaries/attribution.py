"""The summary of an attribution: what helps and hurts each target, and what to distrust."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.extract import source_groups
from lens_recipes.views.summaries.outline import (
    certificate_doubts,
    outline,
    prompt_lines,
    sample_doubts,
)
from lens_recipes.views.words import after_token, part_name, signed

PARTS_NAMED = 3  # of those that help a target, and of those that hurt it

SOURCES_NAMED = 3

DIRECT_ONLY = "direct effects only: what a part does through later layers is not counted"


class Sum(NamedTuple):
    """The sum of several parts, and what they have in common."""

    name: str
    logits: float


@np.errstate(invalid="ignore")  # ∞ − ∞ is said as what it is
def attribution_summary(result: AttributionArrays) -> str:
    """Return the text of `Attribution.summary`."""
    model = result.provenance.get("model", "model")
    headline = f"{model}: logits by {result.unit} after layer {result.at_layer}; {result.size}"
    return outline(headline, prompt_lines(result, _describe_prompt), _doubts(result))


def _doubts(result: AttributionArrays) -> Iterator[str]:
    """Yield the reasons to distrust an attribution, the gravest first."""
    yield from certificate_doubts(result)
    yield from sample_doubts(result)
    yield DIRECT_ONLY


def _describe_prompt(result: AttributionArrays, number: int) -> Iterator[str]:
    """Yield the lines of each target of one prompt; none where no token of it was read."""
    if len(result.tokens) == 0:
        return
    for target in range(result.target_ids.shape[1]):
        yield from _describe_target(result, number, target)


def _describe_target(result: AttributionArrays, number: int, target: int) -> Iterator[str]:
    """Yield a target's logit after the last token read, and which parts made it."""
    token = len(result.tokens) - 1
    values = result.values[:, token, target]
    yield f"prompt {number}, {after_token(result, token)}: {_describe_logit(result, token, target)}"
    order = by_size(values)
    helping = [part for part in order if values[part] > 0][:PARTS_NAMED]
    hurting = [part for part in order if values[part] < 0][:PARTS_NAMED]
    yield f"  helping most: {_name_parts(result, helping, values)}"
    yield f"  hurting most: {_name_parts(result, hurting, values)}"
    nan_count = int(np.isnan(values).sum())
    if nan_count > 0:
        yield f"  not a number: {nan_count} of {len(values)} parts"
    yield _describe_share(values, [*helping, *hurting], result.total[token, target])
    yield f"  sum of each kind: {_list_sums(_sum_by_kind(result, values))}"
    if result.unit == "token" and result.sources:
        yield f"  read most from: {_list_sums(_largest_sources(result, values))}"


def _describe_logit(result: AttributionArrays, token: int, target: int) -> str:
    """Return the logit of a target of one prompt, its softcap, and what it is held against.

    Example: "the logit of ·Paris is +17.20 (+15.31 after the softcap), against nothing (what all
    tokens share is in it)".
    """
    logit = signed(result.logit[token, target])
    capped_logit = signed(result.capped_logit[token, target])
    sentence = f"the logit of {result.target_name(0, target)} is {logit}"
    if capped_logit != logit:
        sentence += f" ({capped_logit} after the softcap)"
    if result.against_ids[0, target] < 0 and not result.against:
        sentence += ", against nothing (what all tokens share is in it)"
    return sentence


def _name_parts(result: AttributionArrays, parts: list[int], values: NDArray[np.float32]) -> str:
    """Return the names of some parts with their values; a dash for none."""
    if not parts:
        return "–"
    return ", ".join(
        f"{part_name(result, result.parts[part])} {signed(values[part])}" for part in parts
    )


def _describe_share(values: NDArray[np.float32], named: list[int], total: float) -> str:
    """Return how much of all the parts the named ones are."""
    named_sum = values[named].sum()
    all_sizes = max(np.abs(values).sum(), 1e-30)
    share = np.abs(values[named]).sum() / all_sizes
    return (
        f"  these {len(named)} sum to {signed(named_sum)} of the total {signed(total)}, and hold "
        f"{share:.0%} of all |values|"
    )


def _sum_by_kind(result: AttributionArrays, values: NDArray[np.float32]) -> list[Sum]:
    """Return the sum of all parts of each component, in the order of the parts."""
    kinds = dict.fromkeys(part.component for part in result.parts)
    sums = []
    for kind in kinds:
        is_kind = [part.component == kind for part in result.parts]
        sums.append(Sum(kind, values[is_kind].sum()))
    return sums


def _largest_sources(result: AttributionArrays, values: NDArray[np.float32]) -> list[Sum]:
    """Return the tokens from which the heads read most, over all layers and heads."""
    by_source = np.nansum(source_groups(result, values).values, axis=0)
    sums = []
    for source in by_size(by_source)[:SOURCES_NAMED]:
        text = visible_token(result.sources[0][source])
        sums.append(Sum(f"token {source} {text}", by_source[source]))
    return sums


def _list_sums(sums: list[Sum]) -> str:
    """Return some sums in a line: "embed +0.51, mlp_out -1.20"."""
    return ", ".join(f"{name} {signed(logits)}" for name, logits in sums)
