"""A table for a terminal: headings, grids and notes on a rich console, no line wider than it is."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._table import PROMPTS_SHOWN, Shown, about, prompt_end, proof, spot
from .attribution_result import Attribution
from .components import are_vectors
from .result import LensResult

HEADING = 16  # columns: what is left of a prompt in fewer says nothing


def print_table(result: LensResult | Attribution, console: Console, shown: Shown) -> None:
    """See `_table.table`."""
    from ._attribution_table import print_parts
    from .table_grids import one_token, print_vectors

    print_mark(result, console)
    if isinstance(result, LensResult) and are_vectors(result.sites):
        print_vectors(result, console, shown.show_top)
        print_proof(result, console)
        return
    for n, number in enumerate(shown.prompts[:PROMPTS_SHOWN]):
        if n:
            console.print()
        one = result[number]
        token = spot(one, shown)
        _heading(console, one.prompts[0], about(one, token))
        if isinstance(one, Attribution) and token is not None:
            print_parts(one, console, token, shown.show_top)
        elif isinstance(one, LensResult) and token is not None:
            one_token(one, console, token, shown.show_top, shown.rows)
        if shown.thinned:
            note(console, shown.thinned)
    if shown.more:
        console.print(Text(f"\n{shown.more}"))
    print_proof(result, console)


def print_mark(result: LensResult | Attribution, console: Console) -> None:
    """What every view must say before the numbers."""
    if result.mark:
        console.print(Text(result.mark, style="bold red"))


def print_proof(result: LensResult | Attribution, console: Console) -> None:
    """`proof`, below the numbers."""
    if result.certificate is not None:
        console.print(Text(proof(result), style="dim" if result.certificate.passed else "bold red"))


def note(console: Console, text: str) -> None:
    """What is to be said of the grid above."""
    console.print(Text(f"({text})", style="dim"))


def _heading(console: Console, prompt: str, at: str) -> None:
    """The prompt, cut at its start, and what is shown of it: beside it where there is room, else below."""
    room, end = console.width - cell_len(at) - 4, prompt_end(prompt)
    if room < min(HEADING, cell_len(end)):
        console.print(Text(f"{cut(end, console.width, keep_end=True)}\n{cut(at, console.width)}"))
    else:
        console.print(Text(f"{cut(end, room, keep_end=True)}    {at}"))


# -- grids that fit ----------------------------------------------------


def empty_grid(*, header: bool = True) -> Table:
    """A grid without lines."""
    return Table(box=None, pad_edge=False, show_header=header, header_style="dim")


def fits(console: Console, grid: Table) -> bool:
    """Whether no cell of a grid would have to be cut."""
    return console.measure(grid, options=console.options.update(max_width=10_000)).maximum <= console.width


def first_fit(console: Console, grids: Iterable[Table]) -> Table:
    """The first of some grids that fits, else the last."""
    for grid in grids:
        if fits(console, grid):
            break
    return grid


def cut(text: str, width: int, *, keep_end: bool = False) -> str:
    """A text in at most so many columns of a terminal, where 中 and 🙂 have two.

    >>> cut("capital", 5), cut("capital", 5, keep_end=True), cut("中文字", 5)
    ('capi…', '…ital', '中文…')
    """
    whole = text
    while whole and cell_len(text) > width:
        whole = whole[1:] if keep_end else whole[:-1]
        text = f"…{whole}" if keep_end else f"{whole}…"
    return text
