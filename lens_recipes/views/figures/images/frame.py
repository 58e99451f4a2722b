"""A picture under cells: the layout that the figures of an image share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.images import Picture
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.contrast import BLACK, TRANSPARENT, WHITE, needs_black_words
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    at_the_top,
    figure_title,
    title_height,
)
from lens_recipes.views.figures.base.unreadable import GREY
from lens_recipes.views.figures.images.patches import Grid, picture_name
from lens_recipes.views.words import quantity

# All of these are in pixels.
PATCH_WIDTH = 52  # for a word of about six letters
MIN_SIDE, MAX_WIDTH, MAX_HEIGHT = 160, 1000, 900
SMALLEST_WIDTH = 560  # of a figure: below, titles are cut
MARGIN_LEFT, COLOR_BAR, MARGIN_BELOW, TITLE_GAP = 20, 120, 30, 14
LETTER_WIDTH, WORD_HEIGHT, WORD_SIZE = 7.0, 14, 11
LINE_LETTER_WIDTH = 6.3

FEWEST_LETTERS = 3  # words of fewer say nothing
MOST_LETTERS = 12

# Opacities: a picture is recognised through the cells, and does not change their colours much.
CELLS, UNREADABLE, PICTURE = 0.62, 0.75, 0.75
BUTTONS_HEIGHT = 40

# Around a word stands the other of black and white, so that it is read on every picture.
HALO = "0 0 2px {0}, 0 0 2px {0}, 0 0 3px {0}"


class Frame:
    """Where a picture and its cells stand, and how large.

    Attributes:
        grid: The patches.
        wide, tall: Of the picture on the screen, in pixels.
        letters: Of a word that fits into a patch; 0 where none does.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        width = float(np.median(np.diff(grid.x)))
        height = float(np.median(np.diff(grid.y)))
        scale = PATCH_WIDTH / width
        scale = min(scale, MAX_WIDTH / grid.width, MAX_HEIGHT / grid.height)
        scale = max(scale, min(400 / grid.width, 400 / grid.height))
        self.wide = max(MIN_SIDE, round(scale * grid.width))
        self.tall = max(MIN_SIDE, round(scale * grid.height))
        letters = int(width * self.wide / grid.width / LETTER_WIDTH)
        fits = letters >= FEWEST_LETTERS and height * self.tall / grid.height >= WORD_HEIGHT
        self.letters = min(letters, MOST_LETTERS) if fits else 0

    # -- traces --------------------------------------------------------

    def grey(self, unreadable: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the patches `[patch]` that cannot be read."""
        z = self.grid.spread(np.where(unreadable, 1.0, np.nan), np.nan)
        return self._cells("unreadable", z) | {
            "zmin": 0,
            "zmax": 1,
            "colorscale": [[0, GREY], [1, GREY]],
            "showscale": False,
            "opacity": UNREADABLE,
        }

    def colored(self, values: NDArray[np.floating], **look: Any) -> dict[str, Any]:
        """Return the patches `[patch]` in the colours of their values; NaN has none.

        Args:
            values: Of each patch.
            look: Scale, limits and colour bar.
        """
        z = self.grid.spread(values.astype(np.float64), np.nan)
        return self._cells("patches", z) | {"opacity": CELLS, **look}

    def hovers(self, lines: NDArray) -> dict[str, Any]:
        """Return what each patch `[patch]` says, over the others: also where there is no colour."""
        z = np.where(self.grid.cell < 0, np.nan, 0.0)
        return self._cells("hovers", z) | {
            "hoverinfo": None,
            "customdata": self.grid.spread(lines, "").tolist(),
            "hovertemplate": HOVER_TEMPLATE,
            "hoverongaps": False,
            "zmin": 0,
            "zmax": 1,
            "colorscale": TRANSPARENT,
            "showscale": False,
        }

    def _cells(self, name: str, z: NDArray[np.float64]) -> dict[str, Any]:
        """Return what all have in common."""
        return {
            "type": "heatmap",
            "name": name,
            "x": self.grid.x,
            "y": self.grid.y,
            "z": z,
            "hoverinfo": "skip",
            "xgap": 1,
            "ygap": 1,
        }

    def words(self, texts: NDArray, cells: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the words in the patches `[patch]`: the white ones, and the black ones.

        Args:
            texts: Of each patch, empty for none.
            cells: As `colored` gives them.
        """
        shown = self.grid.spread(texts, "")
        is_black = needs_black_words(cells)
        return [
            self._words(np.where(is_black, "", shown), WHITE, BLACK),
            self._words(np.where(is_black, shown, ""), BLACK, WHITE),
        ]

    def _words(self, shown: NDArray, color: str, around: str) -> dict[str, Any]:
        """Return words `[row, column]` in one colour."""
        return self._cells("words", np.where(shown == "", np.nan, 0.0)) | {
            "zmin": 0,
            "zmax": 1,
            "text": shown.tolist(),
            "texttemplate": "%{text}",
            "textfont": {"size": WORD_SIZE, "color": color, "shadow": HALO.format(around)},
            "colorscale": TRANSPARENT,
            "showscale": False,
        }

    # -- layout --------------------------------------------------------

    def layout(
        self,
        title: dict[str, Any],
        picture: Picture | None,
        image: int,
        *,
        room_above: int = 0,
        room_below: int = 0,
    ) -> dict[str, Any]:
        """Return the layout, with the picture under the cells; it is embedded once.

        Args:
            title: As `figure_title` makes it, without its place.
            picture: The image; None for cells without one.
            image: Its number.
            room_above: For buttons, in pixels.
            room_below: For a slider, in pixels.
        """
        above = title_height(title) + TITLE_GAP + room_above
        below = MARGIN_BELOW + room_below
        height = above + self.tall + below
        longest = max(len(line) for line in _plain(title["subtitle"]["text"]).split("<br>"))
        width = max(
            MARGIN_LEFT + self.wide + COLOR_BAR,
            min(round(MARGIN_LEFT + LINE_LETTER_WIDTH * longest), MAX_WIDTH + COLOR_BAR),
            SMALLEST_WIDTH,
        )
        axis = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
        layout = {
            "template": "plotly_white",
            "title": at_the_top(title, height),
            "font": FONT,
            "width": width,
            "height": height,
            "margin": {
                "l": MARGIN_LEFT,
                "r": width - MARGIN_LEFT - self.wide,
                "t": above,
                "b": below,
            },
            "xaxis": axis | {"range": [0, self.grid.width]},
            "yaxis": axis | {"range": [self.grid.height, 0]},
            "hoverlabel": {"align": "left"},
        }
        if picture is not None:
            layout["images"] = [self._picture(picture, image)]
        return layout

    def _picture(self, picture: Picture, image: int) -> dict[str, Any]:
        """Return the picture, stretched over the pixels of the original."""
        return {
            "source": picture.address,
            "name": alternative(picture, image),
            "xref": "x",
            "yref": "y",
            "x": 0,
            "y": 0,
            "sizex": self.grid.width,
            "sizey": self.grid.height,
            "sizing": "stretch",
            "layer": "below",
            "opacity": PICTURE,
        }


def _plain(markup: str) -> str:
    """Return a line of plotly's markup as long as it is seen."""
    for tag in ("<b>", "</b>"):
        markup = markup.replace(tag, "")
    return markup


def alternative(picture: Picture, image: int) -> str:
    """Return what stands for a picture where it is not seen."""
    size = f"{picture.width} × {picture.height} pixels"
    return f"{escape_plotly(picture_name(picture, image))}, {size}"


def image_title(
    single: LensArrays,
    text: str,
    *,
    grid: Grid,
    picture: Picture | None,
    image: int,
    prompt: str,
    notes: list[str],
    warning: str,
) -> dict[str, Any]:
    """Return the title of a figure of an image; below it stands what is drawn, and what is not.

    Args:
        single: A result of one prompt.
        text: The title.
        grid, picture, image: What is drawn.
        prompt: What the figure is about, without the image; empty for none.
        notes: More lines.
        warning: What cannot be believed; empty for nothing.
    """
    name = f"image {image}, which is not in this result"
    if picture is not None:
        name = alternative(picture, image)
    lines = [f"{name}, {len(grid.tokens)} patches"]
    if grid.note:
        lines[0] += f"; {grid.note}"
    tokens = single.tokens
    n_elsewhere = int(((tokens.image == image) & ~tokens.has_place).sum())
    if n_elsewhere:
        lines.append(f"{quantity(n_elsewhere, 'token')} of it without a place in it, not drawn")
    title = figure_title(single, text, prompt=prompt, warning=warning, tokens=grid.tokens.tolist())
    subtitle = "<br>".join([*lines, *notes, title["subtitle"]["text"]])
    return title | {"subtitle": {"text": subtitle}}
