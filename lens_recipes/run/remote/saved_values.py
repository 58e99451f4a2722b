"""Read what `torch.save` wrote somewhere else: numbers, text, lists, dicts and tensors of bytes.

It is a zip file with a pickle in it, and both are languages in which a few bytes can ask for any
amount of memory, or for code. So neither torch nor a whole unpickler reads it: only the operations
that such values need are followed, and every byte of a tensor is a byte of the file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

# Beside values: how a pickle notes them and puts them together, and ends.
OPERATIONS = frozenset(
    {
        *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "BINPERSID", "REDUCE"),
    }
)
STORAGES = ("ByteStorage", "UntypedStorage")
DIRECTORY_ENTRY = b"PK\x01\x02"  # what begins an entry of a zip file's directory
MAX_ENTRIES = 100_000
MAX_PICKLE_BYTES = 4 * 2**20  # what is beside the bytes of the tensors: names, shapes and digests


def load_saved(file: bytes, max_bytes: int) -> Any:
    """Return the values of a file of `torch.save`.

    Args:
        file: What was saved.
        max_bytes: Most bytes that its entries can have together.

    Raises:
        ValueError: it is no such file, or holds something else.
    """
    if file.count(DIRECTORY_ENTRY) > MAX_ENTRIES:
        raise ValueError("it is packed as no result is")
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            return _SavedValues(archive, max_bytes).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"it cannot be unpacked ({type(error).__name__}: {error})") from None


class _SavedValues:
    """The entries of an archive that `torch.save` wrote."""

    def __init__(self, archive: zipfile.ZipFile, max_bytes: int) -> None:
        """Look at the archive's directory.

        Raises:
            ValueError: an entry is compressed, they are too large together, or there is no pickle.
        """
        entries = archive.infolist()
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not is_stored or sum(entry.file_size for entry in entries) > max_bytes:
            raise ValueError("it is packed as no result is")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError("it is packed as no result is")
        self._archive = archive
        self._folder = pickles[0].filename.removesuffix("data.pkl")
        self._tensors: dict[str, torch.Tensor] = {}

    def load(self) -> Any:
        """Return the values of the pickle."""
        pickled = self._archive.read(f"{self._folder}data.pkl")
        check_operations(pickled)
        unpickler = _Unpickler(io.BytesIO(pickled))
        unpickler.read_storage = self._read_storage
        return unpickler.load()

    def _read_storage(self, identity: Any) -> torch.Tensor:
        """Return the bytes that a pickle names as `("storage", type, key, device, length)`."""
        if not isinstance(identity, tuple) or len(identity) != 5:
            raise ValueError("it holds something else than tensors")
        kind, storage, key, _, n_bytes = identity
        if kind != "storage" or storage not in STORAGES or not isinstance(key, str):
            raise ValueError("it holds tensors of something else than bytes")
        if key not in self._tensors:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._tensors[key] = torch.empty(0, dtype=torch.uint8, device="cpu")
            if data:
                self._tensors[key] = torch.frombuffer(data, dtype=torch.uint8)
        if len(self._tensors[key]) != n_bytes:
            raise ValueError("a tensor is cut off")
        return self._tensors[key]


def check_operations(pickled: bytes) -> None:
    """Raise ValueError if a pickle does what no plain value needs.

    Even an unpickler that calls nothing would make room for a number of bytes, or of notes, that an
    operation only claims.
    """
    for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if operation.name not in OPERATIONS:
            raise ValueError(f"its pickle has the operation {operation.name}")
        is_note = operation.name in ("BINPUT", "LONG_BINPUT")
        if is_note and isinstance(argument, int) and argument > number:
            raise ValueError("its pickle numbers its notes as no pickle does")


class _Unpickler(pickle.Unpickler):
    """Follows a pickle whose operations were checked."""

    read_storage: Callable[[Any], torch.Tensor]

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what stands for a name in a pickle; nothing is imported."""
        if module_name in ("torch", "torch.storage") and global_name in STORAGES:
            return global_name
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return whole_tensor
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return no_hooks
        raise ValueError(f"it names {module_name}.{global_name}")

    def persistent_load(self, identity: Any) -> torch.Tensor:
        """Return the bytes of a tensor."""
        return self.read_storage(identity)


def no_hooks() -> OrderedDict[Any, Any]:
    """Return the hooks of a tensor that has none."""
    return OrderedDict()


def whole_tensor(
    data: torch.Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> torch.Tensor:
    """Return a tensor of bytes, as torch would make it of a storage.

    Raises:
        ValueError: it is not the whole storage as a vector.
    """
    if (offset, tuple(shape), tuple(strides)) != (0, (len(data),), (1,)):
        raise ValueError("a tensor is no vector of bytes")
    return data
