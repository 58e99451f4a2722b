"""Print a table on a terminal, no line wider than it is."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.views.tables.attribution import print_parts
from lens_recipes.views.tables.grids import print_note, truncate
from lens_recipes.views.tables.lens import one_token, print_vectors
from lens_recipes.views.tables.selection import PROMPTS_SHOWN, Selection, selected_token
from lens_recipes.views.words import about_token, certificate_line, prompt_end

HEADING = 16  # columns: what is left of a prompt in fewer says nothing


def print_table(result: LensArrays | AttributionArrays, console: Console, shown: Selection) -> None:
    """See `_table.table`."""
    print_warning(result, console)
    if isinstance(result, LensArrays) and are_vectors(result.sites):
        print_vectors(result, console, shown.show_top)
        print_certificate(result, console)
        return
    for n, number in enumerate(shown.prompts[:PROMPTS_SHOWN]):
        if n:
            console.print()
        one = result[number]
        token = selected_token(one, shown)
        _heading(console, one.prompts[0], about_token(one, token))
        if isinstance(one, AttributionArrays) and token is not None:
            print_parts(one, console, token, shown.show_top)
        elif isinstance(one, LensArrays) and token is not None:
            one_token(one, console, token, shown.show_top, shown.rows)
        if shown.thinned:
            print_note(console, shown.thinned)
    if shown.more:
        console.print(Text(f"\n{shown.more}"))
    print_certificate(result, console)


def print_warning(result: LensArrays | AttributionArrays, console: Console) -> None:
    """What every view must say before the numbers."""
    if result.mark:
        console.print(Text(result.mark, style="bold red"))


def print_certificate(result: LensArrays | AttributionArrays, console: Console) -> None:
    """`proof`, below the numbers."""
    if result.certificate is not None:
        console.print(
            Text(certificate_line(result), style="dim" if result.certificate.passed else "bold red")
        )


def _heading(console: Console, prompt: str, at: str) -> None:
    """The prompt, cut at its start, and what is shown of it: beside it where there is room, else below."""
    room, end = console.width - cell_len(at) - 4, prompt_end(prompt)
    if room < min(HEADING, cell_len(end)):
        console.print(
            Text(f"{truncate(end, console.width, keep_end=True)}\n{truncate(at, console.width)}")
        )
    else:
        console.print(Text(f"{truncate(end, room, keep_end=True)}    {at}"))
