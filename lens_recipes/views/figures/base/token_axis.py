"""The columns of a map, and an axis of tokens whose labels can be read, however many there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.views.figures.base.cells import WORD_LETTERS
from lens_recipes.views.summaries.trust import UNFITTED_MARK

MAX_UPRIGHT = 24  # labels stand upright up to this number of columns, and are turned beyond it
LABEL_WIDTH = 15  # pixels that a turned label takes, and a column without words

MAX_WORD_COLUMNS = 60  # a map of more columns has no words in its cells
WORD_WIDTH = 74  # pixels of a column with words of `WORD_LETTERS`
NARROW_WORD_WIDTH = 50  # pixels of a column with words of `NARROW_WORD_LETTERS`
NARROW_WORD_LETTERS = 6
# A map of more columns shows a window of so many, above an overview of all.
MAX_COLUMNS = 120
WINDOW_COLUMNS = 60
WINDOW_WIDTH = 1200  # pixels
OVERVIEW_SHARE = 0.18  # of the height of the map


class Columns(NamedTuple):
    """The columns of a map.

    Attributes:
        tokens: Indices of the tokens that are shown.
        texts: What each column is called.
        numbers: A small number below each text; None for no numbers.
        title: Of the axis.
        describe: Returns the first lines of a cell's hover, given its site and its token as
            indices.
    """

    tokens: Sequence[int]
    texts: list[str]
    numbers: list[int] | None
    title: str
    describe: Callable[[int, int], list[str]]

    @property
    def have_words(self) -> bool:
        """Whether there is room for words in the cells."""
        return len(self.tokens) <= MAX_WORD_COLUMNS

    @property
    def word_letters(self) -> int:
        """How many letters of a word a cell takes."""
        return WORD_LETTERS if len(self.tokens) <= MAX_UPRIGHT else NARROW_WORD_LETTERS

    @property
    def need_overview(self) -> bool:
        """Whether the columns are too many to be seen at once."""
        return len(self.tokens) > MAX_COLUMNS

    @property
    def width(self) -> int:
        """The width of all columns, or of the window, in pixels."""
        if self.need_overview:
            return WINDOW_WIDTH
        if not self.have_words:
            return len(self.tokens) * LABEL_WIDTH
        is_narrow = self.word_letters < WORD_LETTERS
        return len(self.tokens) * (NARROW_WORD_WIDTH if is_narrow else WORD_WIDTH)

    def axis(self, width: int) -> dict[str, Any]:
        """Return the axis below the map, where the map is so many pixels wide."""
        texts = [(text,) for text in self.texts]
        if not self.need_overview:
            return token_ticks(texts, self.numbers, self.title, width)
        every_label = len(texts) * LABEL_WIDTH
        overview = {"visible": True, "thickness": OVERVIEW_SHARE}
        return token_ticks(texts, self.numbers, self.title, every_label) | {"rangeslider": overview}

    def visible_range(self, border: float = 0) -> list[float]:
        """Return the range of the axis: all columns, or the last ones where they are many."""
        n_columns = len(self.tokens)
        first = n_columns - WINDOW_COLUMNS if self.need_overview else 0
        return [first - 0.5 - border, n_columns - 0.5 + border]


def mark_unfitted(text: str, *, is_fitted: bool) -> str:
    """Return the name of a column, marked where the lens was never fitted on its position."""
    return text if is_fitted else f"{UNFITTED_MARK}{text}"


def token_names(single: LensArrays) -> list[str]:
    """Return the names of the columns of one prompt's tokens."""
    pairs = zip(single.tokens.text, single.fitted.tolist(), strict=True)
    return [mark_unfitted(text, is_fitted=is_fitted) for text, is_fitted in pairs]


def token_ticks(
    columns: Sequence[tuple[str, ...]], numbers: Sequence[int] | None, title: str, width: int
) -> dict[str, Any]:
    """Return a plotly axis with a label at every n-th column, as many as have room.

    Args:
        columns: The texts of each column; a column may stand for several tokens.
        numbers: A small number below each label, where labels stand upright; None for no numbers.
        title: Of the axis.
        width: Of all columns together, in pixels.
    """
    labels = token_labels(columns, numbers)
    step = max(1, math.ceil(LABEL_WIDTH * len(labels) / width))
    return {
        "title_text": title,
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": labels[::step],
        "tickangle": label_angle(len(labels)),
    }


def token_labels(columns: Sequence[tuple[str, ...]], numbers: Sequence[int] | None) -> list[str]:
    """Return the label of each column; its texts stand one below the other if it is upright."""
    upright = len(columns) <= MAX_UPRIGHT
    separator = "<br>" if upright else " | "
    labels = [separator.join(map(plotly_safe, texts)) for texts in columns]
    if not upright or numbers is None:
        return labels
    return [
        f"{label}<br><sub>{number}</sub>" for label, number in zip(labels, numbers, strict=True)
    ]


def label_angle(n_columns: int) -> int:
    """Return by how many degrees the labels of so many columns are turned."""
    return 0 if n_columns <= MAX_UPRIGHT else 90
