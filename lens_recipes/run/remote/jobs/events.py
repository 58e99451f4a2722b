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
    chunk = line["part"]
    if "id" in line:
        return Accepted(chunk, line["id"], line["bytes_up"])
    if "arrived" in line:
        return Arrived(chunk, base64.b64decode(line["arrived"]), line["cost"])
    if "sending" in line:
        return Sending(chunk, line["sending"])
    return Failed(chunk, line.get("failed", ""))
