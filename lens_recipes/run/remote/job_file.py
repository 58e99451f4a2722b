"""A job's file: JSON lines, the first of them what the run is, the others what happened to its parts.

What a crash leaves is whole up to its last line; a line that was cut off never happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lens_recipes.errors import LensError
from lens_recipes.run.provenance import to_json, versions
from lens_recipes.run.registry import RECIPES
from lens_recipes.run.remote.wire import model_key, remote_env
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.pack import model_facts

FORMAT, VERSION = "lens-recipes/job", 1


def job_header(run: RecipeRun[Any], host: str, parts: list[range]) -> dict[str, Any]:
    """What the first line says; it holds no key.

    Raises:
        LensError: a model that another process could not find.
    """
    if not getattr(run.model, "repo_id", None):
        raise LensError("this model has no hub id, by which another process could find it.")
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": run.recipe,
        "model": run.model.repo_id,
        "revision": getattr(run.model, "revision", None),
        "host": host,
        "arguments": to_json(run.arguments),
        "fingerprint": fingerprint(run),
        "parts": [[batches.start, batches.stop] for batches in parts],
        "versions": versions(),
    }


def fingerprint(run: RecipeRun[Any]) -> str:
    """What tells this run from another one: model, adapters, package, inputs, and all that is done with them."""
    there = model_facts(run.model, run.anatomy.blocks)
    told = [
        model_key(run.model),
        remote_env(run.model),
        there,
        versions()["lens-recipes"],
        run.recipe,
        *run.marks,
    ]
    return hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()


def append_event(path: Path, event: dict[str, Any]) -> None:
    """One more line, on the disk before anything else happens; on a new one, whatever the last one ended with."""
    with path.open("ab+") as file:
        file.seek(-1, os.SEEK_END)
        torn = file.read() != b"\n"
        file.write(b"\n" * torn + json.dumps(event).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_job(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a job's file, and what happened since; a last line that was cut off never happened."""
    first, *lines = path.read_text(encoding="utf-8").split("\n")
    header = json.loads(first)
    if header["format"] != FORMAT or header["version"] != VERSION:
        raise LensError(
            f"{str(path)!r} is a {header['format']} of version {header['version']}, not a job."
        )
    if header["recipe"] not in RECIPES:
        raise LensError(
            f"{str(path)!r} is a job of {header['recipe']!r}, which is no recipe of this package."
        )
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return header, events


@contextlib.contextmanager
def plain_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a file that is none, or spoilt, does to its reader, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is not a job's file: {type(error).__name__}: {error}"
        ) from error


def restore_arguments(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe's arguments out of a file, where "2:5" is a slice."""
    return {
        key: _slices(value) if key in ("layers", "positions", "heads") else value
        for key, value in saved.items()
    }


def _slices(value: Any) -> Any:
    if isinstance(value, list):
        return [_slices(item) for item in value]
    if isinstance(value, str):
        return slice(*(int(bound) if bound else None for bound in value.split(":")))
    return value
