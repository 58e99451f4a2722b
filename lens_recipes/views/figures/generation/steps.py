"""`generation_steps()`: what each layer would have written at each step of a generation.

Each step is a figure of its own, and all of them are one figure with a slider.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.sites import site_label
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.cells import WORD_LETTERS, hover_prediction
from lens_recipes.views.figures.base.contrast import split_words_by_contrast
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.outline import BORDER, CellRun, outline_traces
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    LEGEND,
    at_the_top,
    edited_height,
    figure_title,
)
from lens_recipes.views.figures.base.unreadable import unreadable_cells
from lens_recipes.views.figures.generation.columns import RankColumns
from lens_recipes.views.figures.generation.rows import RowSite, check_which, choose_rows
from lens_recipes.views.figures.generation.written import describe_choice, written_steps
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import prompt_end

# All of these are in pixels.
MIN_WIDTH = 960
COLUMN_WIDTH = 84
ROW_HEIGHT = 24
SLIDER_HEIGHT = 95

MIN_ROWS = 6  # so many rows high is the shortest map that has room for its colour bar

# What changes in a trace from one step to the next, by the trace's type.
CHANGING_PROPERTIES = {
    "heatmap": ("type", "z", "text", "customdata"),
    "scatter": ("type", "x", "y"),
}


def generation_steps(
    result: LensArrays,
    *,
    which: str = "all",
    prompt: int = 0,
    metric: str | None = None,
    threshold: float | None = None,
    component: str | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw layers × the tokens that each ranks highest, with a slider over the written tokens.

    The colour is the probability. The cells that hold the written token are outlined. Components
    that were read stand side by side. Heads have rows of their own, and are shown only if they are
    named or nothing else was read.

    Args:
        result: What `generate_lens` gives.
        which: "all" layers, or the "important" ones of each step: those with a site that
            `result.important` finds there, with the number that says so. If there are none, the
            figure says that.
        prompt: Which prompt.
        metric, threshold: For "important", as in `result.important`. None: "kl_drop" ("prob" for
            heads), and the metric's own threshold.
        component: None for all, or only this one.
        title: Replaces the figure's own, at all steps.
        show_all: Give what cannot be read its colour, too.

    Raises:
        ValueError: no token was generated, or an argument that does not fit the result.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> generation_steps(result, which="important").show()
    """
    views = StepViews(
        result,
        which,
        prompt=prompt,
        metric=metric,
        threshold=threshold,
        component=component,
        title=title,
        show_all=show_all,
    )
    return views.slider()


class StepViews:
    """All steps of one prompt as figures, each alone or with a slider.

    The arguments are those of `generation_steps`. Steps are numbered from 0.

    Attributes:
        single: The result of that prompt.
        steps: Its written tokens.
        which: "all" or "important".
        rows: The rows of each step.
        columns: The columns of all steps.
    """

    def __init__(
        self,
        result: LensArrays,
        which: str,
        *,
        prompt: int = 0,
        metric: str | None = None,
        threshold: float | None = None,
        component: str | None = None,
        title: str | None = None,
        show_all: bool = False,
    ) -> None:
        check_which(which, metric, threshold)
        self.single, self.steps = written_steps(result, prompt)
        self.which = which
        self._title = title
        self.show_all = show_all
        self.rows = choose_rows(self.single, self.steps, which, metric, threshold, component)
        self.columns = RankColumns(self.rows.panels, self.single.top_ids.shape[-1])

    # -- figures -------------------------------------------------------

    def slider(self) -> go.Figure:
        """Return one figure of all steps, which shows one step at a time."""
        figure = self.step(0, self.rows.largest, room_below=SLIDER_HEIGHT)
        figure.frames = [self._frame(number) for number in range(len(self.steps))]
        marks = [self._slider_mark(number) for number in range(len(self.steps))]
        slider = {"steps": marks, "currentvalue": {"visible": False}, "pad": {"t": 75}}
        figure.layout.sliders = [slider]
        return figure

    def _frame(self, number: int) -> dict[str, Any]:
        """Return what changes in the figure when the slider moves to a step."""
        changes = []
        for trace in self._traces(number):
            properties = CHANGING_PROPERTIES[trace["type"]]
            changes.append({key: trace[key] for key in properties if key in trace})
        return {
            "name": str(number),
            "data": changes,
            "traces": list(range(len(changes))),
            "layout": self._changing_layout(number),
        }

    def _slider_mark(self, number: int) -> dict[str, Any]:
        """Return the place of a step on the slider."""
        at_once = {
            "mode": "immediate",
            "frame": {"duration": 0, "redraw": True},
            "transition": {"duration": 0},
        }
        return {
            "method": "animate",
            "label": f"{number + 1} {plotly_safe(self.steps[number].wrote)}",
            "args": [[str(number)], at_once],
        }

    def step(self, number: int, n_rows: int | None = None, room_below: int = 0) -> go.Figure:
        """Return the figure of one step.

        Args:
            number: Which step.
            n_rows: For how many rows there is room; None for those of this step.
            room_below: In pixels.
        """
        if n_rows is None:
            n_rows = len(self.rows.by_step[number])
        n_rows = max(MIN_ROWS, n_rows)
        changing = self._changing_layout(number)
        row_axis = {
            "title": {"text": self.rows.axis_title},
            "range": [n_rows - 0.5, -0.5 - 2 * BORDER],
            "showgrid": False,
            "zeroline": False,
        }
        more_above = edited_height(self.single)
        height = 190 + ROW_HEIGHT * n_rows + more_above + room_below
        layout = changing | {
            "template": "plotly_white",
            "title": at_the_top(changing["title"], height),
            "font": FONT,
            "legend": LEGEND,
            "showlegend": True,
            "width": max(MIN_WIDTH, 260 + round(COLUMN_WIDTH * self.columns.width)),
            "height": height,
            "margin": {"l": 130, "r": 20, "t": 120 + more_above, "b": 70 + room_below},
            "xaxis": self.columns.axis(),
            "yaxis": changing["yaxis"] | row_axis,
        }
        return Figure(self._traces(number), layout)

    # -- layout --------------------------------------------------------

    def _changing_layout(self, number: int) -> dict[str, Any]:
        """Return the part of the layout that is another one at each step."""
        rows = self.rows.by_step[number]
        layout: dict[str, Any] = {
            "title": self._step_title(number),
            "yaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [escape_plotly(row.label) for row in rows],
            },
        }
        if self.rows.nothing:
            # The annotation is there at every step, because plotly takes an empty list in a frame
            # for no change.
            layout["annotations"] = [self._nothing_annotation(visible=not rows)]
        return layout

    def _step_title(self, number: int) -> dict[str, Any]:
        """Return the title of a step; below it stands the text that the model had before it."""
        step = self.steps[number]
        choice = "; ".join(describe_choice(step))
        description = f"Step {number + 1} of {len(self.steps)}: “{plotly_safe(step.wrote, 20)}”"
        description = f"{description}; {choice}"
        written_before = "".join(earlier.wrote for earlier in self.steps[:number])
        text_before = escape_plotly(prompt_end(self.single.prompts[0] + written_before))
        context = f"after “\u2068{text_before}\u2069”"
        warning = "" if self.show_all else unreadable_sentence(self.single, [step.token])
        if warning:
            warning = f"grey: {warning}"
        if self._title is None:
            return figure_title(
                self.single, description, context, warning=warning, tokens=[step.token]
            )
        title = escape_plotly(self._title)
        return figure_title(
            self.single, title, description, context, warning=warning, tokens=[step.token]
        )

    def _nothing_annotation(self, *, visible: bool) -> dict[str, Any]:
        """Return the sentence that stands in place of the cells where there are none."""
        return {
            "text": self.rows.nothing,
            "visible": visible,
            "showarrow": False,
            "xref": "paper",
            "yref": "paper",
            "x": 0.5,
            "y": 0.5,
            "font": {"size": 15},
        }

    # -- cells ---------------------------------------------------------

    def _traces(self, number: int) -> list[dict[str, Any]]:
        """Return one step's cells, the outlines of those with the written token, and the words."""
        rows = self.rows.by_step[number]
        token = self.steps[number].token
        cells = _StepCells(self.single, self.columns, token, len(rows), show_all=self.show_all)
        for row_number, row in enumerate(rows):
            for place in row.sites:
                cells.add_site(row_number, place)
        scale = METRICS["prob"]
        heatmap = {
            "type": "heatmap",
            "x": self.columns.edges,
            "z": cells.probabilities,
            "text": np.where(cells.unreadable, "", np.array(cells.words, dtype=object)).tolist(),
            "customdata": cells.hover,
            "hoverongaps": False,
            "hovertemplate": HOVER_TEMPLATE,
            "colorscale": scale.colors,
            "zmin": 0,
            "zmax": 1,
            "xgap": 1,
            "ygap": 1,
            "colorbar": {"title": {"text": scale.title, "side": "right"}},
        }
        worded = split_words_by_contrast(heatmap)
        outlines = outline_traces(cells.written, "the token that was written")
        grey = unreadable_cells(
            ~cells.unreadable,
            cells.words,
            x=self.columns.edges,
            customdata=cells.hover,
            hovertemplate=HOVER_TEMPLATE,
            hoverinfo=None,
        )
        return [worded.cells, *outlines, worded.black_words, grey]


class _StepCells:
    """The cells of one step, `[row, column]`.

    Attributes:
        probabilities: NaN where there is no cell, and where it has no colour.
        unreadable: Which cells cannot be read with this lens, and are grey.
        words: The token in each cell.
        hover: What each cell says.
        written: The cells that hold the token that was written.
    """

    def __init__(
        self,
        single: LensArrays,
        columns: RankColumns,
        token: int,
        n_rows: int,
        *,
        show_all: bool = False,
    ) -> None:
        self.show_all = show_all
        self._single = single
        self._columns = columns
        self._token = token
        n_rows = max(1, n_rows)  # without any cell plotly would not draw the colour bar either
        shape = (n_rows, columns.n_columns)
        self.probabilities = np.full(shape, np.nan, dtype=np.float32)
        self.unreadable = np.zeros(shape, dtype=bool)
        self.words = np.full(shape, "", dtype=object).tolist()
        self.hover = np.full(shape, "", dtype=object).tolist()
        self.written: list[CellRun] = []

    def add_site(self, row: int, place: RowSite) -> None:
        """Fill the cells of one site with its top tokens."""
        single = self._single
        top_ids = single.top_ids[place.site_index, self._token]
        top_logprobs = single.top_logprobs[place.site_index, self._token]
        label = escape_plotly(site_label(single.sites[place.site_index]))
        is_readable = self.show_all or single.readable[place.site_index, self._token]
        for rank, (token_id, logprob) in enumerate(zip(top_ids, top_logprobs, strict=True)):
            column = self._columns.column_number(place.panel, rank)
            prediction = hover_prediction(single, token_id, logprob)
            if is_readable:
                self.probabilities[row, column] = math.exp(logprob)
            else:
                self.unreadable[row, column] = True
            self.words[row][column] = plotly_safe(single.text(token_id), WORD_LETTERS)
            self.hover[row][column] = f"{label}, top {rank + 1}: {prediction}"
            if token_id == single.tokens.next_id[self._token]:
                self.written.append(CellRun(self._columns.middle(place.panel, rank), row, row))
