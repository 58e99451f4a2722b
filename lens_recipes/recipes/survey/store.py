"""The folder of a survey: a file for each block of items that is done, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lens_recipes.caller import argument
from lens_recipes.errors import LensError
from lens_recipes.recipes.survey.block_file import StoredBlock, read_block, write_block
from lens_recipes.views.files.atomic import write_text

MANIFEST = "survey.json"
FORMAT = "lens-recipes survey"
VERSION = 1
BLOCKS = "block-*.npz"


class SurveyStore:
    """The blocks of one survey, in a folder or in memory.

    Attributes:
        folder: Where they are; None for memory.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Begin, or go on with what the folder holds.

        Raises:
            LensError: the folder is that of another survey, or cannot be written.
        """
        self.folder = None if path is None else folder_of(path)
        self.identity = json.loads(json.dumps(identity))
        self._blocks: dict[int, StoredBlock] = {}
        self._asked: set[int] = set()
        if self.folder is None:
            return
        manifest = self.folder / MANIFEST
        if os.path.exists(manifest):
            self.check_identity(manifest, resume)
            return
        if os.path.exists(self.folder) and not self.folder.is_dir():
            raise LensError(
                f"{str(self.folder)!r} is a file: a survey is kept in a folder of its own."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            others = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise LensError(
                f"{str(self.folder)!r} cannot be made or read: {error.strerror}."
            ) from None
        if others:  # hidden ones are what a run that was killed had begun to write
            raise LensError(
                f"{str(self.folder)!r} holds other files, and no survey: name a folder that is new "
                "or empty."
            )
        self.begin()

    def begin(self) -> None:
        """Write what is surveyed."""
        assert self.folder is not None
        content = {"format": FORMAT, "version": VERSION, **self.identity}
        write_text(self.folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False))

    def check_identity(self, manifest: Path, resume: bool) -> None:
        """Check that a folder is that of this survey.

        Raises:
            LensError: it is another one's, or it is not to be gone on with.
        """
        assert self.folder is not None
        try:
            stored = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise LensError(
                f"{str(manifest)!r} cannot be read: {error}. Name another folder, or remove this "
                "one to begin anew."
            ) from None
        is_one = isinstance(stored, dict) and stored.get("format") == FORMAT
        if not is_one or stored.get("version") != VERSION:
            raise LensError(
                f"{str(manifest)!r} is no survey that this version can read. Name another folder."
            )
        kept = list(self.folder.glob(BLOCKS))
        if not resume or not kept:
            for block in kept:
                remove(block)
            self.begin()
            return
        differing = [key for key, value in self.identity.items() if stored.get(key) != value]
        if differing:
            raise LensError(
                f"{str(self.folder)!r} holds another survey: its {differing[0]} is "
                f"{stored.get(differing[0])!r:.80}, asked for is "
                f"{self.identity[differing[0]]!r:.80}. Name another folder, or resume=False to "
                "begin anew."
            )

    @property
    def n_done(self) -> int:
        """How many blocks are done."""
        if self.folder is None:
            return len(self._blocks)
        return len(list(self.folder.glob(BLOCKS)))

    def file_of(self, number: int) -> Path | None:
        """Return where a block is kept."""
        return None if self.folder is None else self.folder / name_of(number)

    def has(self, number: int, items: str) -> bool:
        """Tell whether a block of these items is done.

        Raises:
            LensError: the block was made of other items.
        """
        self._asked.add(number)
        path = self.file_of(number)
        if path is None or not path.exists():
            return False
        stored = read_block(path)
        if stored.items != items:
            raise LensError(
                f"{str(path)!r} was made of other items: they have changed since. Begin anew with "
                "resume=False, or name another folder."
            )
        return True

    def keep(self, number: int, block: StoredBlock) -> None:
        """Keep a block, whole or not at all."""
        path = self.file_of(number)
        if path is None:
            self._blocks[number] = block
        else:
            write_block(path, block)

    def blocks(self) -> list[StoredBlock]:
        """Return all blocks that were asked for, in the order of the items.

        Raises:
            LensError: the folder has blocks of more items, or one is damaged.
        """
        if self.folder is None:
            return [self._blocks[number] for number in sorted(self._blocks)]
        paths = [self.folder / name_of(number) for number in sorted(self._asked)]
        more = sorted(set(self.folder.glob(BLOCKS)) - set(paths))
        if more:
            raise LensError(
                f"{str(more[0])!r} was made of items that are no longer there: they have changed "
                "since. Begin anew with resume=False, or name another folder."
            )
        blocks = [read_block(path) for path in paths]
        asked = [block for block in blocks if block.names]
        for path, block in zip(paths, blocks, strict=True):
            if block.names and block.sites != asked[0].sites:
                raise LensError(
                    f"{str(path)!r} is damaged: its sites are others than those of the blocks "
                    "before. Remove it, and its items are asked again."
                )
        return blocks


def folder_of(path: Any) -> Path:
    """Return the folder that a caller names.

    Raises:
        ValueError: this is no path.
    """
    is_path = isinstance(path, str | os.PathLike)
    if not is_path or not str(path).strip() or "\0" in str(path):
        raise ValueError(
            f'{argument("path", path)} must be the path of a folder, such as "kept"; None keeps '
            "all in memory."
        )
    return Path(os.path.expanduser(path))


def remove(block: Path) -> None:
    """Remove the file of a block.

    Raises:
        LensError: it is a folder, or may not be removed.
    """
    try:
        block.unlink()
    except OSError as error:
        raise LensError(
            f"{str(block)!r} cannot be removed: {error.strerror or error}. Name another folder."
        ) from None


def name_of(number: int) -> str:
    """Return what the file of a block is called."""
    return f"block-{number:08d}.npz"
