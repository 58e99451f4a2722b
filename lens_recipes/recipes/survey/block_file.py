"""The file of one block of a survey: whole or not at all, exact, and never a pickle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.survey.arrays import SURVEY_AXES, ItemNames
from lens_recipes.errors import LensError
from lens_recipes.recipes.survey.block import Arrays
from lens_recipes.recipes.survey.items import LeftOut
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.files.schema.certificate import read_certificate, write_certificate
from lens_recipes.views.files.schema.checks import (
    Sizes,
    read_list,
    read_texts,
    read_texts_of_ids,
)
from lens_recipes.views.files.schema.provenance import read_provenance
from lens_recipes.views.files.schema.rows import read_sites
from lens_recipes.views.files.survey_file import checked_array, read_left_out

WORDS = "words"  # the array that holds what is no array, as JSON

# What a file raises that is no block, or that a disk has changed.
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)

# The certificates of the blocks that this process ran, by the digest of the file that it wrote. A
# file is a claim that anyone can write; of the very bytes that were written here it is known.
_written_here: dict[bytes, Certificate] = {}


class StoredBlock(NamedTuple):
    """What a block of items came to.

    Attributes:
        items: A digest of what the items were.
        sites: What the site axis is; empty where no item could be asked.
        names: Of each item.
        arrays: As of `SurveyArrays`.
        left_out: The items that are not among them.
        texts: id → text.
        certificate: Of the run; None where nothing ran.
        provenance: Of the run.
    """

    items: str
    sites: list[Site]
    names: list[ItemNames]
    arrays: Arrays
    left_out: list[LeftOut]
    texts: dict[int, str]
    certificate: Certificate | None
    provenance: dict[str, Any]


def write_block(path: Path, block: StoredBlock) -> None:
    """Write a block into a file.

    Raises:
        LensError: it cannot be written.
    """
    words = {
        "items": block.items,
        "sites": [list(site) for site in block.sites],
        "names": [list(name) for name in block.names],
        "left_out": [list(entry) for entry in block.left_out],
        "texts": {str(token): text for token, text in block.texts.items()},
        "certificate": write_certificate(block.certificate),
        "provenance": block.provenance,
    }
    encoded = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **{WORDS: encoded, **block.arrays})  # type: ignore[arg-type]
    content = buffer.getvalue()
    if block.certificate is not None and not block.certificate.as_saved:
        _written_here[digest_of_bytes(content)] = block.certificate
    with atomic_file(path) as scratch:
        scratch.write_bytes(content)


def read_block(path: Path) -> StoredBlock:
    """Read a block. Its certificate is what the file says, unless this process wrote the file.

    Raises:
        LensError: it is damaged.
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            words = json.loads(stored[WORDS].tobytes().decode())
            arrays = {name: stored[name] for name in stored.files if name != WORDS}
        certificate = read_certificate(words["certificate"], Sizes())
        sizes = Sizes()
        left_out = [read_left_out(entry, sizes) for entry in read_list(words["left_out"], sizes)]
        block = StoredBlock(
            items=words["items"],
            sites=read_sites(words["sites"], sizes) if words["sites"] else [],
            names=[ItemNames(*read_texts(name, sizes)) for name in words["names"]],
            arrays=arrays,
            left_out=[LeftOut(*entry) for entry in left_out],
            texts=read_texts_of_ids(words["texts"], sizes),
            certificate=_written_here.get(digest_of_bytes(content), certificate),
            provenance=read_provenance(words["provenance"], sizes),
        )
        check_arrays(block)
    except DAMAGE as error:
        raise LensError(
            f"{str(path)!r} is damaged: {error}. Remove it, and its items are asked again."
        ) from None
    return block


def check_arrays(block: StoredBlock) -> None:
    """Raise ValueError unless the arrays of a block are those of its items and sites."""
    if not block.arrays and not block.names:
        return
    if set(block.arrays) != set(SURVEY_AXES):
        raise ValueError("its arrays are others than a survey's")
    sizes = {"item": len(block.names), "site": len(block.sites)}
    for name, axes in SURVEY_AXES.items():
        shape = block.arrays[name].shape
        expected = [sizes.get(axis, length) for axis, length in zip(axes, shape, strict=True)]
        if list(shape) != expected:
            raise ValueError(f"its {name} have the shape {shape}, expected is {tuple(expected)}")
        kind = block.arrays[name].dtype
        if checked_array(name, block.arrays[name]).dtype != kind:
            raise ValueError(f"its {name} are of the type {kind}")


def digest_of_bytes(content: bytes) -> bytes:
    """Return what tells the content of a file from any other."""
    return hashlib.sha256(content).digest()
