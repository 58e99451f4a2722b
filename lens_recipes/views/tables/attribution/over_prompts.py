"""The largest parts of a logit on average over many prompts, and what they sum to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.batch.parts import (
    Spread,
    common_target_name,
    prompt_values,
    read_tokens,
    spread,
)
from lens_recipes.arrays.text import visible_token
from lens_recipes.caller import SHOW_ONE, say
from lens_recipes.views.tables.grids import WIDEST, empty_grid, first_fit, truncate
from lens_recipes.views.tables.selection import Selection
from lens_recipes.views.words import ShowText, mean_and_error, part_label, quantity

PART_WIDTHS = (WIDEST, 24, 14)  # columns of the terminal that a part may take, tried in turn

HEADINGS = ("part", "mean", "s.e.", "positive")


class MeanRow(NamedTuple):
    """A row of the table: the name of a part or of a sum, and three numbers as text."""

    name: str
    mean: str
    standard_error: str
    positive: str


def print_over_prompts(result: AttributionArrays, console: Console, selection: Selection) -> None:
    """Print the largest parts of each target on average over the prompts."""
    console.print(Text(batch_heading(result, selection)))
    for target_index in range(result.target_ids.shape[1]):
        name = common_target_name(result, target_index, visible_token)
        console.print(Text(f"\n{truncate(name, console.width)}", style="bold"))
        rows = mean_rows(result, selection, target_index)

        def build(part_width: int, rows: list[MeanRow] = rows) -> Table:
            """Return the grid in one layout."""
            return _build_grid(rows, part_width)

        _, grid = first_fit(console, PART_WIDTHS, build)
        console.print(grid)
    for note in batch_notes(result, selection):
        console.print(Text(note, style="dim"))


def batch_heading(result: AttributionArrays, selection: Selection) -> str:
    """Return what stands above the tables of all targets."""
    count = len(read_tokens(result, selection.position))
    which = "the last token" if selection.position == -1 else f"token {selection.position} of those"
    return f"{quantity(count, 'prompt')}, after {which} read of each, in logits"


def batch_notes(result: AttributionArrays, selection: Selection) -> Iterator[str]:
    """Yield what stands below the tables of all targets."""
    tokens = read_tokens(result, selection.position)
    error = np.max(result.error[tokens])
    yield f"largest error: |total − logit| {error:.1e}"
    yield "s.e.: standard error of the mean over prompts; positive: in how many it helps"
    yield say(python="one prompt: prompt=0", shell=SHOW_ONE)


def mean_rows(
    result: AttributionArrays,
    selection: Selection,
    target_index: int,
    show: ShowText = visible_token,
) -> list[MeanRow]:
    """Return what a table says of one target: its largest parts, the others as one, the total.

    Args:
        result: An attribution of the same parts of several prompts.
        selection: Which token, and how many parts have a row of their own.
        target_index: Which target.
        show: Makes the name of a part legible.
    """
    values = prompt_values(result, selection.position, target_index)
    spreads = [spread(numbers) for numbers in values]
    order = by_size(np.array([part_spread.mean for part_spread in spreads]))
    rows = []
    for index in order[: selection.show_top]:
        rows.append(_mean_row(part_label(result.parts[index], show), spreads[index]))
    others = order[selection.show_top :]
    if others:
        rest = spread(values[others].sum(axis=0))
        rows.append(_mean_row(f"all the others ({len(others)})", rest))
    tokens = read_tokens(result, selection.position)
    total = spread(result.total[tokens, target_index].astype(np.float64))
    rows.append(_mean_row("total", total))
    return rows


def _mean_row(name: str, numbers: Spread) -> MeanRow:
    """Return a row of the table."""
    mean, error = mean_and_error(numbers.mean, numbers.standard_error)
    return MeanRow(name, mean, error, f"{numbers.positive} of {numbers.n}")


def _build_grid(rows: list[MeanRow], part_width: int) -> Table:
    """Return the grid of one target, with parts cut to some columns."""
    grid = empty_grid()
    grid.add_column(HEADINGS[0], no_wrap=True)
    for heading in HEADINGS[1:]:
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, *numbers in rows:
        grid.add_row(Text(truncate(name, part_width)), *numbers)
    return grid
