"""The places of a comparison's panels and of their colour bars."""

from __future__ import annotations

from typing import Any, NamedTuple

from lens_recipes.views.figures.base.token_axis import LABEL_WIDTH, MAX_UPRIGHT, WORD_WIDTH

# All of these are in pixels.
MAX_SIDE_BY_SIDE = 1600  # that three panels may take before they stand one below the other
MIN_PANEL_WIDTH = 240
MAX_PANEL_WIDTH = 1400  # a panel of more columns is an overview, into which a reader zooms
MIN_PANEL_HEIGHT = 150
MIN_WIDTH_ALONE = 800  # of a panel that has none beside it, because the title needs so much
WORD_ROW_HEIGHT = 22
PLAIN_ROW_HEIGHT = 14
PANEL_GAP = 14
COLOR_BAR_WIDTH = 125
NAME_HEIGHT = 30  # of a panel's name above it
TOKENS_HEIGHT = 100  # of the tokens below a panel
TOKEN_PAIRS_HEIGHT = 170  # of turned labels that hold two tokens each


class Corner(NamedTuple):
    """The upper left corner of a panel, in pixels from the upper left of the area of all panels."""

    left: int
    top: int


class Domain(NamedTuple):
    """The edges of a panel as plotly counts them: fractions of the area, from the lower left."""

    left: float
    right: float
    bottom: float
    top: float


class Panels(NamedTuple):
    """Three panels of one size in an area that they share, all in pixels.

    The first two panels have one colour bar.

    Attributes:
        have_words: Whether cells have room for words.
        panel_width, panel_height: Of each panel.
        corners: Of each panel.
        width, height: Of the area.
        room_below: For the tokens below each panel.
    """

    have_words: bool
    panel_width: int
    panel_height: int
    corners: list[Corner]
    width: int
    height: int
    room_below: int

    @classmethod
    def arrange(cls, n_tokens: int, n_rows: int, two_texts: bool) -> Panels:
        """Place the panels side by side where that is not too wide, else one below the other.

        Args:
            n_tokens: Columns of each panel.
            n_rows: Rows of each panel.
            two_texts: Whether a column of the third panel is labelled with two tokens.
        """
        have_words = n_tokens <= MAX_UPRIGHT
        column_width = WORD_WIDTH if have_words else LABEL_WIDTH
        row_height = WORD_ROW_HEIGHT if have_words else PLAIN_ROW_HEIGHT
        panel_width = min(max(MIN_PANEL_WIDTH, n_tokens * column_width), MAX_PANEL_WIDTH)
        panel_height = max(MIN_PANEL_HEIGHT, n_rows * row_height)
        room_below = TOKENS_HEIGHT
        if two_texts and not have_words:
            room_below = TOKEN_PAIRS_HEIGHT
        if 3 * panel_width <= MAX_SIDE_BY_SIDE:
            second = panel_width + PANEL_GAP
            third = second + panel_width + COLOR_BAR_WIDTH
            corners = [Corner(0, 0), Corner(second, 0), Corner(third, 0)]
            width = third + panel_width
            height = panel_height
        else:
            panel_width = max(panel_width, MIN_WIDTH_ALONE)
            step = panel_height + room_below + NAME_HEIGHT
            corners = [Corner(0, number * step) for number in range(3)]
            width = panel_width
            height = 2 * step + panel_height
        return cls(have_words, panel_width, panel_height, corners, width, height, room_below)

    def domain(self, number: int) -> Domain:
        """Return the edges of a panel; panels are numbered from 0."""
        left, top = self.corners[number]
        right = left + self.panel_width
        bottom = top + self.panel_height
        return Domain(
            left=left / self.width,
            right=right / self.width,
            bottom=(self.height - bottom) / self.height,
            top=(self.height - top) / self.height,
        )

    def color_bar(self, first: int, last: int) -> dict[str, Any]:
        """Return the place of a colour bar as high as the panels from `first` to `last`."""
        right = self.corners[last].left + self.panel_width
        bottom = self.domain(last).bottom
        top = self.domain(first).top
        return {
            "x": (right + 8) / self.width,
            "xanchor": "left",
            "xpad": 0,
            "y": (top + bottom) / 2,
            "yanchor": "middle",
            "ypad": 0,
            "thickness": 16,
            "len": (top - bottom) * self.height,
            "lenmode": "pixels",
        }

    def name_annotation(self, number: int, name: str) -> dict[str, Any]:
        """Return an annotation that writes a panel's name above it."""
        domain = self.domain(number)
        return {
            "text": f"<b>{name}</b>",
            "x": domain.left,
            "xref": "paper",
            "xanchor": "left",
            "y": domain.top,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 14},
        }

    def axes(
        self, number: int, token_axis: dict[str, Any], row_labels: list[str], row_title: str
    ) -> dict[str, Any]:
        """Return the axes of a panel for a layout; to zoom into one panel zooms into all.

        Args:
            number: Which panel, from 0.
            token_axis: Its x axis.
            row_labels: From the lowest row up.
            row_title: Says what rows are. Title and labels stand only at the left edge.
        """
        domain = self.domain(number)
        suffix = "" if number == 0 else str(number + 1)
        x_axis = {
            "domain": [domain.left, domain.right],
            "anchor": f"y{suffix}",
            "matches": "x" if number else None,
            **token_axis,
        }
        y_axis = {
            "domain": [domain.bottom, domain.top],
            "anchor": f"x{suffix}",
            "matches": "y" if number else None,
            "tickvals": list(range(len(row_labels))),
            "ticktext": row_labels,
            "tickfont_size": 12 if self.have_words else 10,
        }
        if self.corners[number].left == 0:
            y_axis["title_text"] = row_title
        else:
            y_axis["showticklabels"] = False
        return {f"xaxis{suffix}": x_axis, f"yaxis{suffix}": y_axis}
