"""An attribution as text: its largest parts in a table, and `summary()` for an assistant that reads on."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.grids import WIDEST, empty_grid, first_fit, truncate
from lens_recipes.views.words import part_name, signed

TARGETS_ABREAST = 4  # more targets than this go into further grids below

NARROW = (
    (40, 20),
    (24, 14),
)  # columns that the names of part and target may take where one target is too wide


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def print_parts(one: AttributionArrays, console: Console, token: int, show_top: int) -> None:
    """The largest parts of one prompt's targets, the targets side by side as far as the width takes them."""
    start, targets = 0, range(one.target_ids.shape[1])
    while start < len(targets):
        stops = range(min(start + TARGETS_ABREAST, len(targets)), start, -1)
        wide = (_grid(one, token, targets[start:stop], show_top) for stop in stops)
        narrow = (
            _grid(one, token, targets[start : start + 1], show_top, names) for names in NARROW
        )
        grid = first_fit(console, itertools.chain(wide, narrow))
        console.print(grid)
        start += len(grid.columns) // 2


def _grid(
    one: AttributionArrays,
    token: int,
    targets: range,
    show_top: int,
    narrow: tuple[int, int] | None = None,
) -> Table:
    """Side by side for each target: its largest parts, the rest as one number, and what they sum to."""
    grid = empty_grid()
    part_width, target_width = narrow or (WIDEST, WIDEST)
    columns = []
    for k in targets:
        columns.append(
            [
                (truncate(part, part_width), value)
                for part, value in target_rows(one, token, k, show_top)
            ]
        )
        name = one.target_name(0, k).replace(" − ", "\n− " if narrow else " − ")
        grid.add_column("part", no_wrap=True)
        heading = "\n".join(truncate(line, target_width) for line in name.split("\n"))
        grid.add_column(Text(heading), justify="right", no_wrap=True)
    for cells in zip(*columns, strict=True):  # every target has the same rows
        grid.add_row(*(Text(text) for cell in cells for text in cell))
    return grid


def target_rows(
    one: AttributionArrays,
    token: int,
    k: int,
    show_top: int,
    show: Callable[[str, int], str] = visible_token,
) -> list[tuple[str, str]]:
    """What a table has of one target, as names and numbers: the largest parts, all the others as one, and the sums."""
    values = one.values[:, token, k]
    order = by_size(values)
    rows = [(part_name(one, one.parts[p], show), signed(values[p])) for p in order[:show_top]]
    if rest := order[show_top:]:
        rows.append((f"all the others ({len(rest)})", signed(values[rest].sum())))
    logit, capped = one.logit[token, k], one.capped_logit[token, k]
    rows += [("total", signed(one.total[token, k])), ("the logit", signed(logit))]
    if not np.array_equal(one.logit, one.capped_logit, equal_nan=True):
        rows += [
            ("after the softcap", signed(capped)),
            ("the softcap takes away", signed(logit - capped)),
        ]
    return [*rows, ("error: |total − logit|", f"{one.error[token, k]:.1e}")]
