"""The words of a map's cells: those written in them, and those that a hover shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import measured_metrics
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.summaries.trust import UNFITTED_MARK
from lens_recipes.views.words import format_value, minus, probability

WORD_LETTERS = 10  # of a token in a cell
HOVER_LETTERS = 40  # of a token in a hover

# In a figure of more cells than this, a hover names the top token only: a page with 40,000 full
# hovers is slow.
MAX_FULL_HOVERS = 4000


def cell_words(
    single: LensArrays, ids: Iterable[Iterable[int]], letters: int = WORD_LETTERS
) -> list[list[str]]:
    """Return the texts of token ids `[row, column]`, short enough for the cells of a map."""
    rows = []
    for row_ids in ids:
        words = [plotly_safe(single.text(token_id), letters) for token_id in row_ids]
        rows.append(words)
    return rows


def hover_token(text: str) -> str:
    """Return the text of a token for a hover, where plotly cannot act on it."""
    return plotly_safe(text, HOVER_LETTERS)


def hover_prediction(single: LensArrays, token_id: int, logprob: float) -> str:
    """Return a predicted token and its probability for a hover: "·Paris  0.772"."""
    return f"{hover_token(single.text(token_id))}  {probability(logprob)}"


@dataclass(frozen=True)
class CellText:
    """Says in a hover what is known about a cell of a map.

    Attributes:
        single: A result of one prompt.
        metric: What is coloured.
        value_label: What its numbers are called.
        full: Whether to list all top tokens, entropy and KL, or only the top token.
    """

    single: LensArrays
    metric: str
    value_label: str
    full: bool

    def describe_site(self, site_index: int, token: int, value: float) -> list[str]:
        """Return the lines about one site after one token."""
        lines = [f"{escape_plotly(self.value_label)}: {minus(format_value(value, self.metric))}"]
        if not self._fitted[token]:
            lines.insert(0, f"{UNFITTED_MARK} a position where this lens was never fitted")
        if not self.full:
            return [*lines, self._describe_rank(site_index, token, 0)]
        lines.append("")
        for rank in range(self.single.top_ids.shape[-1]):
            lines.append(self._describe_rank(site_index, token, rank))
        return [*lines, "", self._describe_distribution(site_index, token)]

    @cached_property
    def _fitted(self) -> list[bool]:
        """Which tokens stand where the lens was fitted, `[token]`."""
        return self.single.fitted.tolist()

    def _describe_rank(self, site_index: int, token: int, rank: int) -> str:
        """Return the token that a site ranks at some place, numbered from 1."""
        token_id = self.single.top_ids[site_index, token, rank]
        logprob = self.single.top_logprobs[site_index, token, rank]
        return f"{rank + 1}. {hover_prediction(self.single, token_id, logprob)}"

    def _describe_distribution(self, site_index: int, token: int) -> str:
        """Return the metrics of the whole distribution that the result has numbers for."""
        measured = []
        for metric in measured_metrics():
            if metric.fits(self.single):
                value = getattr(self.single, metric.array)[site_index, token]
                measured.append(f"{metric.title} {value:.3f} {metric.unit}")
        return ", ".join(measured)

    def describe_output(self, token: int, value: float) -> list[str]:
        """Return the lines about the model's own output after one token; NaN is not known."""
        single = self.single
        answer = hover_prediction(single, single.final_ids[token], single.model_logprobs[token])
        shown_value = "not known: the last layer was not read"
        if not math.isnan(value):
            shown_value = minus(format_value(value, self.metric))
        return [
            f"<b>the model's output</b>, position {single.tokens.position[token]}",
            f"answer {answer}",
            f"{escape_plotly(self.value_label)}: {shown_value}",
        ]
