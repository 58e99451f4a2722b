"""What happens to the chunks of a job, as lines of its file.

The keys of the lines are part of the format: a chunk is a "part" there.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple, TypeAlias


class Sending(NamedTuple):
    """A chunk is about to be sent; whether it arrives is not known yet."""

    chunk: int
    n_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the line of the file."""
        return {"part": self.chunk, "sending": self.n_bytes}


class Accepted(NamedTuple):
    """The server has accepted a chunk, and knows it by this id."""

    chunk: int
    id: str
    bytes_up: int

    def to_json(self) -> dict[str, Any]:
        """Return the line of the file."""
        return {"part": self.chunk, "id": self.id, "bytes_up": self.bytes_up}


class Arrived(NamedTuple):
    """The result of a chunk has been fetched; `cost` is what the server says that it took."""

    chunk: int
    blob: bytes
    cost: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the line of the file."""
        encoded = base64.b64encode(self.blob).decode()
        return {"part": self.chunk, "arrived": encoded, "cost": self.cost}


class Failed(NamedTuple):
    """A chunk was refused, failed or was lost; it may be sent again."""

    chunk: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the line of the file."""
        return {"part": self.chunk, "failed": self.reason}


Event: TypeAlias = Sending | Accepted | Arrived | Failed


def event_from_json(line: dict[str, Any]) -> Event:
    """Return the event that a line of a file tells.

    Raises:
        KeyError, TypeError, ValueError: it is no such line.
    """
    chunk = check_count(line, "part")
    if "id" in line:
        return Accepted(chunk, check_type(line, "id", str), check_count(line, "bytes_up"))
    if "arrived" in line:
        cost = check_type(line, "cost", dict)
        for quantity in cost:
            check_type(cost, quantity, int, float, bool)
        encoded = check_type(line, "arrived", str)
        return Arrived(chunk, base64.b64decode(encoded, validate=True), cost)
    if "sending" in line:
        return Sending(chunk, check_count(line, "sending"))
    return Failed(chunk, check_type(line, "failed", str))


def check_count(line: dict[str, Any], key: str) -> int:
    """Return a value of a line of a file, which counts something.

    Raises:
        KeyError: the line has no such key.
        TypeError, ValueError: the value is no whole number from 0.
    """
    count: int = check_type(line, key, int)
    if not 0 <= count < 2**63:
        raise ValueError(f"its {key!r} is {count!r:.80}, expected is a whole number from 0")
    return count


def check_type(line: dict[str, Any], key: str, *types: type) -> Any:
    """Return a value of a line of a file, which is of one of these types.

    Raises:
        KeyError: the line has no such key.
        TypeError: the value is of another type.
    """
    value = line[key]
    if type(value) not in types:
        expected = " or ".join(expected_type.__name__ for expected_type in types)
        raise TypeError(f"its {key!r} is of type {type(value).__name__}, expected is {expected}")
    return value
