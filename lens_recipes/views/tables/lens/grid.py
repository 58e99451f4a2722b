"""A grid with a row for each site or vector: its predictions, its numbers, the targets' ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.extract import top_predictions
from lens_recipes.views.tables.grids import empty_grid, first_fit, print_note, truncate
from lens_recipes.views.tables.lens.rows import Row
from lens_recipes.views.words import probability

# Columns of the terminal that a token may take, tried in turn. The first cuts no token that
# `visible_token` has cut already.
TOKEN_WIDTHS = (24, 12, 9, 7)

LABEL_WIDTH = 17  # columns that the label of a row may take in a narrow grid

ANSWER_STYLE = "bold green"  # a site whose top-1 is what the model will answer

WRITTEN_STYLE = "yellow"  # a token that the model wrote, where that is not its answer


@dataclass(frozen=True)
class Layout:
    """How much a grid shows.

    Attributes:
        show_top: Predictions in each row.
        token_width: Columns of the terminal that a token may take.
        metrics: Names of the columns of numbers, out of "entropy" and "KL".
        target_count: How many of the targets have a column with their rank.
        narrow: Whether labels are cut, and a target stands below the words "rank of".
    """

    show_top: int
    token_width: int
    metrics: tuple[str, ...]
    target_count: int
    narrow: bool = True


def print_grid(
    result: LensArrays,
    console: Console,
    rows_for: Callable[[int], list[Row]],
    show_top: int,
    *,
    heading: str = "layer",
    metrics: tuple[str, ...] = ("entropy", "KL"),
) -> None:
    """Print as much of some rows as the width takes, and name the columns that are missing.

    Args:
        result: A result of one prompt, or of vectors.
        console: Where the grid goes.
        rows_for: Gives the rows of a grid with so many predictions in each.
        show_top: Predictions in each row, if there is room.
        heading: Of the column of labels.
        metrics: Names of the columns of numbers, if there is room.
    """

    def build(layout: Layout) -> Table:
        return _build_grid(result, rows_for(layout.show_top), layout, heading)

    target_count = result.target_ids.shape[1]
    layout, grid = first_fit(console, _layouts(show_top, metrics, target_count), build)
    console.print(grid)
    missing = [name for name in metrics if name not in layout.metrics]
    for target_id in result.target_ids[0, layout.target_count :]:
        missing.append(f"rank of {visible_token(result.text(target_id))}")
    if missing:
        print_note(console, f"no room for {', '.join(missing)}")


def _layouts(show_top: int, metrics: tuple[str, ...], target_count: int) -> Iterator[Layout]:
    """Yield the layouts from the widest to the narrowest.

    Predictions go first, then the letters of tokens, then the metrics. The targets go last: the
    user asked for them.
    """
    for remaining in range(show_top, 0, -1):
        yield Layout(remaining, TOKEN_WIDTHS[0], metrics, target_count, narrow=False)
    for dropped in range(len(metrics) + 1):
        yield from _narrow_layouts(metrics[dropped:], target_count)
    for remaining in range(target_count - 1, -1, -1):
        yield from _narrow_layouts((), remaining)


def _narrow_layouts(metrics: tuple[str, ...], target_count: int) -> Iterator[Layout]:
    """Yield the layouts with one prediction in a row, and with shorter and shorter tokens."""
    for token_width in TOKEN_WIDTHS[1:]:
        yield Layout(1, token_width, metrics, target_count)


def _build_grid(result: LensArrays, rows: list[Row], layout: Layout, heading: str) -> Table:
    """Return the grid of some rows in one layout."""
    grid = empty_grid()
    grid.add_column(heading, justify="right", no_wrap=True)
    for rank in range(1, layout.show_top + 1):
        grid.add_column(f"top {rank}", no_wrap=True)
    for name in [*layout.metrics, *_target_headings(result, layout)]:
        grid.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        label = truncate(row.label, LABEL_WIDTH) if layout.narrow else row.label
        predictions = _prediction_cells(result, row, layout)
        grid.add_row(Text(label), *predictions, *_number_cells(result, row, layout))
    return grid


def _target_headings(result: LensArrays, layout: Layout) -> Iterator[str]:
    """Yield the heading of the rank of each target that has a column."""
    separator = "\n" if layout.narrow else " "
    for target_id in result.target_ids[0, : layout.target_count]:
        text = truncate(visible_token(result.text(target_id)), layout.token_width)
        yield f"rank of{separator}{text}"


def _prediction_cells(result: LensArrays, row: Row, layout: Layout) -> list[Text]:
    """Return the predictions of a row with their probabilities.

    The first is marked where it is the model's answer. In a row that has not come to the answer,
    the token that the model wrote is marked instead.
    """
    predictions = top_predictions(result, row.site, row.token, layout.show_top)
    cells = []
    for prediction in predictions:
        text = truncate(visible_token(prediction.text), layout.token_width)
        cells.append(Text(f"{text} {probability(prediction.logprob)}"))
    if result.final_ranks[row.site, row.token] == 0:
        cells[0].stylize(ANSWER_STYLE)
    elif result.tokens.generated[row.token]:
        written_id = result.tokens.next_id[row.token]
        for cell, prediction in zip(cells, predictions, strict=True):
            if prediction.token_id == written_id:
                cell.stylize(WRITTEN_STYLE)
    return cells


def _number_cells(result: LensArrays, row: Row, layout: Layout) -> Iterator[str]:
    """Yield the metrics (nats) and the ranks of the targets in a row."""
    arrays = {"entropy": result.entropy, "KL": result.kl_to_final}
    for name in layout.metrics:
        yield f"{arrays[name][row.site, row.token]:.2f}"
    for rank in result.target_ranks[row.site, row.token, : layout.target_count]:
        yield str(rank)
