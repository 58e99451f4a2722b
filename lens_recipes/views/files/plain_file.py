"""Files of others, read with care: only plain files, and never more memory than their size allows.

A file that was sent to someone may be made to harm its reader. A pipe waits for ever, a device does
not end, and a short archive unpacks to any length.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from lens_recipes.errors import LensError

MAX_RATIO = 100  # bytes of an array for each byte of its file; numbers are packed 1 to 10 times

ALWAYS_ALLOWED_BYTES = 2**26  # 64 MiB, however small the file: a result may hold NaN only

NUMBER_KINDS = "biuf"  # truth values, whole numbers and floating-point numbers


@contextmanager
def open_plain_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes.

    Raises:
        LensError: it is a folder, a pipe, a device or a socket, or a link to one.
        OSError: there is no such file, or it may not be read.
    """
    # Looked at first, because to open a device can do something; and once more when it is open,
    # because another file may have taken its place. Opening does not wait for the end of a pipe.
    _check_plain(path, os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with open(descriptor, "rb") as file:
        _check_plain(path, os.fstat(descriptor))
        yield file


_BINARY = getattr(os, "O_BINARY", 0)  # on Windows line breaks are translated otherwise


def _check_plain(path: str | os.PathLike[str], found: os.stat_result) -> None:
    """Raise a LensError if what was found at a path is no plain file."""
    if not stat.S_ISREG(found.st_mode):
        raise LensError(
            f"{str(path)!r} is no plain file but {_sort_of(found.st_mode)}; name a file that was "
            "saved."
        )


def _sort_of(mode: int) -> str:
    """Return what a file is that is not plain."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a text in UTF-8.

    Raises:
        LensError: it is no plain file.
        OSError: there is no such file, or it may not be read.
        ValueError: it is not UTF-8.
    """
    with open_plain_file(path) as file:
        return str(file.read(), "utf-8")


class ArrayArchive:
    """The arrays of an `.npz` file, of which each is read when it is asked for.

    What a header says is held against the size of the member, and all that is read against the size
    of the file, before there is memory for it. Nothing is unpickled.
    """

    def __init__(self, file: IO[bytes]) -> None:
        file_bytes = os.fstat(file.fileno()).st_size
        self._zip = zipfile.ZipFile(file)
        self._members = set(self._zip.namelist())
        self._bytes_left = max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * file_bytes)

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._members

    def text(self, name: str) -> str:
        """Return the text that a member holds.

        Raises:
            KeyError, OSError, ValueError, zipfile.BadZipFile: it is no text, too large, or damaged.
        """

        def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            if shape or dtype.kind != "U":
                raise ValueError(f"{name!r} is no text")

        return str(self._read(name, check))

    def numbers(self, name: str, check_shape: Callable[[tuple[int, ...]], None]) -> Any:
        """Return the numbers that a member holds.

        Args:
            name: The array.
            check_shape: Raises a ValueError if the array cannot have a shape. It is asked before
                there is memory for the array.

        Raises:
            KeyError, OSError, ValueError, zipfile.BadZipFile: it holds no numbers, is too large,
                or damaged.
        """

        def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            if dtype.kind not in NUMBER_KINDS:
                raise ValueError(f"{name!r} holds no numbers")
            check_shape(shape)

        return self._read(name, check)

    def _read(self, name: str, check: Callable[[tuple[int, ...], np.dtype[Any]], None]) -> Any:
        """Return an array whose shape and type of numbers pass a check."""
        member = self._zip.getinfo(f"{name}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name!r} is packed in a way that results are not")
        with self._zip.open(member) as stream:
            shape, dtype = _read_header(stream)
            header_bytes = stream.tell()
        if dtype.hasobject:
            raise ValueError(f"{name!r} holds objects of Python, which are not read")
        check(shape, dtype)
        n_bytes = dtype.itemsize
        for length in shape:
            n_bytes *= length
        if n_bytes != member.file_size - header_bytes:
            raise ValueError(f"{name!r} is not as long as its shape {list(shape)} says")
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise ValueError(
                f"it unpacks to more than {MAX_RATIO} times its size at {name!r}, as no result does"
            )
        with self._zip.open(member) as stream:
            values = npy.read_array(stream, allow_pickle=False)
            stream.read(1)  # the end, at which the checksum is compared
        return values


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the numbers of an array, and leave the stream behind its header.

    Raises:
        ValueError: it is no header, or of a version that has no use for numbers.
    """
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array of version {version} is not read")
    return shape, dtype
