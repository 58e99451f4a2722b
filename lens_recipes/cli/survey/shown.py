"""Print what `lens-recipes survey` found: one survey, or several lenses side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lens_recipes.cli.common.outputs import write_for_programs
from lens_recipes.terminal import escape_terminal

DEFAULT_METRIC = "accuracy@1"


def print_survey(
    result: Any,
    table_format: str | None,
    *,
    summary: bool,
    metric: list[str] | None = None,
    by: str | None = None,
    stride: int | None = None,
    width: int | None = None,
) -> None:
    """Print the table of a survey, or its summary."""
    if not len(result):  # a shard without items
        is_for_programs = table_format in ("tsv", "json") and not summary
        print(escape_terminal(str(result)), file=sys.stderr if is_for_programs else None)
        if table_format == "json" and not summary:
            write_for_programs("[]\n")
        return
    if summary:
        write_for_programs(result.summary() + "\n")
        return
    one_or_more = metric[0] if metric and len(metric) == 1 else metric
    table = result.table(
        metric=one_or_more, by=by, stride=stride, width=width, format=table_format or "text"
    )
    print_text(table, table_format)


def print_difference(
    result: Any,
    other: Any,
    metric: list[str] | None,
    table_format: str | None,
    stride: int | None,
) -> None:
    """Print how a survey differs from one that was saved before, below its own table.

    For programs all metrics are in one table.
    """
    if table_format in ("tsv", "json"):
        from lens_recipes.views.tables.survey.comparison import comparison_rows
        from lens_recipes.views.tables.survey.rows import json_of, tsv_of

        compared = [other.compare(result, name) for name in metric or [DEFAULT_METRIC]]
        rows = chain.from_iterable(comparison_rows(each) for each in compared)
        print_text((tsv_of if table_format == "tsv" else json_of)(rows), table_format)
        return
    print()
    for name in metric or [DEFAULT_METRIC]:
        difference = other.compare(result, name)
        table = difference.table(
            names=("the saved one", "this one"), stride=stride, format=table_format or "text"
        )
        print_text(table, table_format)


def print_lenses(
    surveys: Mapping[str, Any],
    table_format: str | None,
    *,
    summary: bool,
    metric: list[str] | None,
    stride: int | None,
) -> None:
    """Print pass@k of several lenses side by side, and how each differs from the first."""
    from lens_recipes.arrays.survey.names import control_in_words
    from lens_recipes.arrays.survey.pass_table import pass_table
    from lens_recipes.views.summaries.survey.words import passes_line
    from lens_recipes.views.tables.survey.rows import json_of, tsv_of

    if summary:
        for survey in surveys.values():
            write_for_programs(survey.summary() + "\n\n")
        return
    first_name, first = next(iter(surveys.items()))
    control = first.shown.control
    own = pass_table(surveys, draws=first.draws)
    of_control = (
        None if control is None else pass_table(surveys, control=control, draws=first.draws)
    )
    if table_format in ("tsv", "json"):
        rows = [{"control": None, **row} for row in own.rows()]
        if of_control is not None:
            rows += [{"control": control, **row} for row in of_control.rows()]
        print_text((tsv_of if table_format == "tsv" else json_of)(iter(rows)), table_format)
        return
    print_text(f"{passes_line(first)}\n", table_format)
    print_text(own.markdown() if table_format else str(own), table_format)
    if control is not None and of_control is not None:
        print_text(f"\nControl: {control_in_words(control)}\n", table_format)
        print_text(of_control.markdown() if table_format else str(of_control), table_format)
    for name, survey in surveys.items():
        if survey is first:
            continue
        for each in metric or [DEFAULT_METRIC]:
            difference = first.compare(survey, each)
            table = difference.table(
                names=(first_name, name), stride=stride, format=table_format or "text"
            )
            print_text(f"\n{table}", table_format)
    for name, survey in surveys.items():
        print_text(f"\n{name}: {survey.certificate}", table_format)


def print_text(text: str, table_format: str | None) -> None:
    """Print a table: escaped for a terminal, or as it is for programs."""
    if table_format in (None, "text"):
        print(escape_terminal(text))
    else:
        write_for_programs(text + "\n")


def names_of_lenses(sources: Sequence[str]) -> list[str]:
    """Return what tables and folders call each lens: the end of its path, no two the same."""
    from lens_recipes.views.summaries.survey.words import told_apart

    return told_apart([Path(source).name for source in sources])
