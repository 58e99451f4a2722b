"""A table of a survey as text, as Markdown and as LaTeX: the same cells, and what stands below."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.views.tables.grids import (
    WIDEST,
    console_text,
    empty_grid,
    first_fit,
    print_note,
    string_console,
    truncate,
)
from lens_recipes.views.tables.markdown.syntax import (
    Column,
    escape_sentence,
    label_code,
    pipe_table,
    text_code,
)
from lens_recipes.views.tables.survey.content import CONTROL_OF, Cell, SurveyColumn, SurveyTable
from lens_recipes.views.tables.survey.latex import latex_document

ALARM_STYLE = "bold red"
HEADING_WIDTH = 24  # columns of the terminal that a heading may take
MISSING_NAMED = 16  # columns that a note names


def text_of(table: SurveyTable, width: int = WIDEST) -> str:
    """Return a table as plain text with lines of at most `width` columns."""
    console = string_console(width)
    print_survey_table(table, console)
    return console_text(console)


def print_survey_table(table: SurveyTable, console: Console) -> None:
    """Print a table as wide as the console; columns without room are left out, and named."""
    if table.mark:
        console.print(Text(table.mark, style=ALARM_STYLE))
    console.print(Text(table.title))
    ranks = sorted({column.rank for column in table.columns}, reverse=True)

    def build(rank: int) -> Table:
        """Return the grid of the columns up to a rank."""
        return _grid(table, [column for column in table.columns if column.rank <= rank])

    kept, grid = first_fit(console, ranks, build)
    console.print(grid)
    missing = missing_names([column for column in table.columns if column.rank > kept])
    if missing:
        print_note(console, f"no room for {in_short(missing)}")
    for note in table.notes:
        console.print(Text(note, style="dim"))


def _grid(table: SurveyTable, columns: Sequence[SurveyColumn]) -> Table:
    """Return a grid of some columns."""
    grid = empty_grid()
    grid.add_column(table.row_heading, no_wrap=True)
    for heading in short_headings(columns):
        grid.add_column(Text(heading), no_wrap=True)
    for number, row in enumerate(table.rows):
        cells = [_aligned(column, number) for column in columns]
        grid.add_row(Text(row), *map(Text, cells))
    return grid


def short_headings(columns: Sequence[SurveyColumn]) -> list[str]:
    """Return the headings of some columns, cut so that there is room for how many items it is."""
    names, seen = [], set()
    for number, column in enumerate(columns):
        name = truncate(column.heading, HEADING_WIDTH - len(column.n))
        if column.n and name in seen:
            name = f"{name} {number}"
        seen.add(name)
        names.append(f"{name}{column.n}")
    return names


def missing_names(columns: Sequence[SurveyColumn]) -> list[str]:
    """Return the names of columns without room; that of a metric stands for its control too."""
    names = [column.name for column in columns]
    shown = []
    for name in names:
        is_named_already = name.startswith(CONTROL_OF) and name[len(CONTROL_OF) :] in names
        if not is_named_already:
            shown.append(name)
    return shown


def in_short(names: Sequence[str]) -> str:
    """Return some names, or the first of many and how many more there are."""
    if len(names) <= MISSING_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:MISSING_NAMED])} and {len(names) - MISSING_NAMED} more"


def _aligned(column: SurveyColumn, number: int) -> str:
    """Return a cell whose numbers and intervals stand below those of the other rows."""
    widths = [len(cell.number + cell.mark) for cell in column.cells]
    ends = [len(cell.number) for cell in column.cells]
    cell = column.cells[number]
    left = cell.number.rjust(max(ends)) + cell.mark
    room = max(ends) + max(width - end for width, end in zip(widths, ends, strict=True))
    return f"{left.ljust(room)} {cell.interval}".rstrip()


# -- Markdown ----------------------------------------------------------


def markdown_of(table: SurveyTable) -> str:
    """Return a table as Markdown; its blocks are parted by blank lines."""
    columns = [Column(table.row_heading, numeric=True)]
    columns += [Column(_heading_code(column), numeric=True) for column in table.columns]
    rows = []
    for number, row in enumerate(table.rows):
        cells = [escape_sentence(str(column.cells[number])) for column in table.columns]
        rows.append([label_code(row), *cells])
    notes = "  \n".join(escape_sentence(note) for note in table.notes)
    blocks = [escape_sentence(table.title), pipe_table(columns, rows), notes]
    if table.mark:
        blocks.insert(0, f"**{escape_sentence(table.mark)}**")
    return "\n\n".join(blocks)


def _heading_code(column: SurveyColumn) -> str:
    """Return a heading; the name of a group is code."""
    if column.n:
        return f"{text_code(column.heading)}{column.n}"
    return escape_sentence(column.heading)


# -- LaTeX -------------------------------------------------------------


def latex_of(table: SurveyTable) -> str:
    """Return a table as LaTeX, for the package booktabs."""
    headings = [table.row_heading, *(column.heading + column.n for column in table.columns)]
    rows = []
    for number, row in enumerate(table.rows):
        cells = [column.cells[number] for column in table.columns]
        rows.append([Cell(row), *cells])
    notes = [table.mark, *table.notes] if table.mark else table.notes
    return latex_document(table.title, headings, rows, notes)
