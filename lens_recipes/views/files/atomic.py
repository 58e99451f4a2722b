"""`atomic_file`: a file that is complete or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lens_recipes.errors import LensError


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is complete or absent.

    The `with` block fills the scratch file that it is given. Then the scratch file takes the place
    of `path`. If the block fails, what stood there before stays.

    Raises:
        LensError: the folder does not exist or cannot be written to, or the disk is full.
    """
    target = Path(path).resolve()  # through a link, to what it names
    try:
        scratch = _create_scratch_beside(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield scratch
        _give_default_mode(scratch)
        scratch.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        scratch.unlink(missing_ok=True)


def _create_scratch_beside(target: Path) -> Path:
    """Create an empty file in the folder of `target`, where it can be moved in one step."""
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}-", suffix=target.suffix
    )
    os.close(handle)
    return Path(name)


def _give_default_mode(path: Path) -> None:
    """Give a file the mode that a new file has; mkstemp lets only its owner read it."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _cannot_write(path: Path, error: OSError) -> LensError:
    """Return the error that says why a file was not written."""
    return LensError(f"cannot write {str(path)!r}: {error.strerror or error}.")
