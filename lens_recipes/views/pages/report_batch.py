"""What a report of many prompts opens on: a row for each, with its target's rank at every layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lens_recipes.arrays.batch.outcomes import default_of, is_batch
from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, vocab_size
from lens_recipes.arrays.sites import site_label
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.figures.base.color import color_axis
from lens_recipes.views.figures.base.contrast import hexadecimal
from lens_recipes.views.figures.base.unreadable import GREY
from lens_recipes.views.pages.html import page_text
from lens_recipes.views.summaries.trust import cannot
from lens_recipes.views.tables.lens.batch.table import Show, batch_table
from lens_recipes.views.tables.selection import select

MAX_ROWS = 200

ONE_PROMPT_NOTE = "one prompt layer by layer"  # the page has that below


class BatchCell(NamedTuple):
    """A cell or a heading: its text, safe as HTML, and whether it is a number."""

    text: Markup
    is_numeric: bool


class BatchRow(NamedTuple):
    """A prompt: its cells, and its ranks from layer to layer as colours and as words."""

    prompt: int
    cells: list[BatchCell]
    colors: Markup
    ranks: Markup


class BatchSection(NamedTuple):
    """The table of many prompts.

    Attributes:
        headings: Of the cells.
        rank_heading: Of the column of colours.
        rows: A row for each prompt.
        notes: Sentences below the table.
    """

    headings: list[BatchCell]
    rank_heading: Markup
    rows: list[BatchRow]
    notes: list[Markup]

    @property
    def n_bytes(self) -> int:
        """How many bytes the rows take on the page, at most."""
        sizes = []
        for row in self.rows:
            texts = [row.colors, row.ranks, *(cell.text for cell in row.cells)]
            sizes.append(sum(len(text.encode()) + 40 for text in texts))
        return sum(sizes)

    def only(self, prompts: list[int]) -> BatchSection:
        """Return the table with the rows of some prompts, numbered as they are on the page."""
        number_on_page = {prompt: number for number, prompt in enumerate(prompts)}
        rows = []
        for row in self.rows:
            if row.prompt in number_on_page:
                rows.append(row._replace(prompt=number_on_page[row.prompt]))
        return self._replace(rows=rows)


def batch_section(result: LensArrays) -> BatchSection | None:
    """Return the table of the first prompts; None where there are not several to compare."""
    if not is_batch(result):
        return None
    selection = select(result, max_prompts=min(MAX_ROWS, len(result)))
    table = batch_table(result, selection, Show(visible_token, str))
    series = settling(result)
    of = default_of(result)
    _, ranks, name = result.of(of)
    rows = []
    for number, outcome in enumerate(table.rows):
        cells = [
            BatchCell(_cell_text(column.cells[number]), column.is_numeric)
            for column in table.columns
        ]
        token_ranks = ranks[series, outcome.token]
        readable = result.readable[series, outcome.token]
        colors = _stripes(token_ranks, readable, vocab_size(result))
        words = page_text(_rank_words(result, series, token_ranks, readable))
        rows.append(BatchRow(outcome.prompt, cells, colors, words))
    headings = [BatchCell(page_text(column.heading), column.is_numeric) for column in table.columns]
    first, last = (site_label(result.sites[site]) for site in (series[0], series[-1]))
    rank_heading = page_text(f"rank of {name}, {first} to {last}")
    notes = [note for note in table.notes if not note.startswith(ONE_PROMPT_NOTE)]
    if not result.readable[series].all():
        notes.append(f"grey: {cannot(result)}")
    return BatchSection(headings, rank_heading, rows, [page_text(note) for note in notes])


def _cell_text(text: str) -> Markup:
    """Return the text of a cell, safe as HTML; an empty cell stays empty."""
    return page_text(text) if text else Markup("")


def _stripes(ranks: NDArray[np.int32], readable: NDArray[np.bool_], vocab: int) -> Markup:
    """Return the ranks of one prompt as a CSS background, one stripe for each layer."""
    from plotly.colors import sample_colorscale

    axis = color_axis("rank", ranks.astype(np.float64), vocab)
    low, high = axis.limits["zmin"], axis.limits["zmax"]
    fractions = np.clip((axis.values - low) / (high - low), 0, 1).tolist()
    shades = sample_colorscale(METRICS["rank"].colors, fractions, colortype="tuple")
    stops = []
    width = 100 / len(shades)
    for number, (shade, can_be_read) in enumerate(zip(shades, readable, strict=True)):
        color = hexadecimal(shade) if can_be_read else GREY
        stops.append(f"{color} {number * width:.5g}% {(number + 1) * width:.5g}%")
    return Markup(f"linear-gradient(to right, {', '.join(stops)})")


def _rank_words(
    result: LensArrays, series: list[int], ranks: NDArray[np.int32], readable: NDArray[np.bool_]
) -> str:
    """Return the ranks of one prompt in words, of the layers that can be read.

    Example: "24: 91, 25: 112, 26: 33".
    """
    words = []
    for site, rank, can_be_read in zip(series, ranks.tolist(), readable, strict=True):
        if can_be_read:
            words.append(f"{result.sites[site]}: {rank:,}")
    return ", ".join(words) or "cannot be read"
