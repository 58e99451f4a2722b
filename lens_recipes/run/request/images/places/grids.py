"""Grids of patches over a region of an image."""

from __future__ import annotations

from lens_recipes.arrays.images import ImagePlace


def grid(
    rows: int,
    columns: int,
    left: float,
    top: float,
    width: float,
    height: float,
    *,
    image: int = 0,
    tile: int = -1,
) -> list[ImagePlace]:
    """Return the patches of a grid, row by row.

    Args:
        rows, columns: Of the grid.
        left, top, width, height: Of the region that it covers, in pixels of the image.
        image: Number of the image.
        tile: Number of the tile; −1 for the whole image.
    """
    places = []
    for row in range(rows):
        for column in range(columns):
            places.append(
                ImagePlace(
                    image,
                    tile,
                    row,
                    column,
                    left + width * column / columns,
                    top + height * row / rows,
                    left + width * (column + 1) / columns,
                    top + height * (row + 1) / rows,
                )
            )
    return places
