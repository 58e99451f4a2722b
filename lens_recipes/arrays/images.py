"""The images of a prompt, and where in them each image token is."""

from __future__ import annotations

import base64
import struct
from typing import NamedTuple

NOWHERE = float("nan")


PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

# Of the copy that a result keeps: more than `load` makes, less than harms a reader.
MAX_PICTURE_BYTES = 8 * 2**20
MAX_PICTURE_SIDE = 4096

# In a JPEG, what names its size: the start of a frame, of any coding.
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


class Picture(NamedTuple):
    """An image of a prompt, as a view shows it.

    Attributes:
        name: What it is called: the name of its file, or "image 0".
        width, height: Of the original, in pixels; boxes are in these.
        data: The bytes of a PNG or JPEG of it, which may be smaller.
    """

    name: str
    width: int
    height: int
    data: bytes

    @property
    def address(self) -> str:
        """The picture as an address that holds it, of the type that its bytes are.

        Raises:
            ValueError: the bytes are no PNG or JPEG.
        """
        header = picture_header(self.data)
        return f"data:image/{header.kind};base64,{base64.b64encode(self.data).decode()}"


class PictureHeader(NamedTuple):
    """What the bytes of a picture say that they are: "png" or "jpeg", and their size in pixels."""

    kind: str
    width: int
    height: int


def picture_header(data: bytes) -> PictureHeader:
    """Return what some bytes say that they are; the pixels are not read.

    Raises:
        ValueError: they are no PNG or JPEG, or too large.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise ValueError(f"a picture has {len(data):,} bytes, more than {MAX_PICTURE_BYTES:,}")
    if data.startswith(PNG):
        header = _png_header(data)
    elif data.startswith(JPEG):
        header = _jpeg_header(data)
    else:
        raise ValueError("a picture is no PNG or JPEG")
    if not 0 < min(header.width, header.height) <= max(header[1:]) <= MAX_PICTURE_SIDE:
        raise ValueError(
            f"a picture is {header.width} × {header.height} pixels, expected are 1 to "
            f"{MAX_PICTURE_SIDE} to a side"
        )
    return header


def _png_header(data: bytes) -> PictureHeader:
    """Return what a PNG says: its first chunk is its header."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("a picture begins as a PNG, and has no header of one")
    width, height = struct.unpack(">II", data[16:24])
    return PictureHeader("png", width, height)


def _jpeg_header(data: bytes) -> PictureHeader:
    """Return what a JPEG says: the first segment that begins a frame names its size."""
    start = 2
    while start + 9 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # a filling byte
            start += 1
            continue
        if marker in ALONE:
            start += 2
            continue
        (length,) = struct.unpack(">H", data[start + 2 : start + 4])
        if marker in FRAMES:
            height, width = struct.unpack(">HH", data[start + 5 : start + 9])
            return PictureHeader("jpeg", width, height)
        if marker == 0xDA or length < 2:  # the pixels begin, and nothing has said how many
            break
        start += 2 + length
    raise ValueError("a picture begins as a JPEG, and has no header of one")


class ImagePlace(NamedTuple):
    """Where an image token is: in which image of its prompt, and where in it.

    Attributes:
        image: Number of the image in its prompt; −1 for a token of no image.
        tile: Number of the tile of an image that is cut into several, −1 for the whole image.
        row, column: Of the patch in its tile's grid; −1 for a token without a place, such as a
            line's end, or one that looks at the whole image.
        left, top, right, bottom: The box of the patch in pixels of the original; NaN without a
            place.
    """

    image: int = -1
    tile: int = -1
    row: int = -1
    column: int = -1
    left: float = NOWHERE
    top: float = NOWHERE
    right: float = NOWHERE
    bottom: float = NOWHERE


NO_PLACE = ImagePlace()
