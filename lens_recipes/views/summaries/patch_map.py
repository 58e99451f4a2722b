"""The summary of a patch map: both baselines, the largest cells, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.summaries.outline import outline
from lens_recipes.views.words import minus

CELLS_NAMED = 5
HALF = 0.5  # a recovery by which a stretch of the stream carries the answer
PAIRS_NAMED = 3  # of those that were left out

SMALL = 0.05  # a recovery that is hardly any


def patch_summary(result: PatchMapArrays) -> str:
    """Return the text of `PatchMap.summary`."""
    model = result.provenance.get("model", "model")
    what = "clean into corrupt" if result.direction == "denoise" else "corrupt into clean"
    headline = f"{model}: {result.unit} patched, {what}; {result.size}"
    if result.mark:
        headline += f"; {result.mark}"
    lines = [
        *describe_baselines(result),
        *describe_stretches(result),
        *describe_cells(result),
        *describe_verified(result),
        *describe_left_out(result),
        what_may_be_said(result),
    ]
    if result.proof is not None:
        lines.append(f"proof: {result.proof}")
    return outline(headline, lines, doubts(result))


def describe_baselines(result: PatchMapArrays) -> Iterator[str]:
    """Yield what the metric is in both runs as they are."""
    clean, corrupt = result.clean.mean(), result.corrupt.mean()
    numbers = minus(f"{clean:+.3f} clean, {corrupt:+.3f} corrupt")
    if len(result) == 1:
        answers = f"{visible_token(result.targets[0])} against {visible_token(result.againsts[0])}"
        yield f"{result.metric} of {answers}: {numbers}"
    else:
        yield f"{result.metric}, mean of {len(result)} pairs: {numbers}"


def describe_stretches(result: PatchMapArrays) -> Iterator[str]:
    """Yield in which layers the stream at each position recovers more than half."""
    if not result.unit.startswith("resid"):
        return
    named = []
    for column in range(len(result.columns)):
        is_large = (result.mean[:, column] > HALF) & result.is_causal[:, column]
        layers = [layer for layer, large in zip(result.layers, is_large, strict=True) if large]
        if layers:
            named.append(f"{result.column_name(column)} in {layers_in_words(tuple(layers))}")
    if named:
        yield f"more than half: {'; '.join(named)}"


def describe_cells(result: PatchMapArrays) -> Iterator[str]:
    """Yield the largest cells with their intervals, and what they flip."""
    named = []
    for row, column in result.largest(CELLS_NAMED):
        text = f"{result.cell_name(row, column)} {result.mean[row, column]:+.2f}"
        low, high = result.interval.low[row, column], result.interval.high[row, column]
        if not math.isnan(low):
            text += f" [{low:+.2f}, {high:+.2f}]"
        flipped = result.flipped[row, column]
        if not math.isnan(flipped) and len(result) > 1:
            text += f", flips {flipped:.0%}"
        elif flipped == 1:
            text += ", flips the answer"
        named.append(minus(text))
    words = "recovers" if result.direction == "denoise" else "takes away"
    yield f"{words} most (0 nothing, 1 all): {'; '.join(named) or '–'}"


def describe_verified(result: PatchMapArrays) -> Iterator[str]:
    """Yield how cells of an approximation are, run exactly."""
    if result.verified is None:
        return
    pairs = []
    for (row, column), exact, approximate in zip(
        result.verified.cells, result.verified.exact, result.verified.approximate, strict=True
    ):
        name = result.cell_name(row, column)
        pairs.append(minus(f"{name} {exact:+.2f} (approximated {approximate:+.2f})"))
    shown = "; ".join(pairs[:CELLS_NAMED])
    correlation = minus(f"{result.verified.correlation:.2f}")
    yield f"run exactly, {len(pairs)} cells, correlation {correlation}: {shown}"


def describe_left_out(result: PatchMapArrays) -> Iterator[str]:
    """Yield which pairs are not in the map, and why."""
    for item in result.left_out[:PAIRS_NAMED]:
        yield f"left out, pair {item.pair}: {item.reason}"
    more = len(result.left_out) - PAIRS_NAMED
    if more > 0:
        yield f"… and {more} more pairs left out: see `left_out`"


def what_may_be_said(result: PatchMapArrays) -> str:
    """Return the sentence that such a map allows."""
    if result.is_approximate:
        return (
            "may be said: which cells to look at; a first-order estimate is no effect until it is "
            "run exactly (verify)"
        )
    if result.direction == "denoise":
        return (
            "may be said: the named cells of the clean run are enough to bring back so much of the "
            "answer in the corrupt run; not that they are needed (the direction noise asks that)"
        )
    return (
        "may be said: without the clean run's vector at the named cells so much of the answer is "
        "lost; not that they are enough (the direction denoise asks that)"
    )


def doubts(result: PatchMapArrays) -> Iterator[str]:
    """Yield the reasons to distrust a map, the gravest first."""
    if result.is_approximate:
        yield "an approximation to the first order: wrong where a softmax or a norm saturates"
    if len(result) == 1:
        yield "one pair is one observation: run several before you generalise"
    small = abs(result.clean_diffs - result.corrupt_diffs) < 1
    if small.any():
        yield (
            f"in {int(small.sum())} of {len(result)} pairs clean and corrupt runs are less than "
            "one logit apart, so that recoveries are ratios of small numbers"
        )
    top = result.largest(1)
    if top and abs(result.mean[top[0]]) < SMALL:
        yield "no cell recovers 5 %: what matters is spread over several, or is elsewhere"
