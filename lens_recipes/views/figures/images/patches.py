"""The patches of one image: which tokens they are, and the grid in which they lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.images import Picture
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import whole_number
from lens_recipes.caller import argument, say
from lens_recipes.views.words import prompt_end, quantity

NAME_LETTERS = 60  # of a picture's name
SAME_EDGE = 0.2  # of a patch: edges so near each other are one
SAME_SIZE = 1.05  # patches of tiles whose areas differ by no more are of one grid
MAX_CELLS = 250_000  # of a grid; more is no grid of patches


class Grid(NamedTuple):
    """The patches of an image that are drawn, in a grid of cells.

    Attributes:
        tokens: Their indices in the result, `[patch]`.
        x, y: The edges of the columns and rows, in pixels of the image.
        cell: Which patch is in each cell, `[row, column]`; −1 for none.
        width, height: Of the image, in pixels.
        note: What is drawn where an image is cut into tiles; empty for one grid.
    """

    tokens: NDArray[np.intp]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    cell: NDArray[np.intp]
    width: int
    height: int
    note: str

    def spread(self, values: NDArray, empty: object) -> NDArray:
        """Return values of the patches `[patch, …]` as cells `[row, column, …]`."""
        cells = values[np.maximum(self.cell, 0)]
        cells[self.cell < 0] = empty
        return cells


def picture_of(single: LensArrays, image: int) -> Picture | None:
    """Return an image of a result of one prompt; None where it kept no pictures.

    Raises:
        ValueError: there is no such image, or none at all.
    """
    tokens = single.tokens
    pictures = single.pictures[0] if single.pictures else []
    n_images = len(pictures)
    if tokens.image is not None:
        n_images = max(n_images, int(tokens.image.max(initial=-1)) + 1)
    if n_images == 0:
        raise ValueError(
            "this prompt has no image: "
            + say(python="pass images= to the recipe.", shell="run it with --image FILE.")
        )
    number = whole_number(image)
    if number is None or not 0 <= number < n_images:
        raise ValueError(
            f"{argument('image', image)} is out of range: the prompt has "
            f"{quantity(n_images, 'image')}, counted from 0."
        )
    return pictures[number] if pictures else None


def picture_name(picture: Picture, image: int) -> str:
    """Return the name of an image, as "image 0: dog.png", in one line."""
    name = prompt_end(picture.name, NAME_LETTERS)
    number = f"image {image}"
    return number if name == number else f"{number}: {name}"


def patch_grid(single: LensArrays, image: int, picture: Picture | None) -> Grid:
    """Return the patches of an image, of the finest of its grids.

    Raises:
        ValueError: none of the tokens that were read has a place in it.
    """
    tokens = single.tokens
    placed = np.flatnonzero(tokens.has_place & (tokens.image == image))
    if len(placed) == 0:
        raise ValueError(f"image {image} has no patches to draw: {_why_none(single, image)}.")
    chosen, note = finest(single, placed)
    boxes = tokens.box[chosen].astype(np.float64)
    x = edges(boxes[:, 0], boxes[:, 2])
    y = edges(boxes[:, 1], boxes[:, 3])
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"the {len(chosen):,} patches of image {image} lie over each other.")
    if (len(x) - 1) * (len(y) - 1) > MAX_CELLS:
        raise ValueError(
            f"the {len(chosen):,} patches of image {image} lie in {len(x) - 1:,} columns and "
            f"{len(y) - 1:,} rows, which is no grid."
        )
    cell = np.full((len(y) - 1, len(x) - 1), -1, dtype=np.intp)
    for patch, (left, top, right, bottom) in enumerate(boxes):
        columns = slice(nearest(x, left), nearest(x, right))
        rows = slice(nearest(y, top), nearest(y, bottom))
        cell[rows, columns] = patch
    width, height = int(np.ceil(boxes[:, 2].max())), int(np.ceil(boxes[:, 3].max()))
    if picture is not None:
        width, height = picture.width, picture.height
    return Grid(chosen, x, y, cell, width, height, note)


def _why_none(single: LensArrays, image: int) -> str:
    """Return why none of the tokens that were read has a place in an image."""
    n_read = int(np.sum(single.tokens.image == image))
    if n_read:
        return (
            f"the {quantity(n_read, 'token')} of it that were read look at the whole image, or end "
            "a line"
        )
    none_read = "none of its tokens was read: "
    if single.tokens.generated.any():
        return none_read + say(
            python="include_prompt=True reads the prompt as well",
            shell="lens-recipes logit-lens reads the prompt",
        )
    return none_read + say(
        python='positions="image" reads all', shell="--positions image reads all"
    )


def finest(single: LensArrays, placed: NDArray[np.intp]) -> tuple[NDArray[np.intp], str]:
    """Return those of an image's patches that are of its finest grid, and which these are.

    An image may be cut into tiles, beside a smaller copy of the whole of it.
    """
    tiles = single.tokens.tile[placed]  # type: ignore[index]
    boxes = single.tokens.box[placed].astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    names = np.unique(tiles)
    if len(names) == 1:
        return placed, ""
    area_of = {int(tile): float(np.median(areas[tiles == tile])) for tile in names}
    smallest = min(area_of.values())
    fine = [tile for tile, area in area_of.items() if area <= SAME_SIZE * smallest]
    if len(fine) > 1 and -1 in fine:
        fine.remove(-1)
    is_fine = np.isin(tiles, fine)
    shown = tiles_in_words(fine)
    left_out = [tile for tile in area_of if tile not in fine]
    if not left_out:
        return placed, f"drawn: {shown}"
    words = f"drawn: the finest grid, {shown}; not {tiles_in_words(left_out)}"
    return placed[is_fine], words


def tiles_in_words(tiles: list[int]) -> str:
    """Return which tiles of an image are meant: "tiles 0–5", "the whole image"."""
    numbers = sorted(tile for tile in tiles if tile >= 0)
    words = []
    if len(numbers) == 1:
        words.append(f"tile {numbers[0]}")
    elif numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
        words.append(f"tiles {numbers[0]}–{numbers[-1]}")
    elif numbers:
        words.append(f"tiles {', '.join(map(str, numbers))}")
    if len(numbers) < len(tiles):
        words.append("the whole image")
    return " and ".join(words)


def edges(starts: NDArray[np.float64], stops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of patches along an axis, ascending, those that are all but equal as one."""
    distance = SAME_EDGE * float(np.median(stops - starts))
    ordered = np.sort(np.concatenate([starts, stops]))
    is_new = np.concatenate([[True], np.diff(ordered) > distance])
    return ordered[is_new]


def nearest(ascending: NDArray[np.float64], edge: float) -> int:
    """Return the index of the edge that is nearest to a number."""
    return int(np.abs(ascending - edge).argmin())
