"""Print the one table of many prompts, as much of it as the width takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.grids import empty_grid, first_fit, print_note, truncate
from lens_recipes.views.tables.lens.batch.table import (
    ANSWER_P,
    BatchColumn,
    BatchTable,
    Show,
    batch_table,
)
from lens_recipes.views.tables.lens.grid import ANSWER_STYLE, TOKEN_WIDTHS
from lens_recipes.views.tables.selection import Selection

# Columns of the terminal that a prompt may take, tried in turn.
PROMPT_WIDTHS = (60, 40, 28, 18)

# The columns that leave a narrow table, one after the other.
DISPENSABLE = ("other", ANSWER_P, "first readable", "probability", "place", "rank", "verdict")

NARROWEST_PROMPT = 10  # columns

SHORT_TOKEN = 13  # columns of a short token with a number

WRONG_STYLE = "yellow"


class Layout(NamedTuple):
    """How much a grid shows.

    Attributes:
        prompt_width: Columns of the terminal that a prompt may take.
        token_width: Columns that a token, or another target with its rank, may take.
        missing: Names of the columns that are left out.
    """

    prompt_width: int
    token_width: int
    missing: tuple[str, ...] = ()


def print_batch(result: LensArrays, console: Console, selection: Selection) -> None:
    """Print a row for each prompt, the columns that have no room, and the notes."""
    table = batch_table(result, selection, Show(visible_token, str))

    def build(layout: Layout) -> Table:
        """Return the grid in one layout."""
        return _build_grid(table, layout)

    layout, grid = first_fit(console, _layouts(), build)
    console.print(grid)
    left_out = []
    for column in table.columns:
        if column.name in layout.missing:
            left_out.append("p of the answer" if column.name == ANSWER_P else column.heading)
    if left_out:
        print_note(console, f"no room for {', '.join(left_out)}")
    for note in table.notes:
        console.print(Text(note, style="dim"))
    if selection.prompts_note:
        console.print(Text(f"\n{selection.prompts_note}"))


def _layouts() -> Iterator[Layout]:
    """Yield the layouts from the widest to the narrowest.

    Prompts lose their beginnings first, then tokens their ends, then columns go.
    """
    wide = TOKEN_WIDTHS[0]
    for prompt_width in PROMPT_WIDTHS:
        yield Layout(prompt_width, wide)
    for count in range(len(DISPENSABLE)):
        missing = DISPENSABLE[:count]
        yield Layout(PROMPT_WIDTHS[-1], wide, missing)
        yield Layout(NARROWEST_PROMPT, wide, missing)
        yield Layout(NARROWEST_PROMPT, SHORT_TOKEN, missing)
        if "other" in missing:  # no token has its number beside it
            yield Layout(NARROWEST_PROMPT, TOKEN_WIDTHS[-1], missing)
    yield Layout(NARROWEST_PROMPT, TOKEN_WIDTHS[-1], DISPENSABLE)


def _build_grid(table: BatchTable, layout: Layout) -> Table:
    """Return the grid in one layout."""
    shown = [column for column in table.columns if column.name not in layout.missing]
    is_narrow = layout.prompt_width < PROMPT_WIDTHS[0]
    grid = empty_grid()
    for column in shown:
        heading = column.heading.replace(" ", "\n") if is_narrow else column.heading
        if column.is_numeric:
            grid.add_column(Text(heading), justify="right", no_wrap=True)
        else:
            grid.add_column(Text(heading), no_wrap=True)
    for number, row in enumerate(table.rows):
        cells = []
        for column in shown:
            cell = Text(_cut(column, column.cells[number], layout))
            if column.name == "verdict":
                cell.stylize(ANSWER_STYLE if row.right else WRONG_STYLE)
            cells.append(cell)
        grid.add_row(*cells)
    return grid


def _cut(column: BatchColumn, cell: str, layout: Layout) -> str:
    """Return a cell cut to the room of its column."""
    if column.name == "prompt":
        return truncate(cell, layout.prompt_width, keep_end=True)
    if column.is_numeric:
        return cell
    return truncate(cell, layout.token_width)
