"""The cells of a patch map that recover most, as text, Markdown or tab-separated values."""

from __future__ import annotations

import csv
import io
import math
from typing import NamedTuple

from rich.text import Text

from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.caller import argument
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.tables.grids import WIDEST, console_text, empty_grid, string_console
from lens_recipes.views.tables.markdown.syntax import Column, escape_sentence, pipe_table
from lens_recipes.views.tables.programs.tsv import text_field
from lens_recipes.views.words import minus

FORMATS = ("text", "markdown", "tsv")


class CellRow(NamedTuple):
    """A cell as a table shows it."""

    name: str
    recovery: str
    interval: str
    flipped: str


def patch_table(result: PatchMapArrays, *, show_top: int = 10, format: str = "text") -> str:
    """Return a map's cells as a table. See `PatchMap.table`.

    Raises:
        ValueError: an unknown format, or no number of cells.
    """
    if format not in FORMATS:
        accepted = ", ".join(map(repr, FORMATS))
        raise ValueError(f"{argument('format', format)} is unknown: accepted are {accepted}.")
    if type(show_top) is not int or show_top < 1:
        raise ValueError(f"{argument('show_top', show_top)} must be a number of cells, from 1.")
    if format == "tsv":
        return tsv_of(result)
    rows = [cell_row(result, row, column) for row, column in result.largest(show_top)]
    heading = headline(result)
    shown = f"{len(rows)} of {result.mean.size} cells, the largest first"
    if format == "markdown":
        columns = [Column("cell", False), *(Column(name, True) for name in NUMBER_COLUMNS)]
        cells = [[escape_sentence(each) for each in cell] for cell in rows]
        table = pipe_table(columns, cells)
        return f"{escape_sentence(heading)}\n\n{table}\n\n{escape_sentence(shown)}"
    grid = empty_grid()
    grid.add_column("cell")
    for name in NUMBER_COLUMNS:
        grid.add_column(name, justify="right")
    for cell in rows:
        grid.add_row(*(Text(escape_terminal(each)) for each in cell))
    console = string_console(WIDEST)
    console.print(Text(escape_terminal(heading)))
    console.print(grid)
    console.print(Text(f"({shown})"))
    return console_text(console)


NUMBER_COLUMNS = ("recovery", "95 % interval", "flips")


def headline(result: PatchMapArrays) -> str:
    """Return the first line of a table: what was patched, in how many pairs, and the mark."""
    model = result.provenance.get("model", "model")
    mark = f"; {result.mark}" if result.mark else ""
    return f"{model}: {result.unit}, {result.direction}, {result.metric}; {result.size}{mark}"


def cell_row(result: PatchMapArrays, row: int, column: int) -> CellRow:
    """Return the texts of one cell."""
    low, high = result.interval.low[row, column], result.interval.high[row, column]
    interval = "–"
    if not math.isnan(low):
        interval = minus(f"{low:+.2f} to {high:+.2f}")
    flipped = result.flipped[row, column]
    return CellRow(
        name=result.cell_name(row, column),
        recovery=minus(f"{result.mean[row, column]:+.3f}"),
        interval=interval,
        flipped="–" if math.isnan(flipped) else f"{flipped:.0%}",
    )


def tsv_of(result: PatchMapArrays) -> str:
    """Return every cell as a row of tab-separated values, numbers in six digits."""
    file = io.StringIO()
    writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
    writer.writerow(
        ["layer", "column", "recovery", "standard_error", "low", "high", "flipped", "is_causal"]
    )
    for row, layer in enumerate(result.layers):
        for column, name in enumerate(result.columns):
            if math.isnan(result.mean[row, column]):
                continue
            numbers = (
                result.mean[row, column],
                result.standard_error[row, column],
                result.interval.low[row, column],
                result.interval.high[row, column],
                result.flipped[row, column],
            )
            fields = [f"{number:.6g}" for number in numbers]
            causal = int(result.is_causal[row, column])
            writer.writerow([layer, text_field(name.replace("−", "-")), *fields, causal])
    return file.getvalue().removesuffix("\n")
