"""Read what `torch.save` wrote, without torch: each tensor when it is asked for, and no code.

The file is a zip archive with a pickle in it. Both are languages in which a few bytes can ask for
any amount of memory. So the directory may only be short, every entry lies in the file as it is, and
a tensor is looked at by its shape before its bytes are read.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lens_recipes.lenses.files.checks import check_fits
from lens_recipes.lenses.files.torch_save.pickled import MAX_PICKLE_BYTES, StoredTensor, read_pickle

# Most that is read at once: the directory of a zip file, too, which is read as a whole. That of a
# lens has some 100 bytes for each tensor.
MAX_READ_BYTES = 2**20
READ_BYTES = 2**19


class _ShortReads:
    """A file of which only so much is read at once, whatever it says of itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, n_bytes: int = -1) -> bytes:
        """Read that many bytes.

        Raises:
            ValueError: that is more than a directory has.
        """
        if n_bytes < 0:
            n_bytes = MAX_READ_BYTES + 1
        read = self._file.read(min(n_bytes, MAX_READ_BYTES + 1))
        if len(read) > MAX_READ_BYTES:
            raise ValueError("its directory is longer than that of any lens")
        return read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where one is."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Say that one can go anywhere."""
        return True


class TorchFile:
    """A file of `torch.save`: its values, and its tensors on demand.

    Attributes:
        values: What was saved; in place of each tensor, a `StoredTensor`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Read the directory and the pickle.

        Raises:
            ValueError: it is no such file, or asks for more than it holds.
        """
        n_bytes = os.fstat(file.fileno()).st_size
        with _plain_errors():
            bounded = _ShortReads(file)
            self._archive = zipfile.ZipFile(bounded)
            entries = self._archive.infolist()
            self._check_entries(entries, n_bytes)
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                raise ValueError("it does not hold what torch.save writes")
            self._folder = pickles[0].filename.removesuffix("data.pkl")
            byte_order = f"{self._folder}byteorder"
            if byte_order in self._archive.namelist():
                if self._archive.getinfo(byte_order).file_size > 6:
                    raise ValueError("it does not hold what torch.save writes")
                if self._archive.read(byte_order) != b"little":
                    raise ValueError("its bytes are in the order of another kind of machine")
            self.values: Any = read_pickle(self._archive.read(pickles[0]))
        self._storages: dict[str, Tensor] = {}

    def read(self, stored: StoredTensor) -> Tensor:
        """Return the numbers of a tensor. Tensors that share a storage share its memory.

        Raises:
            ValueError: the file does not hold them.
        """
        n_numbers = 1
        last = stored.offset
        for length, stride in zip(stored.shape, stored.strides, strict=True):
            n_numbers *= length
            last += (length - 1) * stride
        if n_numbers == 0 or n_numbers > stored.n_numbers or last >= stored.n_numbers:
            raise ValueError("a tensor has another size than its bytes")
        storage = self._storage(stored)
        return torch.as_strided(storage, stored.shape, stored.strides, stored.offset)

    def forget(self, stored: StoredTensor) -> None:
        """Keep the storage of a tensor no longer."""
        self._storages.pop(stored.key, None)

    def _storage(self, stored: StoredTensor) -> Tensor:
        """Return the numbers of a whole storage, read once."""
        if stored.key not in self._storages:
            name = f"{self._folder}data/{stored.key}"
            if name not in self._archive.NameToInfo:
                raise ValueError("the bytes of a tensor are missing")
            entry = self._archive.getinfo(name)
            if entry.file_size != stored.n_numbers * stored.dtype.itemsize:
                raise ValueError("a tensor is not as long as it says")
            with _plain_errors():
                self._storages[stored.key] = self._read_bytes(entry)
        storage = self._storages[stored.key]
        if len(storage) != stored.n_numbers * stored.dtype.itemsize:
            raise ValueError("a tensor is not as long as it says")
        return storage.view(stored.dtype)

    def _read_bytes(self, entry: zipfile.ZipInfo) -> Tensor:
        """Return the bytes of an entry, straight into a tensor; their checksum is compared."""
        buffer = torch.empty(entry.file_size, dtype=torch.uint8)
        view = buffer.numpy().data
        with self._archive.open(entry) as stream:
            position = 0
            while position < len(view):
                read = stream.read(min(READ_BYTES, len(view) - position))
                if not read:
                    raise ValueError("a tensor is cut off")
                view[position : position + len(read)] = read
                position += len(read)
            stream.read(1)  # the end, at which the checksum is compared
        return buffer

    @staticmethod
    def _check_entries(entries: list[zipfile.ZipInfo], n_bytes: int) -> None:
        """Raise a ValueError if entries are packed, or together longer than the file."""
        names = {entry.filename for entry in entries}
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        n_stored = sum(entry.file_size for entry in entries)
        if not is_stored or len(names) != len(entries) or n_stored > n_bytes:
            raise ValueError("it is not packed as torch.save does it")
        check_fits(n_stored)


def write_torch(path: Path, values: Any) -> None:
    """Write values with `torch.save`, which takes no name that begins with a dot."""
    with path.open("wb") as file:
        torch.save(values, file)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Make a ValueError of all that a damaged zip file can raise."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, KeyError, RuntimeError) as error:
        if isinstance(error, zipfile.BadZipFile) and "not a zip file" in str(error):
            raise ValueError("it is no file of torch.save") from None
        raise ValueError(f"it cannot be unpacked ({type(error).__name__}: {error})") from None
