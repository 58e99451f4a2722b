"""A job's file: JSON lines, a header that says which run it is, then what happened to its chunks.

Whatever a crash leaves is complete up to its last line; a line that was cut off never happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lens_recipes.errors import LensError
from lens_recipes.models.weights.origin import versions
from lens_recipes.run.provenance import restore_arguments, to_json
from lens_recipes.run.registry import RECIPES
from lens_recipes.run.remote.jobs.events import Event, check_type, event_from_json
from lens_recipes.run.remote.wire import model_key, remote_env
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.pack import model_facts
from lens_recipes.views.files import check_depth, parse_json, parse_object, read_text

FORMAT = "lens-recipes/job"

VERSION = 1


@dataclass(frozen=True)
class JobHeader:
    """The first line of a job's file. It holds no key.

    Attributes:
        recipe, model, revision, host: The recipe's name, the model's hub id and revision, and the
            server's address.
        arguments: The recipe's arguments, as JSON holds them.
        fingerprint: What tells this run from any other.
        chunks: First and last batch of each chunk, the last one not included.
        versions: Of the packages that a result depends on.
    """

    recipe: str
    model: str
    revision: str | None
    host: str
    arguments: dict[str, Any]
    fingerprint: str
    chunks: list[list[int]]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the header with the keys of the format."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "recipe": self.recipe,
            "model": self.model,
            "revision": self.revision,
            "host": self.host,
            "arguments": self.arguments,
            "fingerprint": self.fingerprint,
            "parts": self.chunks,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> JobHeader:
        """Return the header that a file's first line holds.

        Raises:
            KeyError, TypeError, ValueError: it is no such line.
        """
        return cls(
            recipe=check_type(line, "recipe", str),
            model=check_type(line, "model", str),
            revision=check_type(line, "revision", str, type(None)),
            host=check_type(line, "host", str),
            arguments=check_type(line, "arguments", dict),
            fingerprint=check_type(line, "fingerprint", str),
            chunks=_check_chunks(check_type(line, "parts", list)),
            versions=_check_versions(check_type(line, "versions", dict)),
        )

    def recipe_arguments(self) -> dict[str, Any]:
        """Return the recipe's arguments as it takes them, with slices."""
        return restore_arguments(self.arguments)


def _check_versions(versions: dict[str, Any]) -> dict[str, str]:
    """Return the versions of a file, each a text.

    Raises:
        TypeError: one is something else.
    """
    for package in versions:
        check_type(versions, package, str)
    return versions


def _check_chunks(chunks: list[Any]) -> list[list[int]]:
    """Return the chunks of a file: each begins where the one before it ends.

    They are not counted through: a file may say that there are billions of batches.

    Raises:
        ValueError: they are no such chunks.
    """
    end = 0
    for chunk in chunks:
        is_pair = isinstance(chunk, list) and [type(bound) for bound in chunk] == [int, int]
        if not is_pair or chunk[0] != end or not end < chunk[1] < 2**63:
            raise ValueError(
                f"its parts are not first and last batch of each, from 0: {chunk!r:.80}"
            )
        end = chunk[1]
    return chunks


def job_header(run: RecipeRun[Any], host: str, chunks: list[range]) -> JobHeader:
    """Return the header of a run's file.

    Raises:
        LensError: another process could not find the model, or the lens.
    """
    if not getattr(run.model, "repo_id", None):
        raise LensError("this model has no hub id, by which another process could find it.")
    lens = run.arguments.get("lens")
    if lens is not None and not lens["location"]:
        raise LensError(
            "the lens of this job is in memory alone, where another process could not find it: "
            "lens.save(path), and pass lens=path."
        )
    return JobHeader(
        recipe=run.recipe,
        model=run.model.repo_id,
        revision=getattr(run.model, "revision", None),
        host=host,
        arguments=to_json(run.arguments),
        fingerprint=fingerprint(run),
        chunks=[[batches.start, batches.stop] for batches in chunks],
        versions=versions(),
    )


def fingerprint(run: RecipeRun[Any]) -> str:
    """Return a digest of what a run is: model, adapters, package, inputs, and what is asked."""
    identity = [
        model_key(run.model),
        remote_env(run.model),
        model_facts(run.model, run.anatomy.blocks)._asdict(),
        versions()["lens-recipes"],
        run.recipe,
        *run.batch_digests,
    ]
    canonical = json.dumps(identity, default=str, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_job(path: str | os.PathLike[str]) -> tuple[JobHeader, list[Event]]:
    """Read a job's file: its header, and what has happened since.

    Raises:
        LensError: it is the file of something else.
        KeyError, TypeError, ValueError: it is spoilt; `plain_errors` says so in a sentence.
    """
    first, *lines = read_text(path).split("\n")
    header = parse_object(first)
    check_depth(header)
    if header["format"] != FORMAT or header["version"] != VERSION:
        raise LensError(
            f"{str(path)!r} is a {header['format']} of version {header['version']}, not a job."
        )
    if check_type(header, "recipe", str) not in RECIPES:
        raise LensError(
            f"{str(path)!r} is a job of {header['recipe']!r}, which is no recipe of this package."
        )
    events = []
    for line in lines:
        try:
            event = parse_json(line)
        except ValueError:  # it was cut off
            continue
        check_depth(event)
        events.append(event_from_json(event))
    return JobHeader.from_json(header), events


@contextlib.contextmanager
def lock_of(path: Path | None) -> Iterator[None]:
    """Hold the lock of a job's file: one process at a time reads what to send, and sends it.

    The same thread may take it again. None stands for no file.

    Raises:
        LensError: nothing can be written beside the file.
    """
    if path is None or not path.parent.is_dir():
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)
    try:
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise LensError(f"cannot write beside {str(path)!r}: {reason}.") from error
    try:
        yield
    finally:
        lock.release()


def append_event(path: Path, event: Event) -> None:
    """Append an event to a job's file; it is on the disk before anything else happens.

    It begins a line of its own, whatever the last one ended with.
    """
    line = json.dumps(event.to_json()).encode() + b"\n"
    with path.open("ab+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def plain_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a missing or spoilt file does to its reader into a `LensError` of one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except MemoryError:
        raise LensError(f"{str(path)!r} is too large for the memory of this machine.") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is not a job's file: {type(error).__name__}: {error}"
        ) from error
