"""A survey in a few lines for an assistant: findings with intervals, controls, n, and doubts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import site_label
from lens_recipes.arrays.statistics.resampling import MIN_CLUSTERS, Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws
from lens_recipes.arrays.survey.findings import (
    MAX_COMPARED,
    EmergenceMedian,
    GroupDifference,
    emergence_median,
    first_beyond_control,
    group_differences,
    usable_control,
)
from lens_recipes.arrays.survey.joint import Wanted, joint_intervals
from lens_recipes.arrays.survey.names import control_in_words, find_name
from lens_recipes.arrays.survey.pass_at_k import pass_at_k
from lens_recipes.arrays.text import counted
from lens_recipes.views.summaries.outline import outline
from lens_recipes.views.summaries.survey.doubts import survey_doubts
from lens_recipes.views.summaries.survey.words import (
    edited_line,
    group_name,
    interval_line,
    ledger_line,
    model_words,
    n_clusters,
    number_drawn,
    size_words,
)
from lens_recipes.views.summaries.transfer import lens_line

GROUPS_IN_FULL = 5

ACCURACY = "accuracy@1"
PASS_K = 10


def survey_summary(survey: SurveyArrays, draws: Draws = DEFAULT_DRAWS) -> str:
    """Return what a survey came to: one finding a line, with its interval, its control and its n.

    Lines that begin with "distrust:" say what speaks against it.

    Args:
        survey: What `survey()` returns.
        draws: How intervals are made.
    """
    headline = f"survey of {model_words(survey)}: {size_words(survey)}"
    return outline(headline, _findings(survey, draws), survey_doubts(survey, draws))


def survey_without_items(survey: SurveyArrays) -> str:
    """Return what is to be said of a shard in which there is no item, or all are left out."""
    headline = f"survey of {model_words(survey)}: no items, as in this shard there are none to ask"
    more = "the other shards have the numbers: Survey.merge joins them with what is left out here"
    return outline(headline, iter([ledger_line(survey), more]), iter([]))


def _findings(survey: SurveyArrays, draws: Draws) -> Iterator[str]:
    """Yield the findings, and what they rest on."""
    if survey.edits:
        yield edited_line(survey)
    yield interval_line(survey, None, draws)
    control = usable_control(survey)
    if control is not None:
        yield f"control: {control_in_words(control)}, in the same pass"
    yield _accuracy(survey, control, draws)
    if len(survey.layer_sites) > 1:
        yield _passes(survey, control, draws)
    if control is not None:
        yield from _leaves_control(survey, (ACCURACY, "logprob"), control, draws)
    yield _emergence(emergence_median(survey, draws=draws), survey, control, draws)
    yield from _groups(survey, draws)
    yield ledger_line(survey)
    meaning = lens_line(survey)
    if meaning:
        yield meaning
    if survey.certificate is not None and survey.certificate.passed:
        yield str(survey.certificate)


def last_site(survey: SurveyArrays) -> int:
    """Return the index of the site that stands for the output: the last of its component."""
    return survey.output_site if survey.output_site >= 0 else survey.layer_sites[-1]


def last_site_words(survey: SurveyArrays) -> str:
    """Return the last layer, and whether it is the model's own output."""
    label = site_label(survey.sites[last_site(survey)])
    return f"{label}, the model's output" if survey.output_site >= 0 else f"{label}, the last read"


def _accuracy(survey: SurveyArrays, control: str | None, draws: Draws) -> str:
    """Return in how many items the answer is the top token at the end."""
    own, other = Wanted(ACCURACY), Wanted(ACCURACY, control)
    found = joint_intervals(survey, [own, other], [last_site(survey)], draws=draws)
    words = f"at {last_site_words(survey)}, the answer is top-1 in {_at(found[own], ACCURACY)}"
    if control is not None:
        words += f"; control {_at(found[other], ACCURACY)}"
    return words


def _passes(survey: SurveyArrays, control: str | None, draws: Draws) -> str:
    """Return in how many items the answer is among the first tokens of some layer."""
    own = pass_at_k(survey, [PASS_K], draws=draws)
    n_layers = len(survey.layer_sites)
    words = (
        f"pass@{PASS_K}: the answer is among the first {PASS_K} tokens of at least one of "
        f"{n_layers} layers in {_share(own.interval)} (n {own.n_items:,}"
    )
    if n_clusters(survey) is not None:
        words += ", each cluster counts the same"
    words += ")"
    if control is not None:
        other = pass_at_k(survey, [PASS_K], control=control, draws=draws)
        words += f"; control {_share(other.interval)}"
    return words


def _share(numbers: Interval) -> str:
    """Return a share in per cent with its interval."""
    estimate, low, high = (float(ends[0]) for ends in numbers[:3])
    return find_name(ACCURACY).with_interval(estimate, low, high)


def _at(numbers: Interval, metric: str) -> str:
    """Return a metric at one site with its interval and its n."""
    estimate, low, high = (float(ends[0]) for ends in numbers[:3])
    return f"{find_name(metric).with_interval(estimate, low, high)} (n {int(numbers.n[0]):,})"


def _leaves_control(
    survey: SurveyArrays, metrics: tuple[str, ...], control: str, draws: Draws
) -> Iterator[str]:
    """Yield from which layer on each metric is better than its control."""
    if number_drawn(survey) < MIN_CLUSTERS:
        yield "too few to say where the answer leaves its control"
        return
    confidence = f"{100 * draws.confidence:g}%"
    for metric, site in first_beyond_control(survey, metrics, control, draws).items():
        title = find_name(metric).title
        if site is None:
            yield f"{title} does not leave its control: at the last layer it is no better"
            continue
        yield (
            f"{title} leaves its control at {site_label(site)} and stays beyond it ({confidence} "
            f"interval of the paired difference above 0){_not_readable(survey, site)}"
        )


def _not_readable(survey: SurveyArrays, site: Site) -> str:
    """Return that the lens cannot be read at a site in most items; empty where it can."""
    if 2 * survey.readable[:, survey.sites.index(site)].sum() >= len(survey):
        return ""
    return ", where this lens cannot be read in most items"


def _emergence(
    found: EmergenceMedian, survey: SurveyArrays, control: str | None, draws: Draws
) -> str:
    """Return when the answer emerges in half of the items, and in how many it never does."""
    share = find_name("emerged")
    never = share.with_interval(*(float(end) for end in found.never[:3]))
    if found.site is None:
        words = f"the answer is never top-1 to the end in {never} of the items (n {found.n:,})"
    else:
        words = f"the answer emerges (is top-1 to the end) at {site_label(found.site)}"
        if found.has_interval and found.low is not None:
            until = "never" if found.high is None else str(found.high)
            words += f" [{found.low}, {until}]"
        words += f" in half of the items (n {found.n:,}, those without it counted as last)"
        words += f"{_not_readable(survey, found.site)}; never in {never}"
    if control is not None:
        last = Wanted("emerged", control)
        series = survey.layer_sites
        numbers = joint_intervals(survey, [last], [series[-1]], draws=draws)[last]
        lost = share.with_interval(
            *(1 - float(ends[0]) for ends in (numbers.estimate, numbers.high, numbers.low))
        )
        words += f"; control: never in {lost}"
    return words


def _groups(survey: SurveyArrays, draws: Draws) -> Iterator[str]:
    """Yield which groups differ from all the others at the end."""
    n_groups = len(survey.groups)
    if n_groups < 2:
        return
    if n_groups > MAX_COMPARED:
        yield f"{n_groups} groups: too many to compare each with the others"
        return
    found = group_differences(survey, ACCURACY, last_site(survey), draws)
    compared = [each for each in found if np.isfinite(each.difference.low)]
    if not compared:
        yield "groups: too few clusters in each to compare them"
        return
    differing = [each for each in compared if each.differs]
    differing.sort(key=lambda each: -abs(float(each.difference.estimate)))
    where = site_label(survey.sites[last_site(survey)])
    corrected = f"intervals hold for {counted(n_groups, 'group')} at once"
    if not differing:
        yield f"no group is told apart from the others by accuracy@1 at {where} ({corrected})"
        return
    words = [_difference(each) for each in differing[:GROUPS_IN_FULL]]
    if len(differing) > GROUPS_IN_FULL:
        words.append(f"and {len(differing) - GROUPS_IN_FULL} more")
    yield (
        f"{len(differing)} of {counted(n_groups, 'group')} differ from the others in accuracy@1 at "
        f"{where} ({corrected}): {'; '.join(words)}"
    )


def _difference(each: GroupDifference) -> str:
    """Return how far a group is from the others.

    Example: "“capitals” 83% [58, 100] (n 12), +75 [+41, +100] points".
    """
    own = find_name(ACCURACY).with_interval(*(float(end) for end in each.own[:3]))
    estimate, low, high = (100 * float(end) for end in each.difference[:3])
    return (
        f"“{group_name(each.group)}” {own} (n {int(each.own.n)}), "
        f"{estimate:+.0f} [{low:+.0f}, {high:+.0f}] points"
    )
