"""A table as text: prompts with their grids below each other, no line wider than the console."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.views.summaries.edits.effects import effect_line
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.tables.attribution.over_prompts import print_over_prompts
from lens_recipes.views.tables.attribution.parts import print_parts
from lens_recipes.views.tables.grids import (
    WIDEST,
    console_text,
    print_note,
    string_console,
    truncate,
)
from lens_recipes.views.tables.lens.batch.text import print_batch
from lens_recipes.views.tables.lens.lenses import lens_rows, print_lenses, print_seen
from lens_recipes.views.tables.lens.predictions import print_predictions, print_vectors
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import about_token, certificate_line, edited, prompt_end

# Columns that a prompt needs beside the name of its token: fewer columns of a prompt say nothing.
PROMPT_WIDTH = 16

ALARM_STYLE = "bold red"
EDITED_STYLE = "bold"


def text_table(
    result: LensArrays | AttributionArrays, selection: Selection, width: int = WIDEST
) -> str:
    """Return a table as plain text with lines of at most `width` columns."""
    console = string_console(width)
    print_table(result, console, selection)
    return console_text(console)


def print_table(
    result: LensArrays | AttributionArrays, console: Console, selection: Selection
) -> None:
    """Print a table as wide as the console, with colours where it has them."""
    for each in (result, *selection.beside):
        print_warning(each, console)
    if isinstance(result, LensArrays) and are_vectors(result.sites):
        print_vectors(result, console, selection.show_top)
    elif not selection.is_batch:
        _print_prompts(result, console, selection)
    elif isinstance(result, AttributionArrays):
        print_over_prompts(result, console, selection)
    else:
        print_batch(result, console, selection)
    print_certificate(result, console)
    for other in selection.beside:
        print_certificate(other, console, beside=result)


def _print_prompts(
    result: LensArrays | AttributionArrays, console: Console, selection: Selection
) -> None:
    """Print the first prompts that are selected, and how many are left out."""
    for line, number in enumerate(selection.shown_prompts):
        if line > 0:
            console.print()
        _print_prompt(result, number, console, selection)
    if selection.prompts_note:
        console.print(Text(f"\n{selection.prompts_note}"))


def _print_prompt(
    whole: LensArrays | AttributionArrays, number: int, console: Console, selection: Selection
) -> None:
    """Print the heading and the grids of one prompt."""
    result = whole[number]
    token_index = selected_token(result, selection)
    subject = about_token(result, token_index, with_lens=not selection.beside)
    _print_heading(console, result.prompts[0], subject)
    if token_index is None:
        return
    results: list[LensArrays] = []
    if isinstance(result, AttributionArrays):
        print_parts(result, console, token_index, selection.show_top)
    elif selection.beside:
        results = [result, *(other[number] for other in selection.beside)]
        print_lenses(results, console, lens_rows(results, selection.site_indices, token_index))
    else:
        site_indices = selection.site_indices
        print_predictions(result, console, token_index, selection.show_top, site_indices)
    if selection.sites_note:
        print_note(console, selection.sites_note)
    if results:
        print_seen(results, console, token_index)


def _print_heading(console: Console, prompt: str, subject: str) -> None:
    """Print the end of a prompt, and what the table shows of it: beside it, or else below."""
    end = prompt_end(prompt)
    room = console.width - cell_len(subject) - 4
    if room < min(PROMPT_WIDTH, cell_len(end)):
        end = truncate(end, console.width, keep_end=True)
        console.print(Text(f"{end}\n{truncate(subject, console.width)}"))
    else:
        end = truncate(end, room, keep_end=True)
        console.print(Text(f"{end}    {subject}"))


def print_warning(result: LensArrays | AttributionArrays, console: Console) -> None:
    """Print what every view must say before the numbers; nothing of a plain run that is well."""
    if result.mark:
        console.print(Text(result.mark, style=ALARM_STYLE))
    if result.edits:
        console.print(Text(edited(result), style=EDITED_STYLE))


def print_certificate(
    result: LensArrays | AttributionArrays,
    console: Console,
    *,
    beside: LensArrays | AttributionArrays | None = None,
) -> None:
    """Print the certificate, if there is one, below the numbers that it is about.

    Below it stands what a fitted lens means: the certificate is about its wiring. The same
    certificate as that of the result `beside` is not printed again.
    """
    is_new = beside is None or result.certificate != beside.certificate
    if result.certificate is not None and is_new:
        style = "dim" if result.certificate.passed else ALARM_STYLE
        console.print(Text(certificate_line(result), style=style))
    effect = effect_line(result) if isinstance(result, LensArrays) else ""
    if effect:
        console.print(Text(effect))
    meaning = lens_line(result)
    if meaning:
        console.print(Text(meaning, style="dim"))
