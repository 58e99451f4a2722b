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
from lens_recipes.views.extract import stream_of, top_predictions
from lens_recipes.views.tables.grids import empty_grid, fits, truncate
from lens_recipes.views.tables.lens.grid import ANSWER_STYLE, TOKEN_WIDTHS
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
        token: An index into `result.tokens`.
        show_top: Predictions in each cell.
        sites: Indices of the sites that have a cell.
        components: The components that have a column, from left to right.
    """

    result: LensArrays
    token: int
    show_top: int
    sites: list[int]
    components: list[str]

    def print(self, console: Console) -> None:
        """Print the columns that the width takes, and the others in further grids below."""
        token_width = self._token_width(console)
        start = 0
        while start < len(self.components):
            if start > 0:
                console.print()
            stop = self._last_that_fits(console, start, token_width)
            console.print(self._build(self.components[start:stop], token_width))
            start = stop

    def _token_width(self, console: Console) -> int:
        """Return how many columns of the terminal a token may take.

        Tokens are cut only where that gets all components into one grid. Where it does not, they
        are cut as far as each component needs to fit alone.
        """
        for token_width in TOKEN_WIDTHS:
            if self._fits(console, self.components, token_width):
                return token_width
        for token_width in TOKEN_WIDTHS:
            if all(self._fits(console, [name], token_width) for name in self.components):
                return token_width
        return TOKEN_WIDTHS[-1]

    def _last_that_fits(self, console: Console, start: int, token_width: int) -> int:
        """Return where the widest grid ends that begins at a component; it has at least one."""
        for stop in range(len(self.components), start, -1):
            if self._fits(console, self.components[start:stop], token_width):
                return stop
        return start + 1

    def _fits(self, console: Console, columns: list[str], token_width: int) -> bool:
        """Check whether a console is wide enough for some of the components."""
        return fits(console, self._build(columns, token_width))

    def _build(self, columns: list[str], token_width: int) -> Table:
        """Return the grid of some of the components."""
        cells: dict[Place, list[Line]] = {}
        for site in self.sites:
            place = self._place(site)
            if place.column in columns:
                cells[place] = self._lines(site, token_width)
        grid = empty_grid()
        grid.add_column("layer", justify="right", no_wrap=True)
        for column in columns:
            grid.add_column(column, no_wrap=True)
        widths = {column: _widest_token(cells, column) for column in columns}
        labels = dict.fromkeys(place.row for place in cells)
        for label in labels:
            row = []
            for column in columns:
                lines = cells.get(Place(label, column), [])
                row.append(_aligned(lines, widths[column]))
            grid.add_row(label, *row)
        return grid

    def _place(self, site: int) -> Place:
        """Return where a site stands. What enters layer 0 stands above what leaves it."""
        layer, component, _ = self.result.sites[site]
        if component == "embed":
            return Place("embed", stream_of(self.components) or "")
        return Place(str(layer), component)

    def _lines(self, site: int, token_width: int) -> list[Line]:
        """Return what the cell of a site says: its predictions, then the ranks of the targets."""
        result = self.result
        lines = []
        for prediction in top_predictions(result, site, self.token, self.show_top):
            text = truncate(visible_token(prediction.text), token_width)
            lines.append(Line(text, probability(prediction.logprob), style=""))
        if result.final_ranks[site, self.token] == 0:
            lines[0] = lines[0]._replace(style=ANSWER_STYLE)
        target_ranks = result.target_ranks[site, self.token]
        for target_id, rank in zip(result.target_ids[0], target_ranks, strict=True):
            text = truncate(visible_token(result.text(target_id)), token_width)
            lines.append(Line(text, f"rank {rank}", style="dim"))
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
