"""A folder in the user's cache that is made once: whole or absent, repaired, and of nobody else."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lens_recipes.errors import LensError

ROOT_USER = 0  # who can change any file anyway


def keep_folder(
    folder: Path, is_whole: Callable[[Path], bool], write: Callable[[Path], None]
) -> None:
    """See to it that a folder is there and whole: it is written where it is missing or damaged.

    It is written beside its place and renamed into it, so that nobody uses a half-written one. One
    process or thread writes at a time, and the others wait for it. What a killed one left behind is
    removed by the next.

    Args:
        folder: Where it is, or will be.
        is_whole: Tells whether a folder that is there has all that it should have.
        write: Writes what it should have into an empty folder.

    Raises:
        LensError: it belongs to another user, or others may write into it.
        OSError: it cannot be read, or written.
    """
    if _is_there_and_whole(folder, is_whole):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    refuse_foreign(folder.parent)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if _is_there_and_whole(folder, is_whole):  # another process has made it meanwhile
            return
        _remove_scratch(folder)
        try:
            scratch = _new_scratch(folder)
            write(scratch)
            if folder.exists():
                folder.rename(_new_scratch(folder) / "damaged")
            scratch.rename(folder)
        finally:
            _remove_scratch(folder)


def _is_there_and_whole(folder: Path, is_whole: Callable[[Path], bool]) -> bool:
    """Return whether a folder is there and whole.

    Raises:
        LensError: it belongs to another user.
    """
    if not folder.exists():
        return False
    refuse_foreign(folder.parent)
    refuse_foreign(folder)
    return is_whole(folder)


def _new_scratch(folder: Path) -> Path:
    """Return a new empty folder beside another one, which only this user can read."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))


def _remove_scratch(folder: Path) -> None:
    """Remove what is left of attempts to write a folder; whoever holds the lock may do so."""
    for scratch in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Raise LensError if somebody else could change what is in a folder.

    Windows has no owners of this kind; there a user's cache is in the user's own folder.
    """
    if os.name == "nt":
        return
    found = folder.stat()
    if found.st_uid not in (os.getuid(), ROOT_USER):
        reason = f"belongs to another user (number {found.st_uid})"
    elif found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        reason = "may be written by everybody"
    else:
        return
    raise LensError(
        f"{str(folder)!r} {reason}, who could change the weights that are kept there. Name a cache "
        "of your own in XDG_CACHE_HOME, or change whose the folder is."
    )
