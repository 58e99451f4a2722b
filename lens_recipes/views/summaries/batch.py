"""What many prompts come to together, in a few lines: how many are right, from where, which not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.batch.outcomes import Outcome, chosen_tokens, default_of, outcomes
from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import main_component, site_label
from lens_recipes.views.summaries.trust import before_cannot
from lens_recipes.views.words import percentage, probability

LAYERS_NAMED = 5  # whose ranks are said

PROMPTS_NAMED = 5  # whose answer is another one


def describe_batch(result: LensArrays) -> Iterator[str]:
    """Yield how many prompts are right, from which layer on, at which rank, and which are not.

    Args:
        result: Of several prompts, with layers to follow; the last token read of each counts.
    """
    rows = outcomes(result)
    if default_of(result) == "target":
        n_right = sum(row.right for row in rows)
        what = "the target" if result.target_ids.shape[1] == 1 else "the first target"
        yield f"{percentage(n_right, len(rows))} right: the model's answer is {what}"
        yield from _describe_start(result, rows, what)
        yield from _describe_ranks(result)
        yield from _describe_wrong(rows)
        return
    answers = {row.answer_id for row in rows}
    middle = float(np.median([row.answer_logprob for row in rows]))
    yield f"{len(answers)} different answers, p {probability(middle)} (median)"
    yield from _describe_start(result, rows, "the answer")


def _describe_start(result: LensArrays, rows: list[Outcome], what: str) -> Iterator[str]:
    """Yield from which layer on the followed token is top-1, and where that is not known.

    Example: "the target is top-1 from layer 29 on (median of 21 prompts; quartiles 28–29), never in
    9; in 3 of the 21 it was first read there: the layers before cannot be read with this lens".
    """
    started = [row for row in rows if row.site >= 0]
    n_never = sum(row.site < 0 and row.is_dated for row in rows)
    if not started:
        yield f"{what} is top-1 in none of the {len(rows)} prompts at the last layer read"
        return
    layers = np.array([row.layer or 0 for row in started])
    low, middle, high = np.percentile(layers, [25, 50, 75])
    component = main_component(result.sites)
    of_component = "" if component == "resid_post" else f" of {component}"
    sentence = (
        f"{what} is top-1 from layer {middle:.3g}{of_component} on (median of {len(started)} "
        f"prompts; quartiles {low:.3g}–{high:.3g})"
    )
    if n_never > 0:
        sentence += f", never in {n_never}"
    n_unknown = len(rows) - len(started) - n_never
    if n_unknown > 0:
        sentence += f", only where the lens cannot be read in {n_unknown}"
    n_undated = sum(not row.is_dated for row in started)
    if n_undated > 0:
        sentence += (
            f"; in {n_undated} of the {len(started)} it was first read there, as "
            f"{before_cannot(result)}"
        )
    yield sentence


def _describe_ranks(result: LensArrays) -> Iterator[str]:
    """Yield the target's rank at some layers that most prompts can be read at, the last included.

    Example: "rank of the target (median; quartiles): 91 (33–502) at layer 24, 0 (0–0) at layer 29".
    """
    tokens = chosen_tokens(result, -1)
    _, ranks, _ = result.of("target")
    named = []
    for site in _chosen_sites(result, tokens):
        low, middle, high = np.percentile(ranks[site, tokens], [25, 50, 75])
        place = site_label(result.sites[site])
        named.append(f"{middle:,.0f} ({low:,.0f}–{high:,.0f}) at {place}")
    yield f"rank of the target (median; quartiles): {', '.join(named)}"


def _chosen_sites(result: LensArrays, tokens: list[int]) -> list[int]:
    """Return some sites, evenly spread over those that can be read after most of the tokens."""
    series = np.array(settling(result))
    is_readable = 2 * result.readable[series][:, tokens].sum(axis=1) > len(tokens)
    readable = series[is_readable].tolist() or [int(series[-1])]
    count = min(LAYERS_NAMED, len(readable))
    spread = np.linspace(0, len(readable) - 1, count).round().astype(int)
    return [readable[number] for number in spread]


def _describe_wrong(rows: list[Outcome]) -> Iterator[str]:
    """Yield the first prompts that get another answer, with their targets."""
    wrong = [row for row in rows if not row.right]
    named = []
    for row in wrong[:PROMPTS_NAMED]:
        answer = f"{row.answer!r} (p {probability(row.answer_logprob)})"
        named.append(f"prompt {row.prompt} {answer}, {row.followed!r} has rank {row.rank:,}")
    left_out = len(wrong) - PROMPTS_NAMED
    if left_out > 0:
        named.append(f"and {left_out} more")
    if named:
        yield f"another answer: {'; '.join(named)}"
