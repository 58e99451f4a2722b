"""The map of one prompt's result: sites × tokens, coloured by one metric."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import vocab_size
from lens_recipes.arrays.sites import are_vectors, components
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.cells import (
    MAX_FULL_HOVERS,
    CellText,
    cell_words,
)
from lens_recipes.views.figures.base.color import ColorAxis, color_axis
from lens_recipes.views.figures.base.contrast import split_words_by_contrast
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.token_axis import Columns
from lens_recipes.views.figures.base.unreadable import unreadable_cells
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import prompt_end

OVERVIEW_HEIGHT = 130  # pixels, with the labels of the columns above it

ROW_HEIGHT = 24  # pixels
LOW_ROW_HEIGHT = 17  # pixels, where there are many
MANY_ROWS = 60
MIN_ROWS = 6  # so many rows high is the shortest map that has room for its colour bar

MIN_WIDTH = 580  # pixels of a map beside its row labels
COLOR_BAR_WIDTH = 130  # pixels

TITLE_SPACE = 90  # pixels above the cells that `SiteMap._height` counts
TITLE_GAP = 10  # pixels below the title
LETTER_WIDTH = 7  # pixels of a letter below the title

OUTPUT_LABEL = "output"


class SiteMap:
    """Sites × tokens of one prompt, coloured by one metric.

    Attributes:
        single: The result of one prompt.
        view: What is shown of it.
        columns: The tokens that are shown.
        with_output: Whether the model's own output is a row above the sites.
        values: The numbers of all sites and tokens, `[site, token]`.
        value_label: What the numbers are called.
        selected: Indices of the sites whose numbers the colour scale spans.
        rows: Indices of the sites that have a row, from the lowest row up.
        readable: Which cells have a colour, `[row, column]`.

    Raises:
        ValueError: as for `heatmap`.
    """

    def __init__(
        self, single: LensArrays, view: View, columns: Columns, *, with_output: bool = False
    ) -> None:
        self.single = single
        self.view = view
        self.columns = columns
        self.with_output = with_output
        self.values, self.value_label = view.measure(single)
        self.selected, self.rows = view.choose_rows(single.sites)
        tokens = list(columns.tokens)
        self.readable = single.readable[np.ix_(self.rows, tokens)]
        if with_output:
            self.readable = np.vstack([self.readable, np.ones((1, len(tokens)), dtype=bool)])
        if view.show_all:
            self.readable[:] = True

    def figure(self, name: str, *notes: str) -> go.Figure:
        """Return the map as a figure.

        Args:
            name: What the title begins with.
            notes: For the title's second line.
        """
        row_labels = self._row_labels()
        margin_left = row_label_margin(row_labels)
        width = max(MIN_WIDTH, COLOR_BAR_WIDTH + self.columns.width) + margin_left
        height = self._height(len(row_labels))
        title = figure_title(
            self.single,
            self.view.title_or(f"{name}: {escape_plotly(self.value_label)}"),
            *notes,
            self._count_note(),
            prompt=self._prompt((width - margin_left) // LETTER_WIDTH),
            warning=self._warning(),
            tokens=self.columns.tokens,
            has_marks=True,
        )
        margin_top = title_height(title) + TITLE_GAP
        height += margin_top - TITLE_SPACE
        figure = Figure(self._traces())
        figure.update_layout(
            template="plotly_white",
            title=at_the_top(title, height),
            width=width,
            height=height,
            margin={"l": margin_left, "r": 20, "t": margin_top, "b": 70},
            font=FONT,
        )
        token_axis = self.columns.axis(width - margin_left - COLOR_BAR_WIDTH)
        visible = self.columns.visible_range()
        figure.update_xaxes(**token_axis, range=visible, showgrid=False, zeroline=False)
        figure.update_yaxes(
            title_text="site" if self._has_several_components else "layer",
            tickvals=list(range(len(row_labels))),
            ticktext=row_labels,
            showgrid=False,
            zeroline=False,
        )
        return figure

    # -- rows ----------------------------------------------------------

    def _row_labels(self) -> list[str]:
        """Return what each row is called, from the lowest row up."""
        labels = [escape_plotly(self.single.sites[site_index]) for site_index in self.rows]
        if self.with_output:
            labels.append(OUTPUT_LABEL)
        return labels

    @property
    def _has_several_components(self) -> bool:
        """Whether a row must say more than its layer."""
        return components(self.single.sites) != ["resid_post"]

    @property
    def _says_how_many(self) -> bool:
        """Whether the title says how many of the sites are shown.

        Where the rows are plain layers, their numbers say that some are left out.
        """
        all_shown = len(self.rows) == len(self.single.sites)
        named = self.view.sites is not None
        return not all_shown and (self._has_several_components or named)

    def _count_note(self) -> str:
        """Return how many of the sites are shown, where the title says that."""
        if not self._says_how_many:
            return ""
        return f"{len(self.rows)} of {len(self.single.sites)} sites"

    def _prompt(self, n_letters: int) -> str:
        """Return the end of the prompt, in so many letters; empty for vectors, which have none."""
        if are_vectors(self.single.sites):
            return ""
        return prompt_end(self.single.prompts[0], n_letters)

    def _warning(self) -> str:
        """Return which layers cannot be read, where cells are grey because of that."""
        if self.readable.all():
            return ""
        return f"grey: {unreadable_sentence(self.single, self.columns.tokens)}"

    def _height(self, n_rows: int) -> int:
        """Return the height of the figure in pixels."""
        if self._says_how_many or are_vectors(self.single.sites):
            n_rows = max(n_rows, MIN_ROWS)
        height = 170 + n_rows * (ROW_HEIGHT if n_rows <= MANY_ROWS else LOW_ROW_HEIGHT)
        return height + OVERVIEW_HEIGHT if self.columns.need_overview else height

    # -- cells ---------------------------------------------------------

    def _traces(self) -> list[dict[str, Any]]:
        """Return the cells as one heatmap, or as two where there are words in them."""
        axis = self._color_axis()
        n_rows, n_columns = axis.values.shape
        gap = 0 if self.columns.need_overview else 1  # an overview would be nothing but gaps
        cells = {
            "type": "heatmap",
            "z": axis.values,
            "x": list(range(n_columns)),
            "y": list(range(n_rows)),
            "customdata": self._hover(),
            "hovertemplate": HOVER_TEMPLATE,
            "hoverongaps": True,
            "colorscale": self.view.colorscale(),
            "colorbar": {
                "title": {"text": escape_plotly(self.value_label), "side": "right"},
                **axis.bar,
            },
            "xgap": gap,
            "ygap": gap,
            **axis.limits,
        }
        words = self._words() if self.columns.have_words else None
        grey = (
            []
            if self.readable.all()
            else [unreadable_cells(self.readable, words, xgap=gap, ygap=gap)]
        )
        if words is None:
            return [*grey, cells]
        colored_words = np.where(self.readable, np.array(words, dtype=object), "").tolist()
        return [*grey, *split_words_by_contrast(cells | {"text": colored_words})]

    def _color_axis(self) -> ColorAxis:
        """Return the numbers of all cells `[row, column]` on the colour scale.

        The scale spans the numbers of all selected sites, whether or not they have a row.
        """
        metric = self.view.metric
        vocab = vocab_size(self.single)
        tokens = list(self.columns.tokens)
        axis = color_axis(metric, self.values[np.ix_(self.selected, tokens)], vocab)
        cell_values = axis.values[[self.selected.index(site_index) for site_index in self.rows]]
        if self.with_output:
            output_row = color_axis(metric, self._output_values(), vocab).values
            cell_values = np.vstack([cell_values, output_row])
        return axis._replace(values=np.where(self.readable, cell_values, np.nan))

    def _words(self) -> list[list[str]]:
        """Return the top-1 tokens that are written in the cells."""
        tokens = list(self.columns.tokens)
        token_ids = [self.single.top_ids[site_index, tokens, 0] for site_index in self.rows]
        if self.with_output:
            token_ids.append(self.single.final_ids[tokens])
        return cell_words(self.single, token_ids, self.columns.word_letters)

    def _hover(self) -> list[list[str]]:
        """Return what each cell says, `[row, column]`."""
        full = len(self.rows) * len(self.columns.tokens) <= MAX_FULL_HOVERS
        cell_text = CellText(self.single, self.view.metric, self.value_label, full)
        hover = [self._hover_of_site(site_index, cell_text) for site_index in self.rows]
        if self.with_output:
            hover.append(self._hover_of_output(cell_text))
        return hover

    def _hover_of_site(self, site_index: int, cell_text: CellText) -> list[str]:
        """Return what each cell of a site's row says."""
        row_texts = []
        for token in self.columns.tokens:
            value = float(self.values[site_index, token])
            place = self.columns.describe(site_index, token)
            lines = place + cell_text.describe_site(site_index, token, value)
            row_texts.append("<br>".join(lines))
        return row_texts

    def _hover_of_output(self, cell_text: CellText) -> list[str]:
        """Return what each cell in the row of the model's own output says."""
        row_texts = []
        for token, value in zip(self.columns.tokens, self._output_values(), strict=True):
            row_texts.append("<br>".join(cell_text.describe_output(token, float(value))))
        return row_texts

    def _output_values(self) -> NDArray[np.floating[Any]]:
        """Return the model's own numbers, `[column]`; NaN where they are not known.

        The probability that the model gave its answer was measured. Every other number is that of
        the last layer, where that layer was read.
        """
        tokens = list(self.columns.tokens)
        if self.view.of in (None, "final"):
            if self.view.metric == "prob":
                return np.exp(self.single.model_logprobs)[tokens]
            if self.view.metric == "logprob":
                return self.single.model_logprobs[tokens]
        site_index = self.single.output_site
        if site_index < 0:
            return np.full(len(tokens), np.nan)
        return self.values[site_index, tokens]


def row_label_margin(labels: Iterable[str]) -> int:
    """Return how many pixels the labels of the rows need on the left."""
    letters = [len(html.unescape(label)) for label in labels]
    return max(60, 40 + 7 * max(letters))


def make_room(figure: go.Figure, pixels: int) -> None:
    """Make a map so much higher between its title and its cells."""
    layout = figure.layout
    distance = (1 - layout.title.y) * layout.height
    height = layout.height + pixels
    figure.update_layout(
        height=height, margin_t=layout.margin.t + pixels, title_y=1 - distance / height
    )
