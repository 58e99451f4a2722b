"""What a vision tower sees of an image, and grids of patches over it."""

from __future__ import annotations

from typing import NamedTuple

from lens_recipes.arrays.images import ImagePlace

Region = tuple[float, float, float, float]  # left, top, right and bottom in a canvas


class Canvas(NamedTuple):
    """The pixels that a vision tower sees, and where in them the image is.

    A pixel x of the image is at `left + x * scale_x` of the canvas; so for y.

    Attributes:
        width, height: Of the canvas.
        left, top: Where in the canvas the image begins; below 0 where it is cut.
        scale_x, scale_y: Pixels of the canvas for one of the image.
        image_width, image_height: Of the image.
    """

    width: float
    height: float
    left: float
    top: float
    scale_x: float
    scale_y: float
    image_width: int
    image_height: int

    def stretched(self, width: float, height: float) -> Canvas:
        """Return the canvas with all that is on it stretched to a size."""
        wider, higher = width / self.width, height / self.height
        return self._replace(
            width=width,
            height=height,
            left=self.left * wider,
            top=self.top * higher,
            scale_x=self.scale_x * wider,
            scale_y=self.scale_y * higher,
        )

    def framed(self, width: float, height: float, left: float, top: float) -> Canvas:
        """Return a canvas of a size, in which this one begins at a place: padded or cut."""
        return self._replace(width=width, height=height, left=self.left + left, top=self.top + top)

    def centred(self, width: int, height: int) -> Canvas:
        """Return a canvas of a size with this one in its middle: padded or cut, in whole pixels.

        What is left over of an odd number of pixels is on the right and at the bottom, as in
        transformers (`pad_to_square`, `_get_padding_size`).
        """
        left, top = (width - self.width) // 2, (height - self.height) // 2
        if width < self.width:
            left = -((self.width - width) // 2)
        if height < self.height:
            top = -((self.height - height) // 2)
        return self.framed(width, height, left, top)


def whole(size: tuple[int, int]) -> Canvas:
    """Return an image of a width and a height as it is."""
    width, height = size
    return Canvas(width, height, 0, 0, 1, 1, width, height)


def spans(start: float, end: float, number: int) -> list[tuple[float, float]]:
    """Return where each of so many equal parts begins and ends; nothing for no parts."""
    step = (end - start) / max(number, 1)
    return [(start + step * part, start + step * (part + 1)) for part in range(number)]


def check_even(pixels: int, number: int) -> None:
    """Raise a ValueError unless tokens share the pixels of a side evenly."""
    if pixels % number:
        raise ValueError(f"{pixels} pixels are not {number} tokens")


def grid(
    canvas: Canvas,
    rows: int,
    columns: int,
    *,
    image: int,
    tile: int = -1,
    region: Region | None = None,
) -> list[ImagePlace]:
    """Return the patches of an even grid over a canvas, row by row.

    Args:
        canvas: What the vision tower sees.
        rows, columns: Of the grid.
        image: Number of the image.
        tile: Number of the tile; −1 for the whole image.
        region: Left, top, right and bottom of the grid in the canvas; None for all of it.
    """
    left, top, right, bottom = region or (0, 0, canvas.width, canvas.height)
    row_spans, column_spans = spans(top, bottom, rows), spans(left, right, columns)
    return uneven_grid(canvas, row_spans, column_spans, image=image, tile=tile)


def uneven_grid(
    canvas: Canvas,
    rows: list[tuple[float, float]],
    columns: list[tuple[float, float]],
    *,
    image: int,
    tile: int = -1,
) -> list[ImagePlace]:
    """Return the patches of a grid over a canvas, row by row.

    A patch that is beyond the image, on padding, has no place. One that is partly beyond it has
    the box of the rest.

    Args:
        canvas: What the vision tower sees.
        rows: Top and bottom of each row in the canvas.
        columns: Left and right of each column.
        image: Number of the image.
        tile: Number of the tile; −1 for the whole image.
    """
    places = []
    for row, (top, bottom) in enumerate(rows):
        for column, (left, right) in enumerate(columns):
            box = boxed(canvas, left, top, right, bottom)
            if box is None:
                places.append(ImagePlace(image, tile))
            else:
                places.append(ImagePlace(image, tile, row, column, *box))
    return places


def boxed(
    canvas: Canvas, left: float, top: float, right: float, bottom: float
) -> tuple[float, float, float, float] | None:
    """Return a box of a canvas in pixels of the image; None for one that is beyond it."""
    box = (
        min(max((left - canvas.left) / canvas.scale_x, 0), canvas.image_width),
        min(max((top - canvas.top) / canvas.scale_y, 0), canvas.image_height),
        min(max((right - canvas.left) / canvas.scale_x, 0), canvas.image_width),
        min(max((bottom - canvas.top) / canvas.scale_y, 0), canvas.image_height),
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    return box
