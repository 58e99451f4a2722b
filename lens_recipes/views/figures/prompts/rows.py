"""What a map of prompts shows: a row for each prompt, with its numbers and its words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.batch.outcomes import chosen_tokens, default_of
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, common_label, metric_values
from lens_recipes.arrays.metrics.followed import numbers_of_token
from lens_recipes.arrays.sites import UNORDERED, components, site_label
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.cells import MAX_FULL_HOVERS, CellText
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.summaries.trust import cannot
from lens_recipes.views.words import after_token, prompt_end

PROMPT_LETTERS = 44
ANSWER_LETTERS = 12

# What the legend calls a token that is followed.
FOLLOWED = {"target": "the target", "final": "the model's answer", "next": "the next token"}


class PromptRow(NamedTuple):
    """One prompt after one token.

    Attributes:
        number: Which prompt.
        token: Which token, an index into `result.tokens`.
        values: The numbers, `[column]`.
        is_top: Where the token that is followed is top-1, `[column]`.
        value_label: What the numbers are called.
    """

    number: int
    token: int
    values: NDArray[np.floating[Any]]
    is_top: NDArray[np.bool_]
    value_label: str


class PromptRows:
    """Prompts × sites, with one metric.

    Attributes:
        result: Any lens result with layers.
        view: What is shown of it.
        of: The token that the metric is about; None for none.
        columns: Indices of the sites, from left to right.
        rows: The prompts, from the uppermost down.
        readable: Which cells have a colour, `[row, column]`.
        value_label: What the numbers are called.
    """

    def __init__(self, result: LensArrays, view: View, position: int) -> None:
        self.result = result
        self.view = view
        self.about_token = METRICS[view.metric].about in ("top", "token")
        self.of = view.of
        if self.of is None and self.about_token:
            self.of = default_of(result)
        self.columns = view.choose_rows(result.sites).drawn
        tokens = chosen_tokens(result, position)
        self.rows = [self._row(number, token) for number, token in enumerate(tokens)]
        self.readable = result.readable[self.columns][:, tokens].T
        if view.show_all:
            self.readable = np.ones_like(self.readable)
        labels = [row.value_label for row in self.rows]
        self.value_label = common_label(view.metric, self.of, labels)

    def _row(self, number: int, token: int) -> PromptRow:
        """Return the numbers of one prompt after one of its tokens."""
        single = self.result[number]
        place = token - int(np.searchsorted(self.result.tokens.prompt, number))
        values, value_label = metric_values(single, self.view.metric, self.of)
        ranks = numbers_of_token(single, self.of if self.about_token else "final").ranks
        is_top = ranks[self.columns, place] == 0
        return PromptRow(number, token, values[self.columns, place], is_top, value_label)

    @property
    def values(self) -> NDArray[np.floating[Any]]:
        """The numbers of all cells, `[row, column]`."""
        return np.stack([row.values for row in self.rows])

    @property
    def is_top(self) -> NDArray[np.bool_]:
        """Where the token that is followed is top-1 and can be read, `[row, column]`."""
        return np.stack([row.is_top for row in self.rows]) & self.readable

    # -- words ---------------------------------------------------------

    @property
    def followed(self) -> str:
        """What the legend calls the token that is followed."""
        if not self.about_token:
            return FOLLOWED["final"]
        return FOLLOWED.get(str(self.of), "this token")

    @property
    def column_title(self) -> str:
        """The title of the columns."""
        if not self._have_layers:
            return "site"
        component = self.result.sites[self.columns[0]].component
        return "layer" if component == "resid_post" else f"layer ({escape_plotly(component)})"

    @property
    def column_labels(self) -> list[str]:
        """What each column is called: its layer, where that is enough."""
        sites = [self.result.sites[site] for site in self.columns]
        return [escape_plotly(site.layer if self._have_layers else site) for site in sites]

    @property
    def _have_layers(self) -> bool:
        """Whether the layer is enough to name a column."""
        names = components(self.result.sites[site] for site in self.columns)
        return len(names) == 1 and names[0] not in (*UNORDERED, "embed")

    def prompt_labels(self) -> Iterator[str]:
        """Yield the end of each prompt, and its target where that is followed."""
        for row in self.rows:
            label = _one_line(prompt_end(self.result.prompts[row.number], PROMPT_LETTERS))
            if self.of == "target":
                target = self.result.text(self.result.target_ids[row.number, 0])
                label += f" → {plotly_safe(target, ANSWER_LETTERS)}"
            yield label

    def answer_labels(self) -> Iterator[str]:
        """Yield each of the model's answers: "right", or in bold where it is not the target."""
        for row in self.rows:
            answer_id = self.result.final_ids[row.token]
            answer = plotly_safe(self.result.text(answer_id), ANSWER_LETTERS)
            if self.of != "target":
                yield answer
            elif self.result.target_ids[row.number, 0] == answer_id:
                yield "right"
            else:
                yield f"<b>{answer}</b>"

    def hover(self) -> list[list[str]]:
        """Return what each cell says, `[row, column]`."""
        full = self.readable.size <= MAX_FULL_HOVERS
        hover = []
        for row, readable in zip(self.rows, self.readable, strict=True):
            prompt = _one_line(prompt_end(self.result.prompts[row.number]))
            place = f"{prompt}, {after_token(self.result, row.token, plotly_safe)}"
            cell_text = CellText(self.result, self.view.metric, row.value_label, full)
            row_texts = []
            for column, site in enumerate(self.columns):
                site_name = escape_plotly(site_label(self.result.sites[site]))
                lines = [f"<b>{site_name}</b>, prompt {row.number}", place]
                if not readable[column]:
                    lines.append(f"{cannot(self.result)}:")
                lines += cell_text.describe_site(site, row.token, float(row.values[column]))
                row_texts.append("<br>".join(lines))
            hover.append(row_texts)
        return hover


def _one_line(text: str) -> str:
    """Return a text on one line, where plotly cannot act on it."""
    return plotly_safe(text, len(text) + 1).replace("·", " ")
