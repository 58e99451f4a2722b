"""Follow the pickle in a file of `torch.save`: values, and where its tensors lie. No code runs.

A pickle is a program. This is a machine for the few of its instructions that numbers, texts, lists,
dicts and tensors need. It imports nothing, calls nothing that a pickle names, and makes room for
nothing that a pickle only claims: a tensor comes out as a description of where its bytes are.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

MAX_PICKLE_BYTES = 2**20  # what is beside the numbers: names, shapes and notes

# The types of storages, and the dtype of what lies in them.
STORAGE_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StoredTensor(NamedTuple):
    """Where the numbers of a tensor are.

    Attributes:
        dtype: Of the numbers.
        key: The name of the storage.
        n_numbers: How many numbers the pickle says that the storage has.
        offset: The first number that belongs to the tensor.
        shape, strides: As torch has them, in numbers.
    """

    dtype: torch.dtype
    key: str
    n_numbers: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    """What a pickle says of a storage."""

    dtype: torch.dtype
    key: str
    n_numbers: int


class _Name(NamedTuple):
    """Something in a module, which is not imported."""

    module: str
    name: str


class _Mark:
    """Where the items of a list or a dict begin on the stack."""


def read_pickle(pickled: bytes) -> Any:
    """Return the values of a pickle; a tensor is a `StoredTensor`.

    Raises:
        ValueError: it is no pickle, or does what no such value needs.
    """
    if len(pickled) > MAX_PICKLE_BYTES:
        raise ValueError("it has more beside its numbers than any lens")
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "STOP":
                return machine.pop()
            machine.follow(operation.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its pickle is not read: {type(error).__name__}: {error}") from None
    raise ValueError("its pickle has no end")


# Instructions that put their argument on the stack, and those that put the same thing each time.
_ARGUMENTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTES = frozenset({"BINPUT", "LONG_BINPUT"})
_READ_NOTES = frozenset({"BINGET", "LONG_BINGET"})
_NOTHING = frozenset({"PROTO", "FRAME"})


class _Machine:
    """The stack of a pickle, and its notes."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._notes: dict[int, Any] = {}
        self._instructions: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_Mark()),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            "MEMOIZE": lambda _: self._note(len(self._notes)),
            "APPEND": lambda _: self._extend([self.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items(self._pop_many(2)),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "GLOBAL": self._name_of,
            "STACK_GLOBAL": lambda _: self._name_of(" ".join(self._pop_many(2))),
            "BINPERSID": lambda _: self._stack.append(_storage(self.pop())),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._leave_attributes(),
        }

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction.

        Raises:
            ValueError: no plain value needs it.
        """
        if name in _ARGUMENTS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _SHORT_TUPLES:
            self._stack.append(tuple(self._pop_many(_SHORT_TUPLES[name])))
        elif name in _NOTES:
            self._note(argument)
        elif name in _READ_NOTES:
            self._stack.append(self._notes[argument])
        elif name in self._instructions:
            self._instructions[name](argument)
        elif name not in _NOTHING:
            raise ValueError(f"it has the instruction {name}, which no lens needs")

    def pop(self) -> Any:
        """Take the value at the top of the stack."""
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a value is missing")
        return value

    def _pop_many(self, count: int) -> list[Any]:
        """Take as many values, the lowest first."""
        values = [self.pop() for _ in range(count)]
        return values[::-1]

    def _pop_to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        values = []
        while not isinstance(self._stack[-1], _Mark):
            values.append(self._stack.pop())
        self._stack.pop()
        return values[::-1]

    def _note(self, number: int) -> None:
        """Keep the value at the top of the stack under a number."""
        value = self.pop()
        self._notes[number] = value
        self._stack.append(value)

    def _extend(self, items: list[Any]) -> None:
        """Add items to the list at the top of the stack."""
        values = self._stack[-1]
        if not isinstance(values, list):
            raise ValueError("items are added to something else than a list")
        values.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        """Add keys and values to the dict at the top of the stack."""
        values = self._stack[-1]
        if not isinstance(values, dict) or len(items) % 2:
            raise ValueError("keys and values do not match")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise ValueError(f"a dict has a key of the type {type(key).__name__}")
            if key in values:
                raise ValueError(f"a dict has the key {str(key)[:80]!r} twice")
            values[key] = value

    def _name_of(self, argument: str) -> None:
        """Put what stands for a name on the stack."""
        module, _, name = argument.partition(" ")
        self._stack.append(_Name(module, name))

    def _reduce(self) -> None:
        """Do what is meant by a call, for the calls that tensors and dicts are written with."""
        called, arguments = self._pop_many(2)
        if called == ("collections", "OrderedDict") and arguments == ():
            self._stack.append({})
        elif called == ("torch._utils", "_rebuild_tensor_v2"):
            self._stack.append(_tensor(arguments))
        elif called == ("torch._utils", "_rebuild_parameter"):
            self._stack.append(_parameter(arguments))
        elif called == ("torch", "Size"):
            self._stack.append(tuple(arguments[0]))
        else:
            # Not the text of whatever it is: a list may be its own item.
            called_name = "a value"
            if isinstance(called, _Name):
                called_name = ".".join(called)[:80]
            raise ValueError(f"it calls {called_name}, which is not done")

    def _leave_attributes(self) -> None:
        """Leave out the attributes of a dict, such as the versions in a module's state."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise ValueError("something else than a dict has attributes")


def _storage(identity: Any) -> _Storage:
    """Return what `("storage", type, key, device, length)` says."""
    kind, storage, key, _, n_numbers = identity
    is_known = isinstance(storage, _Name) and storage.name in STORAGE_DTYPES
    if kind != "storage" or not is_known or not isinstance(key, str):
        raise ValueError("it holds something else than tensors of numbers")
    return _Storage(STORAGE_DTYPES[storage.name], key, _whole(n_numbers))


def _tensor(arguments: Any) -> StoredTensor:
    """Return what `_rebuild_tensor_v2(storage, offset, shape, strides, …)` says."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 4:
        raise ValueError("a tensor is described as none is")
    return StoredTensor(
        *storage,
        offset=_whole(offset),
        shape=tuple(_whole(length) for length in shape),
        strides=tuple(_whole(stride) for stride in strides),
    )


def _parameter(arguments: Any) -> StoredTensor:
    """Return what `_rebuild_parameter(tensor, …)` says."""
    if not isinstance(arguments[0], StoredTensor):
        raise ValueError("a parameter is described as none is")
    return arguments[0]


def _whole(value: Any) -> int:
    """Return a whole number from 0."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("a size is no whole number from 0")
    return value
