"""`atomic_file`: a file that is complete or absent. All files of this package are written by it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lens_recipes.errors import LensError

# What a file system says that has no fsync; every other error of it is about the data.
NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8: all of it or nothing.

    Raises:
        LensError: as `atomic_file` does.
    """
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is complete or absent.

    The `with` block fills the scratch file that it is given. Then the scratch file takes the place
    of `path`, or of the file that `path` links to. If the block fails, what stood there before
    stays.

    A file that was there keeps its mode. A new one gets the mode that any new file gets. A pipe
    or a terminal cannot be replaced: what the block wrote is copied into it.

    Raises:
        LensError: the folder does not exist or cannot be written to, the disk is full, or `path`
            is a folder or a link to itself.
    """
    target = Path(os.path.realpath(path))  # through a link, to what it names
    try:
        before = _stat_of(path)
        if before is not None and not stat.S_ISREG(before.st_mode):
            with _scratch_file(Path(tempfile.gettempdir()), mode=0o600) as scratch:
                yield scratch
                with scratch.open("rb") as source, open(path, "wb") as stream:
                    shutil.copyfileobj(source, stream)
            return
        mode = 0o666
        if before is not None:
            mode = stat.S_IMODE(before.st_mode) | 0o600  # it must be written first
        with _scratch_file(target.parent, mode) as scratch:
            yield scratch
            if before is not None:
                _take_over_access(scratch, before)
            _flush_to_disk(scratch)
            os.replace(scratch, target)
    except OSError as error:
        raise LensError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error


def _stat_of(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Return what is at a path, or None if nothing is.

    Raises:
        OSError: it is a folder, a disk, a socket, or a link to itself: no file can be written.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    for is_writable in (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISCHR):
        if is_writable(found.st_mode):
            return found
    raise OSError(errno.EINVAL, "it is neither a file nor a pipe")


@contextmanager
def _scratch_file(folder: Path, mode: int) -> Iterator[Path]:
    """Make an empty file, and remove it afterwards if it is still there.

    Args:
        folder: Where it is made.
        mode: Its mode, of which the system takes off what this process's umask forbids.
    """
    # The name is known before the file is made, so that an interrupt at any moment removes it.
    scratch = folder / f".lens-recipes-{secrets.token_hex(8)}"
    try:
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        yield scratch
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _take_over_access(scratch: Path, before: os.stat_result) -> None:
    """Give a file the owner and the mode of another one.

    Some file systems (vfat, CIFS, FUSE) refuse that, and have one mode for all their files.
    """
    made = os.stat(scratch)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        with contextlib.suppress(OSError):
            os.chown(scratch, before.st_uid, before.st_gid)
    if made.st_mode != before.st_mode:
        with contextlib.suppress(OSError):
            os.chmod(scratch, stat.S_IMODE(before.st_mode))


def _flush_to_disk(path: Path) -> None:
    """Wait until a file is on the disk: a machine that stops afterwards does not leave half."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_FSYNC:
                raise
