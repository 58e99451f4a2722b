"""Fetch a lens from the hub, into the hub's own cache: what fails there is said in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lens_recipes.errors import LensError
from lens_recipes.lenses.files.tuned import CONFIG, PARAMETERS
from lens_recipes.lenses.hub.published import (
    JACOBIAN_LENSES,
    TUNED_LENSES,
    find_jacobian_file,
    jacobian_file,
    tuned_folders,
)
from lens_recipes.terminal import one_line

LENS_SUFFIXES = (".safetensors", ".pt")
N_NAMED = 8  # files that an error lists


class Fetched(NamedTuple):
    """A lens that is on this machine now.

    Attributes:
        path: The file, or the folder of a tuned lens.
        source: Where it came from, for people: the repository, the file and the revision.
    """

    path: Path
    source: str


class _Place(NamedTuple):
    """A repository of the hub, at a revision."""

    repository: str
    revision: str | None
    is_space: bool

    @property
    def kind(self) -> str:
        """What the hub calls such a repository."""
        return "space" if self.is_space else "model"

    def source(self, file: str) -> str:
        """Return what a file of it is called."""
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repository}/{file}{at}"


def fetch(
    repository: str, model_name: str | None, file: str | None, revision: str | None
) -> Fetched:
    """Fetch a lens.

    Args:
        repository: Its hub id.
        model_name: The hub id of the model that a lens is wanted for, or None.
        file: The file, or the folder of a tuned lens; None to look for it.
        revision: A branch, tag or commit; None for the published one, else the main one.

    Raises:
        LensError: there is none, or the hub cannot be reached.
        ValueError: a name of a file that leaves the repository.
    """
    if file is not None:
        check_inside(file)
    place = _Place(repository, revision, repository == TUNED_LENSES)
    if repository == TUNED_LENSES:
        return _fetch_tuned(place, [file] if file else tuned_folders(_needed(place, model_name)))
    if file is None and repository == JACOBIAN_LENSES:
        place, file = _find_published(place, _needed(place, model_name))
    if file is None:
        file = _only_lens(place, model_name)
    if not PurePosixPath(file).suffix or PurePosixPath(file).name == PARAMETERS:
        return _fetch_tuned(place, [file])
    path = _download(place, file)
    # A config.json beside a file says what kind of lens it is.
    _download_if_there(place, str(PurePosixPath(file).parent / CONFIG))
    return Fetched(path, place.source(file))


def check_inside(file: str) -> None:
    """Raise a ValueError if the name of a file may lead out of its folder."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file or not path.parts:
        raise ValueError(
            f"file={file!r} is no path inside the repository or the folder; accepted is such as "
            "'lenses/model.pt'"
        )


def _needed(place: _Place, model_name: str | None) -> str:
    """Return the model that a lens is wanted for.

    Raises:
        LensError: it was not said.
    """
    if model_name is None:
        raise LensError(
            f"{place.repository!r} holds lenses of many models: say which one with model=, or name "
            "the file with file=."
        )
    return model_name


def _find_published(place: _Place, model_name: str) -> tuple[_Place, str]:
    """Return where the Jacobian lens of a model is.

    Raises:
        LensError: there is none.
    """
    known = jacobian_file(model_name)
    if known is not None and place.revision in (None, known.revision):
        return place._replace(revision=known.revision), known.file
    files = _list_files(place)
    found = find_jacobian_file(model_name, files)
    if found is None:
        raise LensError(
            f"{place.repository!r} has no lens of {model_name!r}, by the names of its files. Name "
            "the file with file= if it has another name there, or fit a lens on the model."
        )
    check_inside(found)
    return place, found


def _only_lens(place: _Place, model_name: str | None) -> str:
    """Return the one file of a repository that may be a lens, or that is named as the model's.

    Raises:
        LensError: there is none, or there are several.
    """
    files = [file for file in _list_files(place) if file.endswith(LENS_SUFFIXES)]
    found = find_jacobian_file(model_name, files) if model_name else None
    if found is None and len(files) == 1:
        found = files[0]
    if found is None:
        names = ", ".join(repr(file[:100]) for file in sorted(files)[:N_NAMED]) or "none"
        raise LensError(
            f"{place.repository!r} has {len(files)} files that may be a lens: {names}"
            f"{', …' if len(files) > N_NAMED else ''}. Name one with file=."
        )
    check_inside(found)
    return found


def _fetch_tuned(place: _Place, folders: list[str]) -> Fetched:
    """Fetch the two files of a tuned lens, from the first folder that is there.

    Raises:
        LensError: none of them is there.
    """
    for folder in folders:
        folder = folder.removesuffix(f"/{PARAMETERS}").rstrip("/")
        if _download_if_there(place, f"{folder}/{CONFIG}") is None:
            continue
        path = _download(place, f"{folder}/{PARAMETERS}")
        return Fetched(path.parent, place.source(folder))
    names = " nor ".join(map(repr, folders))
    raise LensError(
        f"{place.repository!r} has no tuned lens at {names}. Name the folder with file=, or fit a "
        "lens on the model."
    )


# -- the hub -----------------------------------------------------------


def _download(place: _Place, file: str) -> Path:
    """Return a file of a repository, fetched unless it is in the cache."""
    with _plain_errors(place, file):
        return _raw_download(place, file)


def _download_if_there(place: _Place, file: str) -> Path | None:
    """Return a file of a repository, or None where the repository, or the cache, has none."""
    with _plain_errors(place, file):
        try:
            return _raw_download(place, file)
        except LocalEntryNotFoundError as error:
            if huggingface_hub.constants.HF_HUB_OFFLINE:
                return None
            raise error
        except EntryNotFoundError:
            return None


def _raw_download(place: _Place, file: str) -> Path:
    """Return a file of a repository."""
    name = huggingface_hub.hf_hub_download(
        place.repository, file, revision=place.revision, repo_type=place.kind
    )
    return Path(name)


def _list_files(place: _Place) -> list[str]:
    """Return the names of all files of a repository."""
    with _plain_errors(place, None):
        return huggingface_hub.HfApi().list_repo_files(
            place.repository, revision=place.revision, repo_type=place.kind
        )


@contextmanager
def _plain_errors(place: _Place, file: str | None) -> Iterator[None]:
    """Say in one sentence what the hub's client says in many."""
    try:
        yield
    except LensError:
        raise
    except Exception as error:  # from the hub, its client, the network or the disk
        what = "the list of its files" if file is None else repr(file)
        at = "" if place.revision is None else f" at the revision {place.revision!r}"
        raise LensError(
            f"{what} of {place.repository!r}{at} could not be had from the hub. Check the name, "
            "and that the hub can be reached, or download the file and name its path. The reason "
            f"given is {type(error).__name__}: {one_line(str(error), 300)}"
        ) from error
