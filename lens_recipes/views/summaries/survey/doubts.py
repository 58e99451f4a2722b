"""Why a reader should distrust a survey, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.arrays.sites import main_component
from lens_recipes.arrays.statistics.resampling import MIN_CLUSTERS
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws
from lens_recipes.arrays.survey.findings import usable_control
from lens_recipes.arrays.survey.merge import part_words
from lens_recipes.arrays.survey.metrics import item_values
from lens_recipes.arrays.text import counted
from lens_recipes.views.summaries.survey.words import (
    n_clusters,
    number_drawn,
    small_groups_line,
)
from lens_recipes.views.summaries.transfer import transfer_doubts
from lens_recipes.views.summaries.trust import WHY

FEW = 20  # clusters: with fewer an interval is rough
CHOSEN_BY_ANSWER = "the model's own answer is another"  # a reason of the ledger
MANY_LEFT_OUT = 0.2  # of the items: those that remain are a selection


def survey_doubts(survey: SurveyArrays, draws: Draws) -> Iterator[str]:
    """Yield the reasons to distrust a survey, the gravest first."""
    if survey.certificate is None:
        yield "no certificate: nothing was compared with the model's own output"
    elif not survey.certificate.passed:
        yield str(survey.certificate)
    yield from _size_doubts(survey, draws)
    yield from _control_doubts(survey)
    yield from _ledger_doubts(survey)
    unreadable = unreadable_words(survey)
    if unreadable:
        yield f"{unreadable}: {WHY}. Do not quote their top tokens or date an answer by them"
    yield from _position_doubts(survey)
    yield from transfer_doubts(survey)
    yield from _template_doubts(survey)


def unreadable_words(survey: SurveyArrays) -> str:
    """Return which layers cannot be read in most items; empty where all can.

    Example: "in most items, layers 0–23 cannot be read with this lens".
    """
    series = survey.layer_sites
    is_readable = survey.readable[:, series]
    is_unreadable = 2 * is_readable.sum(0) < len(survey)
    if not is_unreadable.any():
        return ""
    layers = [survey.sites[series[place]].layer or 0 for place in np.flatnonzero(is_unreadable)]
    component = main_component(survey.sites)
    of_component = "" if component == "resid_post" else f"{component} of "
    lens = "lens" if survey.lens.is_logit else survey.lens.name
    place = f"{of_component}{layers_in_words(tuple(layers))} cannot be read with this {lens}"
    if not is_readable[:, is_unreadable].any():
        return place
    return f"in most items, {place}"


def _size_doubts(survey: SurveyArrays, draws: Draws) -> Iterator[str]:
    """Yield that there are few items or clusters, and where an interval has no width."""
    number = number_drawn(survey)
    noun = "item" if n_clusters(survey) is None else "cluster"
    if number < MIN_CLUSTERS:
        yield (
            f"{counted(number, noun)} only, so there are no intervals: at least {MIN_CLUSTERS} "
            "are needed to say anything of others"
        )
    elif number < FEW:
        yield f"{counted(number, noun)} only: with fewer than {FEW} an interval is rough"
    if number >= MIN_CLUSTERS and small_groups_line(survey):
        yield small_groups_line(survey)
    accuracy = item_values(survey, "accuracy@1")[:, survey.layer_sites[-1]]
    if np.isfinite(accuracy).all() and len(set(accuracy.tolist())) == 1:
        reach = 100 * (1 - (1 - draws.confidence) ** (1 / number))
        yield (
            f"all items have the same accuracy@1 at the last layer, so its interval has no width: "
            f"up to {reach:.0f}% of others may be different"
        )


def _control_doubts(survey: SurveyArrays) -> Iterator[str]:
    """Yield that there is no control, or only the weaker one."""
    control = usable_control(survey)
    if control is None:
        yield "no control: nothing says what another answer would have had"
    elif control == "random" and survey.shown.control != control:
        yield (
            "all items of a group have the same answer, so none can stand for another's: a random "
            "token is a weak control"
        )


def _ledger_doubts(survey: SurveyArrays) -> Iterator[str]:
    """Yield that many items are missing, or that those that are left were chosen by the answer."""
    part = part_words(survey)
    if part:
        yield f"these are {part} of the items: Survey.merge joins all of them"
    n_left_out = len(survey.left_out)
    share = n_left_out / (n_left_out + len(survey))
    if share > MANY_LEFT_OUT:
        yield f"{share:.0%} of the items were left out: the others are a selection"
    if any(reason == CHOSEN_BY_ANSWER for _, _, reason, _ in survey.left_out):
        yield (
            "items that the model answers otherwise were left out: its accuracy at the output says "
            "nothing"
        )


def _position_doubts(survey: SurveyArrays) -> Iterator[str]:
    """Yield how many items are read where the lens was never fitted."""
    n_unfitted = int(survey.unfitted.sum())
    if n_unfitted:
        lens = survey.lens
        yield (
            f"{n_unfitted} of {counted(len(survey), 'item')} are read before position "
            f"{lens.first_position}, where this {lens.name} was never fitted"
        )


def _template_doubts(survey: SurveyArrays) -> Iterator[str]:
    """Yield what the items can say nothing of: prompts of another kind."""
    clusters = n_clusters(survey)
    if clusters is None:
        yield (
            "the items have no clusters, so they count as independent: where they share templates, "
            "intervals are too narrow, and a survey of one template says little of others. "
            'Give items a "cluster", such as their template'
        )
        return
    yield (
        f"intervals are about other clusters like these {clusters}: prompts of one template, or of "
        "one kind, say little of others"
    )
