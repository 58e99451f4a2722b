"""Rich consoles whose text is wanted as text."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROWEST, WIDEST = 40, 250  # columns of a text


def string_console(width: int) -> Console:
    """A console that keeps what is printed to it, without colours; in a notebook too, where rich would show it."""
    return Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        legacy_windows=False,
        force_jupyter=False,
    )


def console_text(console: Console) -> str:
    """What was printed to a `kept` console, without the blanks at the ends of lines."""
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def print_note(console: Console, text: str) -> None:
    """What is to be said of the grid above."""
    console.print(Text(f"({text})", style="dim"))


# -- grids that fit ----------------------------------------------------


def empty_grid(*, header: bool = True) -> Table:
    """A grid without lines."""
    return Table(box=None, pad_edge=False, show_header=header, header_style="dim")


def fits(console: Console, grid: Table) -> bool:
    """Whether no cell of a grid would have to be cut."""
    return (
        console.measure(grid, options=console.options.update(max_width=10_000)).maximum
        <= console.width
    )


def first_fit(console: Console, grids: Iterable[Table]) -> Table:
    """The first of some grids that fits, else the last."""
    for grid in grids:
        if fits(console, grid):
            break
    return grid


def truncate(text: str, width: int, *, keep_end: bool = False) -> str:
    """A text in at most so many columns of a terminal, where 中 and 🙂 have two.

    >>> cut("capital", 5), cut("capital", 5, keep_end=True), cut("中文字", 5)
    ('capi…', '…ital', '中文…')
    """
    whole = text
    while whole and cell_len(text) > width:
        whole = whole[1:] if keep_end else whole[:-1]
        text = f"…{whole}" if keep_end else f"{whole}…"
    return text
