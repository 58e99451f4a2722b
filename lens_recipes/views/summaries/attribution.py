"""The summary of an attribution: what helps and hurts each target, and what to distrust."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.batch.parts import (
    common_target_name,
    is_parts_batch,
    over_prompts,
    prompt_values,
    read_tokens,
    spread,
)
from lens_recipes.arrays.text import visible_token
from lens_recipes.caller import SHOW_ONE, say
from lens_recipes.views.groups import source_groups
from lens_recipes.views.summaries.outline import (
    PROMPTS_APART,
    certificate_doubts,
    outline,
    prompt_lines,
    sample_doubts,
)
from lens_recipes.views.summaries.transfer import lens_line, transfer_doubts
from lens_recipes.views.words import (
    after_token,
    edited,
    lens_beside,
    mean_in_words,
    part_label,
    part_name,
    signed,
    source_name,
)

PARTS_NAMED = 3  # of those that help a target, and of those that hurt it

SOURCES_NAMED = 3

DIRECT_ONLY = "direct effects only: what a part does through later layers is not counted"


class Sum(NamedTuple):
    """The value of a part, or the sum of several parts, and its name."""

    name: str
    logits: np.floating[Any]


@np.errstate(invalid="ignore")  # ∞ − ∞ is said as what it is
def attribution_summary(result: AttributionArrays) -> str:
    """Return the text of `Attribution.summary`."""
    model = result.provenance.get("model", "model")
    headline = (
        f"{model}{lens_beside(result)}: logits by {result.unit} after layer {result.at_layer}; "
        f"{result.size}"
    )
    lines = prompt_lines(result, _describe_prompt)
    if len(result) > PROMPTS_APART and is_parts_batch(result):
        lines = _describe_batch(result)
    measured = filter(None, [lens_line(result)])
    done = filter(None, [edited(result)])
    return outline(headline, [*done, *lines, *measured], attribution_doubts(result))


MOST = 0.5  # of the absolute values of all parts


def attribution_doubts(result: AttributionArrays) -> Iterator[str]:
    """Yield the reasons to distrust an attribution, the gravest first."""
    yield from certificate_doubts(result)
    yield from sample_doubts(result)
    yield from transfer_doubts(result)
    yield from _bias_doubts(result)
    yield DIRECT_ONLY


def _bias_doubts(result: AttributionArrays) -> Iterator[str]:
    """Yield that much of a lens's logit is its own bias: what usually follows, whatever is read."""
    is_bias = np.array([part.component == "bias" for part in result.parts])
    if result.lens.is_logit or not is_bias.any():
        return
    bias = np.abs(result.values[is_bias].sum(0))
    if (bias > MOST * np.abs(result.total)).any():
        yield (
            f"more than half of a total is the bias of the {result.lens.name}, which says the same "
            "whatever the prompt is"
        )


# -- many prompts ------------------------------------------------------


def _describe_batch(result: AttributionArrays) -> Iterator[str]:
    """Yield, for each target, the mean of its total and of the parts that help and hurt most."""
    for target_index in range(result.target_ids.shape[1]):
        yield from _describe_means(result, target_index)
    yield say(
        python="all parts: result.over_prompts(); each prompt: result[i].summary()", shell=SHOW_ONE
    )


def _describe_means(result: AttributionArrays, target_index: int) -> Iterator[str]:
    """Yield what one target's parts are on average over the prompts."""
    rows = over_prompts(result, target=target_index)
    name = common_target_name(result, target_index, visible_token)
    total = spread(result.total[read_tokens(result, -1), target_index].astype(np.float64))
    yield (
        f"{name}, mean ± standard error over {total.n} prompts (positive in so many): total "
        f"{mean_in_words(*total)}"
    )
    for verb, sign in (("helping", 1), ("hurting", -1)):
        chosen = [row for row in rows if row.mean * sign > 0][:PARTS_NAMED]
        named = []
        for row in chosen:
            numbers = mean_in_words(row.mean, row.standard_error, row.positive, row.n)
            named.append(f"{part_label(row.part)} {numbers}")
        yield f"  {verb} most: {', '.join(named) or '–'}"
    means = np.array([numbers.mean() for numbers in prompt_values(result, target=target_index)])
    yield f"  mean sum of each kind: {_list_sums(_sum_by_kind(result, means))}"


# -- one prompt --------------------------------------------------------


def _describe_prompt(result: AttributionArrays, number: int) -> Iterator[str]:
    """Yield the lines of each target of one prompt; none where no token was read."""
    if len(result.tokens) == 0:
        return
    for target_index in range(result.target_ids.shape[1]):
        yield from _describe_target(result, number, target_index)


def _describe_target(result: AttributionArrays, number: int, target_index: int) -> Iterator[str]:
    """Yield a target's logit after the last token read, and which parts made it."""
    token_index = len(result.tokens) - 1
    place = after_token(result, token_index)
    yield f"prompt {number}, {place}: {_describe_logit(result, token_index, target_index)}"
    values = result.values[:, token_index, target_index]
    order = by_size(values)
    helping = [part_index for part_index in order if values[part_index] > 0][:PARTS_NAMED]
    hurting = [part_index for part_index in order if values[part_index] < 0][:PARTS_NAMED]
    yield f"  helping most: {_name_parts(result, helping, values)}"
    yield f"  hurting most: {_name_parts(result, hurting, values)}"
    nan_count = int(np.isnan(values).sum())
    if nan_count > 0:
        yield f"  not a number: {nan_count} of {len(values)} parts"
    total = result.total[token_index, target_index]
    yield f"  {_describe_share(values, [*helping, *hurting], total)}"
    yield f"  sum of each kind: {_list_sums(_sum_by_kind(result, values))}"
    if result.unit == "token" and result.sources:
        yield f"  read most from: {_list_sums(_largest_sources(result, values))}"


def _describe_logit(result: AttributionArrays, token_index: int, target_index: int) -> str:
    """Return the logit of a target of one prompt, its softcap, and what it is compared with.

    Example: "the logit of ·Paris is +17.20 (+15.31 after the softcap), against nothing (what all
    tokens share is in it)".
    """
    logit = signed(result.logit[token_index, target_index])
    capped_logit = signed(result.capped_logit[token_index, target_index])
    sentence = f"the logit of {result.target_name(0, target_index)} is {logit}"
    if capped_logit != logit:
        sentence += f" ({capped_logit} after the softcap)"
    if result.against_ids[0, target_index] < 0 and not result.against:
        sentence += ", against nothing (what all tokens share is in it)"
    return sentence


def _name_parts(
    result: AttributionArrays, part_indices: list[int], values: NDArray[np.float32]
) -> str:
    """Return the names of some parts with their values; a dash for none."""
    named = []
    for part_index in part_indices:
        name = part_name(result, result.parts[part_index])
        named.append(Sum(name, values[part_index]))
    return _list_sums(named) or "–"


def _describe_share(
    values: NDArray[np.float32], part_indices: list[int], total: np.floating[Any]
) -> str:
    """Return what some parts sum to, and whether most of the absolute values are elsewhere."""
    some_values = values[part_indices]
    all_sizes = max(np.abs(values).sum(), 1e-30)
    share = np.abs(some_values).sum() / all_sizes
    sentence = (
        f"these {len(part_indices)} give {signed(some_values.sum())} of the total {signed(total)}"
    )
    return f"{sentence}; much else cancels" if share < MOST else sentence


def _sum_by_kind(result: AttributionArrays, values: NDArray[np.floating[Any]]) -> list[Sum]:
    """Return the sum of all parts of each component, in the order of the parts."""
    part_kinds = np.array([part.component for part in result.parts])
    sums = []
    for kind in dict.fromkeys(part_kinds.tolist()):
        sums.append(Sum(kind, values[part_kinds == kind].sum()))
    return sums


def _largest_sources(result: AttributionArrays, values: NDArray[np.float32]) -> list[Sum]:
    """Return the tokens from which the heads read most, over all layers and heads."""
    source_sums = np.nansum(source_groups(result, values).values, axis=0)
    sums = []
    for source in by_size(source_sums)[:SOURCES_NAMED]:
        name = f"token {source} {source_name(result, int(source))}"
        sums.append(Sum(name, source_sums[source]))
    return sums


def _list_sums(sums: list[Sum]) -> str:
    """Return some sums in a line: "embed +0.51, mlp_out -1.20"."""
    return ", ".join(f"{name} {signed(logits)}" for name, logits in sums)
