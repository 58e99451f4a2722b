"""Where the panels of a comparison and their colour bars stand."""

from __future__ import annotations

from typing import Any, NamedTuple

from lens_recipes.views.figures.base.axes import LABEL, UPRIGHT
from lens_recipes.views.figures.base.grid import MAX_WIDTH, WORD

BESIDE = 1600  # pixels that three panels may take before they stand one below the other

NARROW, LOW = 240, 150  # pixels that a panel has at least

ALONE = 800  # pixels that it has at least where none stands beside it: the title needs them

ROW, THIN = 22, 14  # pixels: with words, without

GAP, BAR = 14, 125  # pixels: between two panels, and for a colour bar

HEAD, FOOT, PAIRS = (
    30,
    100,
    170,
)  # pixels: a panel's name, its tokens, tokens of which there are two

LONGEST = 400  # pixels of a colour bar


class Panels(NamedTuple):
    """Three panels of one size, the first two with one colour bar, in pixels of the area that they share."""

    words: bool
    wide: int
    high: int
    corners: list[tuple[int, int]]  # left, top
    width: int
    height: int
    foot: int  # below each

    @classmethod
    def of(cls, n_tokens: int, n_rows: int, two_texts: bool) -> Panels:
        """Side by side where that is not too wide, else one below the other; with words where a cell has room."""
        words = n_tokens <= UPRIGHT
        wide = min(max(NARROW, n_tokens * (WORD if words else LABEL)), MAX_WIDTH)
        high = max(LOW, n_rows * (ROW if words else THIN))
        foot = PAIRS if two_texts and not words else FOOT
        if 3 * wide <= BESIDE:
            lefts = [0, wide + GAP, 2 * wide + GAP + BAR]
            return cls(
                words, wide, high, [(left, 0) for left in lefts], lefts[-1] + wide, high, foot
            )
        wide, step = max(wide, ALONE), high + foot + HEAD
        return cls(
            words, wide, high, [(0, n * step) for n in range(3)], wide, 2 * step + high, foot
        )

    def domains(self, n: int) -> tuple[list[float], list[float]]:
        """Of the axes of panel `n`, as plotly counts: fractions, from the bottom left."""
        left, top = self.corners[n]
        x, y = ((left, left + self.wide), (self.height - top - self.high, self.height - top))
        return [v / self.width for v in x], [v / self.height for v in y]

    def bar(self, first: int, last: int) -> dict[str, Any]:
        """The colour bar at the right of the panels from `first` to `last`."""
        right = (self.corners[last][0] + self.wide + 8) / self.width
        bottom, top = self.domains(last)[1][0], self.domains(first)[1][1]
        length = min((top - bottom) * self.height, LONGEST)
        place = {
            "x": right,
            "xanchor": "left",
            "xpad": 0,
            "y": (top + bottom) / 2,
            "yanchor": "middle",
            "ypad": 0,
        }
        return {**place, "thickness": 16, "len": length, "lenmode": "pixels"}

    def corner(self, n: int) -> dict[str, Any]:
        """Where the name of panel `n` stands: an annotation without its text."""
        (left, _), (_, top) = self.domains(n)
        place = {
            "x": left,
            "xref": "paper",
            "xanchor": "left",
            "y": top,
            "yref": "paper",
            "yanchor": "bottom",
        }
        return {**place, "showarrow": False, "font": {"size": 14}}

    def axes(self, n: int, tokens: dict[str, Any], labels: list[str], kind: str) -> dict[str, Any]:
        """The axes of panel `n`, for a layout; zooming into one panel zooms into all.

        Args:
            n: Which panel, from 0.
            tokens: Its x axis.
            labels, kind: Of the rows, and what they are; shown once where panels stand beside each other.
        """
        x, y = self.domains(n)
        number = "" if n == 0 else str(n + 1)
        rows = {
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "tickfont_size": 12 if self.words else 10,
        }
        shown = {"title_text": kind} if self.corners[n][0] == 0 else {"showticklabels": False}
        return {
            f"xaxis{number}": {
                "domain": x,
                "anchor": f"y{number}",
                "matches": "x" if n else None,
                **tokens,
            },
            f"yaxis{number}": {
                "domain": y,
                "anchor": f"x{number}",
                "matches": "y" if n else None,
                **rows,
                **shown,
            },
        }
