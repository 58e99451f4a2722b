"""What a table of a survey says, in whatever format: its columns, its rows and its notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.sites import layer_series, selected_sites, thinned_sites
from lens_recipes.arrays.statistics.resampling import Interval
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, use_median
from lens_recipes.arrays.survey.findings import usable_control
from lens_recipes.arrays.survey.joint import OVER_SITES, Wanted, is_beyond, joint_intervals
from lens_recipes.arrays.survey.metrics import WITHOUT_ANSWER, item_values
from lens_recipes.arrays.survey.names import MetricName, control_in_words, find_name
from lens_recipes.arrays.text import counted
from lens_recipes.caller import argument
from lens_recipes.views.summaries.survey.words import (
    group_names,
    interval_line,
    ledger_line,
    model_words,
    number_drawn,
    proof_lines,
    size_words,
    small_groups_line,
)

TABLE_ROWS = 20  # about so many; beyond that layers are left out, unless the caller asks otherwise

ALL_METRICS = (
    "accuracy@1",
    "accuracy@5",
    "accuracy@10",
    "rank",
    "reciprocal_rank",
    "logprob",
    "logit_diff",
    "entropy",
    "kl",
    "agreement",
)

# Of an article, whose pages are narrow.
LATEX_METRICS = ("accuracy@1", "accuracy@10", "rank", "logprob", "kl")

# In a narrow text these have a column as long as there is room, the first ones longest.
MOST_WANTED = (
    "accuracy@1",
    "rank",
    "kl",
    "logprob",
    "logit_diff",
    "accuracy@10",
    "entropy",
    "agreement",
    "accuracy@5",
    "reciprocal_rank",
)

NOT_BEYOND = "°"  # beside a number that its control could have as well

ALL_ITEMS = "all"  # the column of all groups together
CONTROL = "control"
CONTROL_OF = "the control of "


class Cell(NamedTuple):
    """A number with its interval and its mark, as texts; each is empty where there is none."""

    number: str
    interval: str = ""
    mark: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.number + self.mark, self.interval)))


class SurveyColumn(NamedTuple):
    """A column.

    Attributes:
        heading: What it is called, on one line; it may hold anything that a group's name may.
        n: " (n 12)" for a group of twelve items; else empty.
        name: What it is called where it has no room, beside others that have none either.
        cells: One for each row.
        rank: How much it is wanted: where there is no room, those of high rank are left out first.
    """

    heading: str
    n: str
    name: str
    cells: list[Cell]
    rank: int


class SurveyTable(NamedTuple):
    """A table of a survey.

    Attributes:
        title: What is above it.
        rows: The name of each row.
        row_heading: What a row is.
        columns: From left to right, without the names of the rows.
        notes: What a reader must know, below it.
        mark: A warning that stands above all; empty for none.
    """

    title: str
    rows: list[str]
    row_heading: str
    columns: list[SurveyColumn]
    notes: list[str]
    mark: str


class Asked(NamedTuple):
    """What a caller asks of a table.

    Attributes:
        metrics: Which metrics.
        by_group: Whether the columns are groups, of one metric.
        group: Of which items; None for all.
        control: What stands in the answer's place beside it; None for nothing.
        site_indices: Which sites have a row.
        sites_note: Which of them a stride left out; empty for none.
        draws: How intervals are made.
    """

    metrics: list[str]
    by_group: bool
    group: str | None
    control: str | None
    site_indices: list[int]
    sites_note: str
    draws: Draws


def asked_of(
    survey: SurveyArrays,
    metric: str | Sequence[str] | None,
    by: str | None,
    group: str | None,
    control: str | None,
    component: str | None,
    stride: int | None,
    draws: Draws,
) -> Asked:
    """Return what a caller asks, checked.

    Raises:
        ValueError: an unknown metric, group, control or component, or several metrics by group.
    """
    metrics = metrics_asked(survey, metric, by)
    for name in metrics:
        find_name(name)
    survey.items_of(group)
    chosen_control = control_of(survey, control)
    if any(name in OVER_SITES for name in metrics):
        selected = layer_series(survey.sites, component)
        if selected != survey.layer_sites:
            raise ValueError(f'{argument("component", component)}: "emerged" follows the stream.')
    else:
        selected = selected_sites(survey.sites, None, component)
    rows = thinned_sites(survey.sites, selected, _stride(survey, selected, stride))
    note = ""
    if len(rows) < len(selected):
        noun = "layers" if len({survey.sites[row].component for row in selected}) == 1 else "sites"
        shown = f"{len(rows)} of {len(selected)} {noun}"
        note = f"{shown}, counted from the last; {argument('stride', 1)} shows all"
    return Asked(metrics, by is not None, group, chosen_control, rows, note, draws)


def metrics_asked(
    survey: SurveyArrays, metric: str | Sequence[str] | None, by: str | None
) -> list[str]:
    """Return the metrics that are meant.

    Raises:
        ValueError: an unknown `by`, or several metrics with it.
    """
    if by not in (None, "group"):
        raise ValueError(f'{argument("by", by)} is unknown: accepted are None and "group".')
    if by == "group":
        if metric is not None and not isinstance(metric, str):
            raise ValueError(
                f"{argument('metric', metric)}: a table by group is about one metric, such as "
                '"accuracy@1".'
            )
        return [(survey.shown.metrics or ("accuracy@1",))[0] if metric is None else metric]
    if metric is None and survey.shown.metrics is not None:
        return list(survey.shown.metrics)
    if metric is None:
        has_against = bool(np.isfinite(survey.against_logprobs).any())
        return [name for name in ALL_METRICS if name != "logit_diff" or has_against]
    if isinstance(metric, str) or not isinstance(metric, Iterable):
        return [metric]
    names = list(metric)
    if not names:
        raise ValueError("metric is empty: name one or more, or leave it out for all.")
    return names


def control_of(survey: SurveyArrays, control: str | None) -> str | None:
    """Return the control that is shown: the one that is asked for, or the first that items have.

    Args:
        survey: The survey.
        control: "auto", "shuffle" or "random"; None for no control.

    Raises:
        ValueError: another one.
    """
    if control == "auto":
        return usable_control(survey)
    if control is not None:
        item_values(survey, "accuracy@1", control)  # checks it
    return control


def _stride(survey: SurveyArrays, selected: list[int], stride: int | None) -> int:
    """Return the stride that leaves about `TABLE_ROWS` rows, unless the caller names one."""
    if stride is not None:
        return stride
    n_layers = len({survey.sites[index].layer for index in selected})
    return max(1, math.ceil(n_layers / TABLE_ROWS))


# -- the two tables ----------------------------------------------------


def survey_content(survey: SurveyArrays, asked: Asked) -> SurveyTable:
    """Return layers × metrics, or layers × groups of one metric."""
    if asked.by_group:
        columns = list(_group_columns(survey, asked))
        title = f"{find_name(asked.metrics[0]).title} by group"
    else:
        columns = list(_metric_columns(survey, asked))
        title = "Survey"
    components = {survey.sites[index].component for index in asked.site_indices}
    return SurveyTable(
        title=f"{title}: {size_words(survey, asked.group)}; {model_words(survey)}",
        rows=[str(survey.sites[index]) for index in asked.site_indices],
        row_heading="layer" if components == {"resid_post"} else "site",
        columns=columns,
        notes=list(_notes(survey, asked, columns)),
        mark=survey.mark,
    )


def _metric_columns(survey: SurveyArrays, asked: Asked) -> Iterator[SurveyColumn]:
    """Yield a column for each metric, and beside it one for its control."""
    numbers = _numbers(survey, asked, asked.group)
    for metric in asked.metrics:
        name = find_name(metric)
        wanted = len(MOST_WANTED)
        if metric in MOST_WANTED:
            wanted = MOST_WANTED.index(metric)
        cells = _metric_cells(numbers, metric, asked)
        yield SurveyColumn(name.heading, "", name.heading, cells, 2 * wanted)
        if name.has_control and asked.control is not None:
            heading = _control_heading(survey, name, asked)
            late = 2 * len(MOST_WANTED) if wanted else 0  # that of the first metric goes last
            cells = _cells(name, numbers[Wanted(metric, asked.control)], None)
            called = f"{CONTROL_OF}{name.heading}"
            yield SurveyColumn(heading, "", called, cells, 2 * wanted + 1 + late)


def _group_columns(survey: SurveyArrays, asked: Asked) -> Iterator[SurveyColumn]:
    """Yield a column for all items, one for their control, and one for each group."""
    metric = asked.metrics[0]
    name = find_name(metric)
    groups = survey.groups if asked.group is None else [asked.group]
    numbers = _numbers(survey, asked, asked.group)
    if len(groups) > 1:
        cells = _metric_cells(numbers, metric, asked)
        yield SurveyColumn(ALL_ITEMS, "", ALL_ITEMS, cells, 0)
    if name.has_control and asked.control is not None:
        heading = _control_heading(survey, name, asked)
        cells = _cells(name, numbers[Wanted(metric, asked.control)], None)
        yield SurveyColumn(heading, "", "the control", cells, 1)
    sizes = [len(survey.items_of(group)) for group in groups]
    order = sorted(range(len(groups)), key=lambda index: -sizes[index])
    names = group_names(groups)
    for index, group in enumerate(groups):
        size = f" (n {sizes[index]:,})"
        cells = _metric_cells(_numbers(survey, asked, group), metric, asked)
        yield SurveyColumn(names[index], size, names[index], cells, 2 + order.index(index))


def _control_heading(survey: SurveyArrays, name: MetricName, asked: Asked) -> str:
    """Return what a column of a control is called; it says so where it holds a mean of ranks."""
    if name.unit != "rank":
        return CONTROL
    values = item_values(survey, name.name, asked.control)[survey.items_of(asked.group)]
    return CONTROL if use_median(name.name, values) else f"{CONTROL}, mean"


# -- cells -------------------------------------------------------------


def _numbers(survey: SurveyArrays, asked: Asked, group: str | None) -> dict[Wanted, Interval]:
    """Return the numbers of all columns of some items, and how far they are from their control."""
    wanted = []
    for metric in asked.metrics:
        wanted.append(Wanted(metric))
        if find_name(metric).has_control and asked.control is not None:
            wanted.append(Wanted(metric, asked.control))
            wanted.append(Wanted(metric, minus=asked.control))
    return joint_intervals(survey, wanted, asked.site_indices, group=group, draws=asked.draws)


def _metric_cells(numbers: dict[Wanted, Interval], metric: str, asked: Asked) -> list[Cell]:
    """Return a metric at each row, marked where its control is as good."""
    is_no_better = None
    difference = numbers.get(Wanted(metric, minus=asked.control)) if asked.control else None
    if difference is not None:
        is_no_better = np.isfinite(difference.low) & ~is_beyond(metric, difference)
    return _cells(find_name(metric), numbers[Wanted(metric)], is_no_better)


def _cells(name: MetricName, interval: Interval, is_no_better: np.ndarray | None) -> list[Cell]:
    """Return the cells of a curve."""
    cells = []
    for row in range(len(interval.estimate)):
        estimate, low, high = (float(ends[row]) for ends in interval[:3])
        mark = "" if is_no_better is None or not is_no_better[row] else NOT_BEYOND
        cells.append(Cell(name.number(estimate), name.interval(low, high), mark))
    return cells


# -- notes -------------------------------------------------------------


def _notes(survey: SurveyArrays, asked: Asked, columns: list[SurveyColumn]) -> Iterator[str]:
    """Yield what a reader must know about the table."""
    if asked.sites_note:
        yield asked.sites_note
    yield interval_line(survey, asked.group, asked.draws)
    if asked.by_group and small_groups_line(survey):
        yield small_groups_line(survey)
    if any(column.heading.startswith(CONTROL) for column in columns):
        yield f"{CONTROL}: {control_in_words(asked.control)}"
    if any(cell.mark for column in columns for cell in column.cells):
        yield f"{NOT_BEYOND}: no better than the control"
    if any(_is_flat(cell) for column in columns for cell in column.cells):
        yield flat_interval_line(survey, asked)
    yield from _missing_numbers(survey, asked)
    units = sorted({find_name(metric).unit for metric in asked.metrics} & {"nats"})
    if units:
        nats = [find_name(m).heading for m in asked.metrics if find_name(m).unit == "nats"]
        yield f"{', '.join(nats)}: in nats"
    yield ledger_line(survey)
    yield from proof_lines(survey)


def _is_flat(cell: Cell) -> bool:
    """Return whether all items are alike, so that no resample differs."""
    return cell.interval in ("[0, 0]", "[100, 100]") and cell.number in ("0%", "100%")


def flat_interval_line(survey: SurveyArrays, asked: Asked) -> str:
    """Return what an interval without a width does not say."""
    sizes = [number_drawn(survey, asked.group)]
    if asked.by_group:
        sizes += [number_drawn(survey, group) for group in survey.groups]
    smallest = min(sizes)
    reach = 1 - (1 - asked.draws.confidence) ** (1 / smallest)
    return (
        f"0% and 100% have intervals without width: in {smallest} draws, a true share of up to "
        f"{100 * reach:.0f}%, or down to {100 - 100 * reach:.0f}%, may look so"
    )


def _missing_numbers(survey: SurveyArrays, asked: Asked) -> Iterator[str]:
    """Yield how many items have a number, where not all of them do."""
    indices = survey.items_of(asked.group)
    n_items = counted(len(indices), "item")
    for metric in asked.metrics:
        if metric in OVER_SITES or metric in WITHOUT_ANSWER:
            continue
        name = find_name(metric)
        n_known = int(np.isfinite(item_values(survey, metric)[indices]).any(1).sum())
        if n_known < len(indices):
            yield f"{name.heading}: of the {n_known} of {n_items} that have one"
    if asked.control is None or not any(find_name(metric).has_control for metric in asked.metrics):
        return
    values = item_values(survey, "accuracy@1", asked.control)[indices]
    n_known = int(np.isfinite(values).any(1).sum())
    if n_known < len(indices):
        yield f"{CONTROL}: of the {n_known} of {n_items} that have one"
