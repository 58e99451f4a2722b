"""A grid with a row for each site or vector: its predictions, its numbers, the targets' ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.entry import Metric
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.readings import SiteReading, shown_metrics
from lens_recipes.views.tables.grids import empty_grid, first_fit, print_note, truncate
from lens_recipes.views.tables.lens.rows import Row
from lens_recipes.views.words import probability

# Columns of the terminal that a token may take, tried in turn. The first cuts no token that
# `visible_token` has cut already.
TOKEN_WIDTHS = (24, 12, 9, 7)

LABEL_WIDTH = 17  # columns that the label of a row may take in a narrow grid

ANSWER_STYLE = "bold green"  # a site whose top-1 is what the model will answer

UNREADABLE_STYLE = "dim"  # a site that cannot be read

WRITTEN_STYLE = "yellow"  # a token that the model wrote, where that is not its answer


@dataclass(frozen=True)
class Layout:
    """How much a grid shows.

    Attributes:
        show_top: Predictions in each row.
        token_width: Columns of the terminal that a token may take.
        metrics: Metrics that have a column.
        target_count: How many of the targets have a column with their rank.
        narrow: Whether labels are cut, and a target stands below the words "rank of".
    """

    show_top: int
    token_width: int
    metrics: list[Metric]
    target_count: int
    narrow: bool = True


def print_grid(
    result: LensArrays,
    console: Console,
    rows_for: Callable[[int], list[Row]],
    show_top: int,
    *,
    heading: str = "layer",
) -> None:
    """Print as much of some rows as the width takes, and name the columns that are missing.

    Args:
        result: A result of one prompt, or of vectors.
        console: Where the grid goes.
        rows_for: Gives the rows of a grid with so many predictions in each.
        show_top: Predictions in each row, if there is room.
        heading: Of the column of labels.
    """

    def build(layout: Layout) -> Table:
        """Return the grid in one layout."""
        return _build_grid(result, rows_for(layout.show_top), layout, heading)

    metrics = shown_metrics(result)
    target_ids = result.target_ids[0].tolist()
    layouts = _layouts(show_top, metrics, len(target_ids))
    layout, grid = first_fit(console, layouts, build)
    console.print(grid)
    missing = [metric.heading for metric in metrics if metric not in layout.metrics]
    for target_id in target_ids[layout.target_count :]:
        target_text = visible_token(result.text(target_id))
        missing.append(f"rank of {target_text}")
    if missing:
        print_note(console, f"no room for {', '.join(missing)}")


def _layouts(show_top: int, metrics: list[Metric], target_count: int) -> Iterator[Layout]:
    """Yield the layouts from the widest to the narrowest.

    Predictions go first, then the letters of tokens, then the metrics. The targets go last: the
    user asked for them.
    """
    for remaining in range(show_top, 0, -1):
        yield Layout(remaining, TOKEN_WIDTHS[0], metrics, target_count, narrow=False)
    for dropped in range(len(metrics) + 1):
        yield from _narrow_layouts(metrics[dropped:], target_count)
    for remaining in range(target_count - 1, -1, -1):
        yield from _narrow_layouts([], remaining)


def _narrow_layouts(metrics: list[Metric], target_count: int) -> Iterator[Layout]:
    """Yield the layouts with one prediction in a row, and with shorter and shorter tokens."""
    for token_width in TOKEN_WIDTHS[1:]:
        yield Layout(1, token_width, metrics, target_count)


def _build_grid(result: LensArrays, rows: list[Row], layout: Layout, heading: str) -> Table:
    """Return the grid of some rows in one layout."""
    grid = empty_grid()
    grid.add_column(heading, justify="right", no_wrap=True)
    for column in range(1, layout.show_top + 1):
        grid.add_column(f"top {column}", no_wrap=True)
    for metric in layout.metrics:
        grid.add_column(metric.heading, justify="right", no_wrap=True)
    for target_heading in _target_headings(result, layout):
        grid.add_column(Text(target_heading), justify="right", no_wrap=True)
    for label, reading in rows:
        if layout.narrow:
            label = truncate(label, LABEL_WIDTH)
        prediction_cells = _prediction_cells(reading, layout)
        number_cells = _number_cells(reading, layout)
        style = None if reading.is_readable else UNREADABLE_STYLE
        grid.add_row(Text(label), *prediction_cells, *number_cells, style=style)
    return grid


def _target_headings(result: LensArrays, layout: Layout) -> Iterator[str]:
    """Yield the heading of the rank of each target that has a column."""
    separator = "\n" if layout.narrow else " "
    for target_id in result.target_ids[0, : layout.target_count]:
        target_text = visible_token(result.text(target_id))
        yield f"rank of{separator}{truncate(target_text, layout.token_width)}"


def _prediction_cells(reading: SiteReading, layout: Layout) -> list[Text]:
    """Return the predictions of a site with their probabilities.

    The first is marked where it is the model's answer. Where a site has not come to the answer,
    the token that the model wrote is marked instead.
    """
    predictions = reading.predictions(layout.show_top)
    cells = []
    for prediction in predictions:
        token_text = truncate(visible_token(prediction.text), layout.token_width)
        cells.append(Text(f"{token_text} {probability(prediction.logprob)}"))
    if not reading.is_readable:
        return cells
    if reading.predicts_answer:
        cells[0].stylize(ANSWER_STYLE)
        return cells
    tokens = reading.result.tokens
    if tokens.generated[reading.token_index]:
        written_id = tokens.next_id[reading.token_index]
        for cell, prediction in zip(cells, predictions, strict=True):
            if prediction.token_id == written_id:
                cell.stylize(WRITTEN_STYLE)
    return cells


def _number_cells(reading: SiteReading, layout: Layout) -> Iterator[str]:
    """Yield the metrics of a site, and the ranks of the targets there."""
    for metric in layout.metrics:
        yield f"{reading.value(metric):.2f}"
    for target in reading.targets()[: layout.target_count]:
        yield str(target.rank)
