"""`load_lens()`: a lens out of a file, a folder, or a repository of the hub."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.lenses.belongs import check_belongs
from lens_recipes.lenses.files.checks import is_identity
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.jacobian import read_jacobian
from lens_recipes.lenses.files.own import read_own, read_sums
from lens_recipes.lenses.files.tuned import PARAMETERS, is_tuned_folder, read_tuned
from lens_recipes.lenses.hub.fetching import (
    ADDRESS_START,
    HUB_ID,
    LENS_SUFFIXES,
    check_inside,
    fetch,
    parse_address,
)
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.weights.memory import is_out_of_memory
from lens_recipes.models.weights.origin import model_name
from lens_recipes.terminal import one_line
from lens_recipes.views.files.plain_file import open_plain_file

ZIP_START = b"PK"  # how what torch.save writes begins

ACCEPTED = (
    "Accepted: a file that lens.save wrote, a file of Jacobians (the reference implementation, "
    "TransformerLens, Neuronpedia), a folder of tuned-lens with config.json and params.pt"
)


def load_lens(
    source: str | os.PathLike[str] | Lens,
    model: Envoy | None = None,
    *,
    file: str | None = None,
    revision: str | None = None,
) -> Lens:
    """Return a lens that was fitted before, here or by someone else.

    No file runs code, and none is believed: shapes, layers and numbers are checked.

    Args:
        source: A file that `Lens.save` wrote; a file of Jacobians (of the reference implementation,
            TransformerLens, Neuronpedia, or of a fit that has not ended), or of an R-lens; a folder
            of the package tuned-lens; a hub id; an address as `lens.source` has it (`hf://…`).
            `"neuronpedia/jacobian-lens"` and `"AlignmentResearch/tuned-lens"` hold the lenses of
            many models: that of `model` is taken. A `Lens` is checked and returned.
        model: The model that it is for. A lens that cannot belong to it is refused: of another
            width or depth, unembedding or tokenizer, as far as these are known.
        file: The file in a folder or a repository, where there are several.
        revision: Of a repository: a branch, tag or commit.

    Raises:
        LensError: there is no such lens, it cannot be read, it is damaged, the hub cannot be
            reached, or it does not belong to the model.
        ValueError: an argument that is of no use together with another one.

    Example:
        >>> lens = lr.load_lens("neuronpedia/jacobian-lens", model=model)
        >>> lens.layers
        [0, 1, 2, …]
    """
    lens = source if isinstance(source, Lens) else _load(source, model, file, revision)
    if model is not None:
        lens = _without_identity_at_end(lens, model)
        check_belongs(lens, model)
    return lens


def load_sums(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return what the fit of a lens added up, from the file of the lens. The lens is not read.

    Empty where the file has none.

    Raises:
        LensError: there is no such file, it is no file of a lens of this package, or it is damaged.
    """
    path = Path(path)
    with _plain_errors(path):
        return read_sums(path)


def _load(source: Any, model: Envoy | None, file: str | None, revision: str | None) -> Lens:
    """Return the lens that a path or a hub id names."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"load_lens() received {type(source).__name__}; it takes a path, a hub id or a Lens"
        )
    name = os.fspath(source)
    if name == "":
        raise ValueError(f"received an empty name of a lens. {ACCEPTED}, or a hub id (owner/name).")
    if name.startswith(ADDRESS_START):
        name, file_there, revision_there = parse_address(name)
        return _load_from_hub(name, model, file or file_there, revision or revision_there)
    path = Path(os.path.expanduser(name))
    if os.path.lexists(path):
        if revision is not None:
            raise ValueError("revision= is of a repository of the hub, and this is a path")
        return _load_local(path, file)
    if not HUB_ID.fullmatch(name) or name.endswith(LENS_SUFFIXES):
        raise LensError(
            f"there is no file or folder {name!r}. {ACCEPTED}, or a hub id (owner/name)."
        )
    return _load_from_hub(name, model, file, revision)


def _load_from_hub(
    repository: str, model: Envoy | None, file: str | None, revision: str | None
) -> Lens:
    """Return a lens of a repository."""
    wanted = None if model is None else model_name(model)
    fetched = fetch(repository, wanted, file, revision)
    return _read(fetched.path, fetched.source)


def _load_local(path: Path, file: str | None) -> Lens:
    """Return the lens in a file, or in a folder."""
    if file is None:
        if path.is_dir() and not is_tuned_folder(path):
            path = _only_file(path)
        return _read(path, str(path))
    if not path.is_dir():
        raise ValueError(f"file= is of a folder or a repository, and {str(path)!r} is a file")
    check_inside(file)
    return _read(path / file, str(path / file))


def _only_file(folder: Path) -> Path:
    """Return the one file of a folder that may be a lens.

    Raises:
        LensError: there is none, or there are several.
    """
    with _plain_errors(folder):
        names = sorted(name for name in os.listdir(folder) if name.endswith(LENS_SUFFIXES))
    if len(names) != 1:
        raise LensError(
            f"the folder {str(folder)!r} has {len(names)} files that may be a lens "
            f"({', '.join(names[:8]) or 'none'}), and is none of tuned-lens. Name one with file=."
        )
    return folder / names[0]


def _read(path: Path, source: str) -> Lens:
    """Return the lens at a path.

    Raises:
        LensError: it cannot be read, or is damaged.
    """
    with _plain_errors(path):
        content = _reader_of(path)()
    lens = Lens(
        kind=content.kind,
        transports=content.transports,
        record=content.record,
        quality=content.quality,
        source=source,
        location=str(path.absolute()),
    )
    if content.digest and content.digest != lens.digest:
        raise LensError(
            f"{str(path)!r} is damaged: the digest of its numbers is {lens.digest}, and the file "
            f"says {content.digest!r}. Get the file again."
        )
    return lens


def _reader_of(path: Path) -> Callable[[], LensContent]:
    """Return what reads the lens at a path, by what is there and how it begins."""
    if path.is_dir():
        return lambda: read_tuned(path)
    if path.name == PARAMETERS and is_tuned_folder(path.parent):
        return lambda: read_tuned(path.parent)
    with open_plain_file(path) as file:
        start = file.read(len(ZIP_START))
    if start == ZIP_START:
        return lambda: _read_torch(path)
    return lambda: read_own(path)


def _read_torch(path: Path) -> LensContent:
    """Return the lens in a file of `torch.save`."""
    with open_plain_file(path) as file:
        return read_jacobian(file, path)


def _without_identity_at_end(lens: Lens, model: Envoy) -> Lens:
    """Leave out the transport of the last layer if it is the identity, as that layer is read."""
    last = anatomy(model).last_layer
    if last not in lens.transports or len(lens.transports) == 1:
        return lens
    if not is_identity(lens.transports[last]):
        return lens
    kept = {layer: each for layer, each in lens.transports.items() if layer != last}
    return dataclasses.replace(lens, transports=kept)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a file."""
    try:
        yield
    except LensError:
        raise
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}. {ACCEPTED}.") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise LensError(f"{str(path)!r} is too large for the memory of this machine.") from None
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise LensError(f"{str(path)!r} cannot be read: {reason}.") from error
        # To a reader, errors of zip, JSON, unicode and safetensors are all one thing.
        reason = one_line(str(error), 300) or type(error).__name__
        raise LensError(
            f"{str(path)!r} is no lens that can be read, or not whole: {reason}. {ACCEPTED}."
        ) from error
