"""Print a table, and below it what to distrust."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import typer

from lens_recipes.cli.common.outputs import STDOUT, stdout_console, write_for_programs
from lens_recipes.terminal import escape_terminal


class TableFormat(StrEnum):
    """A format of the table."""

    text = "text"
    markdown = "markdown"
    tsv = "tsv"
    json = "json"


def check_format(table_format: TableFormat | None, json_path: str | None) -> None:
    """Refuse a format of the table where there is no table."""
    if table_format is not None and json_path == STDOUT:
        raise typer.BadParameter(
            "--json - writes the result to stdout instead of the table: name a file, or leave one "
            "out.",
            param_hint="--format",
        )


def print_table(
    result: Any, table_format: TableFormat | None, width: int | None = None, **options: Any
) -> None:
    """Print the table in its format, which by default is text."""
    from lens_recipes.views.tables.table import render, table

    if table_format in (None, TableFormat.text):
        render(result, stdout_console(width), **options)
    else:
        shown = table(result, format=str(table_format), width=width, **options)
        write_for_programs(shown + "\n")


def print_doubts(
    result: Any, table_format: TableFormat | None = None, beside: Sequence[Any] = ()
) -> None:
    """Print why a reader should distrust a result, and those beside it, below its table.

    What programs read stays as it is: beside it, the lines go to stderr.
    """
    lines = []
    for each in (result, *beside):
        lines += [f"distrust: {doubt}" for doubt in doubts_beside_table(each)]
    lines = list(dict.fromkeys(lines))
    if not lines:
        return
    if table_format in (None, TableFormat.text):
        from rich.text import Text

        console = stdout_console()
        for line in lines:
            console.print(Text(line, style="yellow"), soft_wrap=True)
    elif table_format is TableFormat.markdown:
        from lens_recipes.views.tables.markdown.syntax import escape_sentence

        items = [f"- {escape_sentence(escape_terminal(line))}" for line in lines]
        write_for_programs("\n" + "\n".join(items) + "\n")
    else:
        for line in lines:
            print(escape_terminal(line), file=sys.stderr)


def doubts_beside_table(result: Any) -> Iterator[str]:
    """Yield the doubts of a result but those that its table says itself."""
    from lens_recipes.arrays.attribution import AttributionArrays
    from lens_recipes.views.summaries.attribution import attribution_doubts
    from lens_recipes.views.summaries.doubts import lens_doubts

    find_doubts: Any = lens_doubts
    if isinstance(result, AttributionArrays):
        find_doubts = attribution_doubts
    for doubt in find_doubts(result):
        if doubt not in (result.mark, str(result.certificate)):
            yield doubt
