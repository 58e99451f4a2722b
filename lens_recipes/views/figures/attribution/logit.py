"""The logit that a figure explains, and the title that says what is known about it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size, locate
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.attribution.numbers import LogitFormat
from lens_recipes.views.figures.base.style import (
    FONT,
    at_the_top,
    edited_lines,
    provenance_line,
    quoted,
    title_height,
    title_layout,
)
from lens_recipes.views.words import after_token, minus, prompt_end, signed

# All of these are in pixels.
LETTER_WIDTH = 6.5  # of a letter below the title, about
TITLE_GAP = 12  # below the title
MARGIN_LEFT = 60
MARGIN_RIGHT = 20
MARGIN_BELOW = 70

ALWAYS_SHOWN = ("embed", "edit", "bias")  # among the bars


class ExplainedLogit(NamedTuple):
    """One logit of a result.

    Attributes:
        single: The result of one prompt.
        token: The token after which the logit is predicted, an index.
        target: Which target, an index.
    """

    single: AttributionArrays
    token: int
    target: int

    @property
    def values(self) -> NDArray[np.float32]:
        """What each part adds to the logit, `[part]`."""
        return self.single.values[:, self.token, self.target]

    @property
    def target_name(self) -> str:
        """The target, and what is subtracted from it, as text that plotly cannot act on."""
        return self.single.target_name(0, self.target, show=plotly_safe)


def find_logit(
    result: AttributionArrays, prompt: int, position: int, target: int
) -> ExplainedLogit:
    """Return the logit that a caller names.

    Raises:
        ValueError: no such prompt, token or target.
    """
    return ExplainedLogit(*locate(result, prompt, position, target))


def choose_parts(
    result: AttributionArrays, values: NDArray[np.floating[Any]], top: int
) -> list[int]:
    """Return the indices of the parts that have a bar of their own, from the first bar down.

    Args:
        result: An attribution.
        values: One number for each part, in logits.
        top: How many parts, besides embedding, edits and bias.
    """
    parts = result.parts
    always_shown = [index for index, part in enumerate(parts) if part.component in ALWAYS_SHOWN]
    size_order = by_size(values)
    largest = [index for index in size_order if index not in always_shown][:top]
    shown_parts = largest + always_shown
    all_shown = len(shown_parts) == len(parts)
    if result.unit == "layer" or (result.unit == "component" and all_shown):
        return sorted(shown_parts)
    return sorted(shown_parts, key=size_order.index)


def exact(value: float | np.floating[Any]) -> str:
    """Return the logits that a hover shows, small ones in two digits."""
    return minus(signed(value))


def set_layout(
    figure: go.Figure,
    logit: ExplainedLogit,
    title: str,
    numbers: LogitFormat,
    *,
    note: str = "",
    width: int,
    body_height: int,
) -> None:
    """Set the size of a figure, its title, and below the title the facts about the logit.

    Args:
        figure: Which figure.
        logit: The logit that it explains.
        title: The first line.
        numbers: How the figure writes logits.
        note: A sum that the figure shows; empty for none.
        width: Of the figure, in pixels.
        body_height: Of what is between its margins, in pixels.
    """
    single = logit.single
    place = f", {after_token(single, logit.token, plotly_safe)}"
    n_letters = int(width / LETTER_WIDTH) - len(place)
    lines = [
        quoted(prompt_end(single.prompts[0], n_letters)) + place,
        "; ".join(_sums(logit, numbers, note)),
        provenance_line(single),
        *edited_lines(single),
    ]
    title_texts = title_layout(title, "<br>".join(lines))
    margin_above = title_height(title_texts) + TITLE_GAP
    height = margin_above + body_height + MARGIN_BELOW
    figure.update_layout(
        template="plotly_white",
        title=at_the_top(title_texts, height),
        margin={"l": MARGIN_LEFT, "r": MARGIN_RIGHT, "t": margin_above, "b": MARGIN_BELOW},
        font=FONT,
        width=width,
        height=height,
    )


def _sums(logit: ExplainedLogit, numbers: LogitFormat, note: str) -> list[str]:
    """Return the sum of all parts, the note, and the logit where it reads otherwise."""
    place = (logit.token, logit.target)
    total = numbers.write(logit.single.total[place])
    uncapped = numbers.write(logit.single.logit[place])
    capped = numbers.write(logit.single.capped_logit[place])
    layer = escape_plotly(logit.single.at_layer)
    sums = [f"the logit after layer {layer}: {total}"]
    if uncapped != total:
        sums = [f"all parts after layer {layer}: {total}", f"the logit: {uncapped}"]
    if capped != uncapped:
        sums.append(f"{capped} after the softcap")
    if note:
        sums.append(note)
    return sums


def finite_values(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return values with NaN in place of infinities, which a scale cannot hold."""
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)
