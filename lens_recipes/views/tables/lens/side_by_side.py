"""A grid with a row for each layer and a column for each component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.groups import stream_of
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.tables.grids import empty_grid, fits, truncate
from lens_recipes.views.tables.lens.grid import ANSWER_STYLE, TOKEN_WIDTHS, UNREADABLE_STYLE
from lens_recipes.views.tables.lens.rows import UNREADABLE_MARK
from lens_recipes.views.words import probability


class Line(NamedTuple):
    """A line of a cell: a token, its probability or rank, and how rich draws the two."""

    token: str
    number: str
    style: str


class Place(NamedTuple):
    """The cell of a site: the label of its row, and the component that its column shows."""

    row: str
    column: str


@dataclass(frozen=True)
class ComponentGrid:
    """What several components predict after one token, a row for each layer.

    Attributes:
        result: A result of one prompt.
        token_index: Which of `result.tokens`.
        show_top: Predictions in each cell.
        site_indices: Which sites have a cell.
        components: The components that have a column, from left to right.
    """

    result: LensArrays
    token_index: int
    show_top: int
    site_indices: list[int]
    components: list[str]

    def print(self, console: Console) -> None:
        """Print the columns that the width takes, and the others in further grids below."""
        token_width = self._token_width(console)
        start = 0
        while start < len(self.components):
            if start > 0:
                console.print()
            stop = self._last_that_fits(console, start, token_width)
            columns = self.components[start:stop]
            console.print(self._build(columns, token_width))
            start = stop

    def _token_width(self, console: Console) -> int:
        """Return how many columns of the terminal a token may take.

        The width is the largest that gets all components into one grid. If none does, it is the
        largest with which each component fits a grid of its own.
        """
        for token_width in TOKEN_WIDTHS:
            if self._fits(console, self.components, token_width):
                return token_width
        for token_width in TOKEN_WIDTHS:
            if all(self._fits(console, [name], token_width) for name in self.components):
                return token_width
        return TOKEN_WIDTHS[-1]

    def _last_that_fits(self, console: Console, start: int, token_width: int) -> int:
        """Return where a grid ends that begins at a component and has as many as fit, or one."""
        for stop in range(len(self.components), start, -1):
            columns = self.components[start:stop]
            if self._fits(console, columns, token_width):
                return stop
        return start + 1

    def _fits(self, console: Console, columns: list[str], token_width: int) -> bool:
        """Check whether a console is wide enough for some of the components."""
        return fits(console, self._build(columns, token_width))

    def _build(self, columns: list[str], token_width: int) -> Table:
        """Return the grid of some of the components."""
        cells = self._cells(columns, token_width)
        widths = {column: _widest_token(cells, column) for column in columns}
        row_labels = dict.fromkeys(place.row for place in cells)
        grid = empty_grid()
        grid.add_column("layer", justify="right", no_wrap=True)
        for column in columns:
            grid.add_column(column, no_wrap=True)
        for row_label in row_labels:
            texts = []
            for column in columns:
                lines = cells.get(Place(row_label, column), [])
                texts.append(_aligned(lines, widths[column]))
            grid.add_row(row_label, *texts)
        return grid

    def _cells(self, columns: list[str], token_width: int) -> dict[Place, list[Line]]:
        """Return the lines of each cell in some of the columns, row after row."""
        cells = {}
        for site_index in self.site_indices:
            place = self._place(site_index)
            if place.column in columns:
                reading = SiteReading(self.result, site_index, self.token_index)
                cells[place] = _lines(reading, self.show_top, token_width)
        return cells

    def _place(self, site_index: int) -> Place:
        """Return where a site stands. What enters layer 0 stands above what leaves it."""
        site = self.result.sites[site_index]
        if site.component == "embed":
            return Place("embed", stream_of(self.components) or "")
        return Place(str(site.layer), site.component)


def _lines(reading: SiteReading, show_top: int, token_width: int) -> list[Line]:
    """Return what the cell of a site says: its predictions, then the ranks of the targets."""
    lines = []
    for prediction in reading.predictions(show_top):
        token = truncate(visible_token(prediction.text), token_width)
        number = probability(prediction.logprob)
        lines.append(Line(token, number, style=""))
    if not reading.is_readable:
        lines = [
            Line(token, f"{number} {UNREADABLE_MARK}", UNREADABLE_STYLE)
            for token, number, _ in lines
        ]
    elif reading.predicts_answer:
        lines[0] = lines[0]._replace(style=ANSWER_STYLE)
    for target in reading.targets():
        token = truncate(visible_token(target.text), token_width)
        lines.append(Line(token, f"rank {target.rank}", style="dim"))
    return lines


def _widest_token(cells: dict[Place, list[Line]], column: str) -> int:
    """Return how many columns of the terminal the widest token of a component takes."""
    widest = 0
    for place, lines in cells.items():
        if place.column == column:
            for line in lines:
                widest = max(widest, cell_len(line.token))
    return widest


def _aligned(lines: list[Line], token_width: int) -> Text:
    """Return the lines of a cell as one text, the numbers below each other."""
    texts = []
    for line in lines:
        padding = " " * (token_width - cell_len(line.token))
        texts.append(Text(f"{line.token}{padding} {line.number}", line.style))
    return Text("\n").join(texts)
