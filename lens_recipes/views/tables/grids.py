"""Grids of text that fit a width, and consoles that keep what is printed to them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.views.tables.console import open_console

NARROWEST, WIDEST = 40, 250  # columns of a text

Layout = TypeVar("Layout")


# -- consoles ----------------------------------------------------------


def string_console(width: int) -> Console:
    """Return a console that keeps what is printed to it, without colours.

    It does so in a notebook too, where rich would show the output instead.
    """
    return open_console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        legacy_windows=False,
        force_jupyter=False,
    )


def console_text(console: Console) -> str:
    """Return what was printed to a `string_console`, without the blanks at the ends of lines."""
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def print_title(console: Console, text: str) -> None:
    """Print the title of a section below a blank line."""
    console.print(Text(f"\n{text}", style="bold"))


def print_note(console: Console, text: str) -> None:
    """Print a remark on the grid above it, in brackets."""
    console.print(Text(f"({text})", style="dim"))


# -- grids -------------------------------------------------------------


def empty_grid(*, header: bool = True) -> Table:
    """Return a table without lines, to which columns and rows are added."""
    return Table(box=None, pad_edge=False, show_header=header, header_style="dim")


def fits(console: Console, grid: Table) -> bool:
    """Check whether a console is wide enough to show every cell of a grid uncut."""
    unlimited = console.options.update(max_width=10_000)
    return console.measure(grid, options=unlimited).maximum <= console.width


def first_fit(
    console: Console, layouts: Iterable[Layout], build_grid: Callable[[Layout], Table]
) -> tuple[Layout, Table]:
    """Return the first layout whose grid fits the console, and this grid; else the last layout.

    Args:
        console: Where the grid will be printed.
        layouts: At least one, the preferred first.
        build_grid: Makes the grid of a layout.
    """
    for layout in layouts:
        grid = build_grid(layout)
        if fits(console, grid):
            break
    return layout, grid


def truncate(text: str, width: int, *, keep_end: bool = False) -> str:
    """Cut a text to the columns that it may take on a terminal, where 中 and 🙂 take two each.

    >>> truncate("capital", 5), truncate("capital", 5, keep_end=True), truncate("中文字", 5)
    ('capi…', '…ital', '中文…')
    """
    kept = text
    while kept and cell_len(text) > width:
        if keep_end:
            kept = kept[1:]
            text = f"…{kept}"
        else:
            kept = kept[:-1]
            text = f"{kept}…"
    return text
