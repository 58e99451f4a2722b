"""The largest parts of an attribution, the rest as one number, and what they sum to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.grids import WIDEST, empty_grid, first_fit, truncate
from lens_recipes.views.words import ShowText, part_name, signed

TARGETS_ABREAST = 4  # more targets than these go into further grids below


class PartRow(NamedTuple):
    """A row of a table: the name of a part or of a sum, and its value in logits."""

    name: str
    value: str


@dataclass(frozen=True)
class Layout:
    """Which targets a grid shows, and in how many columns of the terminal.

    Attributes:
        targets: Indices of the targets that stand side by side.
        part_width: Columns that the name of a part may take.
        target_width: Columns that the name of a target may take.
        stacked: Whether "− London" stands below "Paris" in a heading.
    """

    targets: range
    part_width: int = WIDEST
    target_width: int = WIDEST
    stacked: bool = False


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def print_parts(
    result: AttributionArrays, console: Console, token_index: int, show_top: int
) -> None:
    """Print the largest parts of each target, as many targets side by side as the width takes.

    Args:
        result: An attribution of one prompt.
        console: Where the grids go.
        token_index: Which of `result.tokens`.
        show_top: Parts of each target.
    """

    def build(layout: Layout) -> Table:
        """Return the grid of the targets of one layout."""
        return _build_grid(result, token_index, show_top, layout)

    target_count = result.target_ids.shape[1]
    start = 0
    while start < target_count:
        layout, grid = first_fit(console, _layouts(start, target_count), build)
        console.print(grid)
        start = layout.targets.stop


def _layouts(start: int, target_count: int) -> Iterator[Layout]:
    """Yield the layouts of a grid whose first target is `start`, from the widest to the narrowest.

    Names are cut only where a single target is too wide.
    """
    abreast = min(TARGETS_ABREAST, target_count - start)
    for stop in range(start + abreast, start, -1):
        yield Layout(range(start, stop))
    first_target = range(start, start + 1)
    yield Layout(first_target, part_width=40, target_width=20, stacked=True)
    yield Layout(first_target, part_width=24, target_width=14, stacked=True)


def _build_grid(
    result: AttributionArrays, token_index: int, show_top: int, layout: Layout
) -> Table:
    """Return a grid with two columns for each target: the parts and their values."""
    grid = empty_grid()
    columns: list[list[Text]] = []
    for target_index in layout.targets:
        heading = _heading(result.target_name(0, target_index), layout)
        grid.add_column("part", no_wrap=True)
        grid.add_column(Text(heading), justify="right", no_wrap=True)
        rows = target_rows(result, token_index, target_index, show_top)
        names = [truncate(row.name, layout.part_width) for row in rows]
        columns.append([Text(name) for name in names])
        columns.append([Text(row.value) for row in rows])
    for cells in zip(*columns, strict=True):  # every target has the same rows
        grid.add_row(*cells)
    return grid


def _heading(target_name: str, layout: Layout) -> str:
    """Return the name of a target as it stands above its values."""
    if layout.stacked:
        target_name = target_name.replace(" − ", "\n− ")
    lines = target_name.split("\n")
    return "\n".join(truncate(line, layout.target_width) for line in lines)


def target_rows(
    result: AttributionArrays,
    token_index: int,
    target_index: int,
    show_top: int,
    show: ShowText = visible_token,
) -> list[PartRow]:
    """Return what a table says of one target: its largest parts, all the others as one, the sums.

    Args:
        result: An attribution of one prompt.
        token_index: Which of `result.tokens`.
        target_index: Which target.
        show_top: Parts that have a row of their own.
        show: Makes the text of a token or a part legible.
    """
    values = result.values[:, token_index, target_index]
    order = by_size(values)
    rows = []
    for part_index in order[:show_top]:
        name = part_name(result, result.parts[part_index], show)
        rows.append(PartRow(name, signed(values[part_index])))
    others = order[show_top:]
    if others:
        rest = values[others].sum()
        rows.append(PartRow(f"all the others ({len(others)})", signed(rest)))
    rows += _sum_rows(result, token_index, target_index)
    return rows


def _sum_rows(result: AttributionArrays, token_index: int, target_index: int) -> Iterator[PartRow]:
    """Yield the total, the logit that it should equal, what the softcap changes, and the error."""
    total = result.total[token_index, target_index]
    logit = result.logit[token_index, target_index]
    capped_logit = result.capped_logit[token_index, target_index]
    error = result.error[token_index, target_index]
    yield PartRow("total", signed(total))
    yield PartRow("the logit", signed(logit))
    if not np.array_equal(result.logit, result.capped_logit, equal_nan=True):
        yield PartRow("after the softcap", signed(capped_logit))
        yield PartRow("the softcap takes away", signed(logit - capped_logit))
    yield PartRow("error: |total − logit|", f"{error:.1e}")
