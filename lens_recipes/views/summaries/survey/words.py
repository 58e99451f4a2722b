"""What every view of a survey says beside its numbers: how many items, which left out, what proof.

Tables, figures, pages and the summary say it in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.statistics.resampling import MIN_CLUSTERS
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws
from lens_recipes.arrays.survey.findings import groups_by_clusters, left_out_by_reason
from lens_recipes.arrays.survey.merge import part_words
from lens_recipes.arrays.text import counted, legible_line
from lens_recipes.views.summaries.transfer import lens_line

GROUP_LETTERS = 40  # of the name of a group
GROUPS_NAMED = 3  # in a sentence
NAME_IN_A_LIST = 24  # letters of the name of each of them
NO_GROUP = "no group"  # what items without a condition are called beside others that have one


def shortened(name: str, width: int = GROUP_LETTERS) -> str:
    """Return a name on one line, legible, and cut to so many letters."""
    shown = legible_line(name[: width + 1])
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def group_name(group: str, width: int = GROUP_LETTERS) -> str:
    """Return what a view calls a group."""
    return shortened(group, width) if group else NO_GROUP


def group_names(groups: Sequence[str], width: int = GROUP_LETTERS) -> list[str]:
    """Return a name for each group, no two of them the same.

    Names that are the same once they are cut get numbers.
    """
    return told_apart([group_name(group, width) for group in groups])


def told_apart(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same: the same ones get numbers."""
    different = []
    for number, name in enumerate(names):
        if names.count(name) > 1:
            name = f"{name} ({names[: number + 1].count(name)})"
        different.append(name)
    return different


def model_words(survey: SurveyArrays) -> str:
    """Return which model was read with which lens, such as "smollm2, logit lens"."""
    model = legible_line(str(survey.provenance.get("model", "model")))
    return f"{model}, {survey.lens.name}"


def run_words(survey: SurveyArrays) -> str:
    """Return which model was read with which lens, how it was edited, and whether it is certified.

    Example: "smollm2, logit lens, edited: ablate (to mean) L23H4, certified".
    """
    parts = [model_words(survey), edited_line(survey), verdict(survey)]
    return ", ".join(part for part in parts if part)


def n_clusters(survey: SurveyArrays, group: str | None = None) -> int | None:
    """Return how many clusters the items are in; None where they are not clustered."""
    clusters = survey.clusters_of(survey.items_of(group))
    return None if clusters is None else len(set(clusters))


def number_drawn(survey: SurveyArrays, group: str | None = None) -> int:
    """Return how many are drawn for an interval: clusters, or items where there are none."""
    clusters = n_clusters(survey, group)
    return len(survey.items_of(group)) if clusters is None else clusters


def size_words(survey: SurveyArrays, group: str | None = None) -> str:
    """Return how many items there are, such as "36 items in 3 groups and 12 clusters"."""
    words = counted(len(survey.items_of(group)), "item")
    parts = []
    if group is None and len(survey.groups) > 1:
        parts.append(counted(len(survey.groups), "group"))
    clusters = n_clusters(survey, group)
    if clusters is not None:
        parts.append(counted(clusters, "cluster"))
    named = group if group is not None else survey.groups[0]
    if named and (group is not None or len(survey.groups) == 1):
        words += f" of {shortened(named)}"
    return f"{words} in {' and '.join(parts)}" if parts else words


def ledger_line(survey: SurveyArrays) -> str:
    """Return how many items were left out and why, with counts.

    Of a part of a survey it says which part, as the items of the others are not among these.

    Example: "left out: 12 of 262 items: the target is several tokens (10), cannot be read (2)".
    """
    n_left_out = len(survey.left_out)
    total = counted(n_left_out + len(survey), "item")
    if part_words(survey):
        total += f" of {part_words(survey)}"
    if not n_left_out:
        return f"left out: none of {total}"
    reasons = [f"{legible_line(reason)} ({n})" for reason, n in left_out_by_reason(survey)]
    return f"left out: {n_left_out} of {total}: {', '.join(reasons)}"


def interval_line(
    survey: SurveyArrays,
    group: str | None,
    draws: Draws = DEFAULT_DRAWS,
    where: str = "in brackets",
) -> str:
    """Return what the intervals are, or why there is none.

    Example: "in brackets: 95% intervals, 2,000 resamples of 12 clusters".

    Args:
        survey: The survey.
        group: Of which items; None for all.
        draws: How the intervals are made.
        where: Where a view shows them.
    """
    clusters = n_clusters(survey, group)
    if clusters is None:
        drawn = counted(len(survey.items_of(group)), "item")
        number = len(survey.items_of(group))
    else:
        drawn, number = counted(clusters, "cluster"), clusters
    if number < MIN_CLUSTERS:
        return f"no intervals: {drawn} only, and at least {MIN_CLUSTERS} are needed"
    confidence = f"{100 * draws.confidence:g}%"
    return f"{where}: {confidence} intervals, {draws.n_resamples:,} resamples of {drawn}"


def small_groups_line(survey: SurveyArrays) -> str:
    """Return which groups are too small for an interval; empty where none is."""
    if len(survey.groups) < 2:
        return ""
    counts = groups_by_clusters(survey)
    small = [group for group, n in counts.items() if n < MIN_CLUSTERS]
    noun = "item" if n_clusters(survey) is None else "cluster"
    if not small:
        return ""
    if len(small) == len(counts):
        return f"no interval for any group: all have fewer than {MIN_CLUSTERS} {noun}s"
    named = []
    for group in small:
        named.append(f"{group_name(group, NAME_IN_A_LIST)} ({counted(counts[group], noun)})")
    others = ""
    if len(named) > GROUPS_NAMED:
        others = f" and {len(named) - GROUPS_NAMED} more"
    return (
        f"no interval, fewer than {MIN_CLUSTERS} {noun}s: {', '.join(named[:GROUPS_NAMED])}{others}"
    )


def passes_line(survey: SurveyArrays) -> str:
    """Return what pass@k counts, such as in a table of it; without a full stop."""
    return (
        "Share of the answers that are among the first k tokens of at least one of "
        f"{counted(len(survey.layer_sites), 'layer')}"
    )


def edited_line(survey: SurveyArrays) -> str:
    """Return how the model was changed while it ran; empty where it was not."""
    if not survey.edits:
        return ""
    return f"edited: {'; '.join(legible_line(str(edit)) for edit in survey.edits)}"


def proof_lines(survey: SurveyArrays) -> list[str]:
    """Return the certificate, what was edited, and what a fitted lens means."""
    certificate = "not certified: nothing was compared with the model's own output"
    if survey.certificate is not None:
        certificate = str(survey.certificate)
    return [line for line in (certificate, edited_line(survey), lens_line(survey)) if line]
