"""A grid with a row for each layer, and for each of several lenses its top-1 and what it ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.seen import seen_by
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.summaries.trust import UNFITTED_MARK, unfitted_sentence, unreadable_sentence
from lens_recipes.views.tables.grids import empty_grid, first_fit, print_note, truncate
from lens_recipes.views.tables.lens.grid import ANSWER_STYLE, TOKEN_WIDTHS, UNREADABLE_STYLE
from lens_recipes.views.tables.lens.rows import UNREADABLE_MARK
from lens_recipes.views.words import (
    ShowText,
    have_different_edits,
    lens_names,
    probability,
    quantity,
)

TOKENS_NAMED = 6  # of those that one lens sees earlier

FIRST_SEEN = "top-1 first at layer"

TOKEN_WIDTH = 20  # characters of such a token

NAME_WIDTH = 24  # columns of a lens's name


class Layout(NamedTuple):
    """How much a grid shows: how wide tokens are, of how many targets the rank, whether KL."""

    token_width: int
    target_count: int
    has_kl: bool


class LensRow(NamedTuple):
    """A layer, and what each lens reads there."""

    label: str
    readings: list[SiteReading]


def print_lenses(results: Sequence[LensArrays], console: Console, rows: list[LensRow]) -> None:
    """Print what several lenses read after one token, a row for each layer.

    Args:
        results: Of one prompt each, after the same tokens.
        console: Where the grid goes.
        rows: The layers.
    """
    names = lens_names(results)
    token_index = rows[0].readings[0].token_index
    for line in trust_lines(results, token_index):
        console.print(Text(line, style="bold"))

    def build(layout: Layout) -> Table:
        """Return the grid in one layout."""
        return _build_grid(results, names, rows, layout)

    target_count = results[0].target_ids.shape[1]
    layout, grid = first_fit(console, _layouts(target_count), build)
    console.print(grid)
    missing = []
    if not layout.has_kl:
        missing.append("KL")
    for target_id in results[0].target_ids[0, layout.target_count :]:
        missing.append(f"rank of {visible_token(results[0].text(target_id))}")
    if missing:
        print_note(console, f"no room for {', '.join(missing)}")


def print_seen(results: Sequence[LensArrays], console: Console, token_index: int) -> None:
    """Print from which layer on each lens has a token as its top-1, where the lenses differ."""
    seen = seen_table(results, token_index)
    if seen is not None:
        console.print()
        console.print(_seen_grid(seen))
        if seen.note:
            print_note(console, seen.note)


def lens_rows(
    results: Sequence[LensArrays], site_indices: list[int], token_index: int
) -> list[LensRow]:
    """Return a row for each of some sites of the first result that all of them have.

    Raises:
        ValueError: there is none.
    """
    rows = []
    for site_index in site_indices:
        site = results[0].sites[site_index]
        if all(site in result.sites for result in results):
            readings = [
                SiteReading(result, result.sites.index(site), token_index) for result in results
            ]
            rows.append(LensRow(str(site), readings))
    if not rows:
        raise ValueError(
            "there is no layer that all results have: read the same layers= with each lens."
        )
    return rows


def trust_lines(results: Sequence[LensArrays], token_index: int) -> Iterator[str]:
    """Yield which layers cannot be read with each lens, and which lens was not fitted there."""
    by_edits = have_different_edits(results)
    for result, name in zip(results, lens_names(results), strict=True):
        sentence = unreadable_sentence(result, [token_index], by_name=True)
        if sentence:
            run = f"{name}: " if by_edits else ""
            yield f"{run}{sentence} (marked {UNREADABLE_MARK})"
        unfitted = unfitted_sentence(result, [token_index])
        if unfitted:
            yield f"{UNFITTED_MARK} {unfitted}"


class SeenTable(NamedTuple):
    """From which layer on each lens sees some tokens: headings, rows of cells, and a note."""

    headings: list[str]
    rows: list[list[str]]
    note: str


def seen_table(
    results: Sequence[LensArrays], token_index: int, show: ShowText = visible_token
) -> SeenTable | None:
    """Return the tokens that lenses see at different layers; None where there are none.

    Args:
        results: Of one prompt each, after the same tokens.
        token_index: Which of the tokens.
        show: How a token is written.
    """
    rows = [row for row in seen_by(results, position=token_index) if row.distance != 0]
    if not rows:
        return None
    headings = [FIRST_SEEN, *lens_names(results)]
    lines = []
    is_dated = True
    for row in rows[:TOKENS_NAMED]:
        lines.append([show(row.text, TOKEN_WIDTH), *(place.short for place in row.places)])
        is_dated = is_dated and all(place.is_dated for place in row.places)
    notes = []
    left_out = len(rows) - TOKENS_NAMED
    if left_out > 0:
        notes.append(f"and {quantity(left_out, 'more token')}")
    if not is_dated:
        notes.append(f"{UNREADABLE_MARK}: or earlier, the layer before cannot be read")
    return SeenTable(headings, lines, "; ".join(notes))


def _layouts(target_count: int) -> Iterator[Layout]:
    """Yield the layouts from the widest to the narrowest: letters go first, then KL, then ranks."""
    for has_kl in (True, False):
        for token_width in TOKEN_WIDTHS:
            yield Layout(token_width, target_count, has_kl)
    for remaining in range(target_count - 1, -1, -1):
        yield Layout(TOKEN_WIDTHS[-1], remaining, has_kl=False)


def _build_grid(
    results: Sequence[LensArrays], names: list[str], rows: list[LensRow], layout: Layout
) -> Table:
    """Return the grid in one layout."""
    grid = empty_grid()
    grid.add_column("layer", justify="right", no_wrap=True)
    columns = []  # of the cells of each lens
    for number, name in enumerate(names):
        grid.add_column(Text(truncate(name, NAME_WIDTH)), no_wrap=True)
        readings = [row.readings[number] for row in rows]
        cells = [_top_cells(readings, layout.token_width)]
        if layout.has_kl:
            grid.add_column("KL", justify="right", no_wrap=True)
            kl = [
                reading.result.kl_to_final[reading.site_index, reading.token_index]
                for reading in readings
            ]
            cells.append([Text(f"{distance:.2f}") for distance in kl])
        for column, target_id in enumerate(results[0].target_ids[0, : layout.target_count]):
            target = truncate(visible_token(results[0].text(target_id)), layout.token_width)
            grid.add_column(Text(f"rank of\n{target}"), justify="right", no_wrap=True)
            ranks = [reading.targets()[column].rank for reading in readings]
            cells.append([Text(f"{rank:,}") for rank in ranks])
        columns += cells
    for number, row in enumerate(rows):
        grid.add_row(row.label, *(column[number] for column in columns))
    return grid


def _seen_grid(seen: SeenTable) -> Table:
    """Return from which layer on each lens sees some tokens, as a grid."""
    grid = empty_grid()
    for number, heading in enumerate(seen.headings):
        justify: Literal["left", "right"] = "left" if number == 0 else "right"
        grid.add_column(Text(truncate(heading, NAME_WIDTH)), justify=justify, no_wrap=True)
    for row in seen.rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _top_cells(readings: list[SiteReading], token_width: int) -> list[Text]:
    """Return the top-1 of some sites and its probability, with a mark where it cannot be read."""
    cells = []
    for reading in readings:
        (prediction,) = reading.predictions(1)
        token = truncate(visible_token(prediction.text), token_width)
        text = f"{token} {probability(prediction.logprob)}"
        if not reading.is_readable:
            cells.append(Text(f"{text} {UNREADABLE_MARK}", UNREADABLE_STYLE))
        else:
            cells.append(Text(text, ANSWER_STYLE if reading.predicts_answer else ""))
    return cells
