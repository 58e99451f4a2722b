"""The run of a job's file, prepared again: of the same model, and for a server that is known."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import LensError
from lens_recipes.models.handle import resolve_remote
from lens_recipes.models.load import load
from lens_recipes.run.registry import RECIPES
from lens_recipes.run.remote.http.addresses import is_server, shown_address
from lens_recipes.run.remote.http.settings import address, api_key
from lens_recipes.run.remote.jobs.file import JobHeader, fingerprint
from lens_recipes.run.request.images.digests import check_recorded
from lens_recipes.run.run import RecipeRun


class RestoredRun(NamedTuple):
    """The run of a job's file.

    Attributes:
        run: The run, prepared again.
        host_is_named: Whether the user has named its server, and not only the file.
    """

    run: RecipeRun[Any]
    host_is_named: bool


def restore_run(
    path: str | os.PathLike[str],
    header: JobHeader,
    model: Envoy | None,
    images: Any = None,
) -> RestoredRun:
    """Return the run that a job's file is about.

    Args:
        path: The file, for messages.
        header: Its first line.
        model: The model it is about; None to load it by its hub id, without weights.
        images: Those of its prompts; None where they have none.

    Raises:
        LensError: the run cannot be prepared with this model, would be another one, or is on a
            server that this user has not named and that would get the user's key.
    """
    if not is_server(header.host):
        raise LensError(
            f"{str(path)!r} does not say where its job is: {shown_address(header.host)!r} is no "
            "address of a server."
        )
    host_is_named = header.host in _named_hosts(model)
    if api_key() and not host_is_named:
        raise LensError(
            f"{str(path)!r} says that its job is on {header.host}, a server that you have not "
            "named, and your NDIF key would be sent there. If it is yours: "
            f"Job.load(path, load({header.model!r}, remote={header.host!r}))."
        )
    check_images(path, header, images)
    if model is None:
        model = _load_model(header)
    run = _prepare_again(path, header, model, images)
    if fingerprint(run) != header.fingerprint:
        raise LensError(
            f"{str(path)!r} is a job of another model, tokenizer or version of this package, or of "
            f"an adapter ({header.model}, {header.versions}): its results would not belong to what "
            "is asked here. Pass the model as it was loaded then, Job.load(path, model), or run "
            "the recipe anew."
        )
    return RestoredRun(run, host_is_named)


def check_images(path: str | os.PathLike[str], header: JobHeader, images: Any) -> None:
    """Raise a LensError unless the images of a job's prompts were passed, and no others.

    Raises:
        LensError: they are others, or missing, or there were none.
        ValueError: they are no images that can be read.
    """
    recorded = header.arguments.get("images")
    again = "Job.load(path, model, images=…)"
    check_recorded(recorded, images, f"the job in {str(path)!r}", again)


def _named_hosts(model: Envoy | None) -> list[bool | str]:
    """Return the servers that the user has named: in the settings, and by the model.

    Anyone can write a file, and whatever it names gets no key.
    """
    named_hosts: list[bool | str] = [address(True)]
    if model is not None:
        named_hosts.append(resolve_remote(model, None))
    return named_hosts


def _load_model(header: JobHeader) -> Envoy:
    """Load the model that a job's file names, without weights."""
    if header.revision:
        return load(header.model, remote=header.host, revision=header.revision)
    return load(header.model, remote=header.host)


def _prepare_again(
    path: str | os.PathLike[str], header: JobHeader, model: Envoy, images: Any
) -> RecipeRun[Any]:
    """Prepare a run with the arguments of its file."""
    prepare = RECIPES[header.recipe].prepare  # it is there: `read_job` has looked
    try:
        arguments = header.recipe_arguments()
        if images is not None:
            arguments["images"] = images
        return prepare(model, **arguments, remote=header.host)
    except (TypeError, ValueError) as error:
        raise LensError(
            f"{str(path)!r} is a job of {header.model} with {header.versions}, and what it asks "
            f"for is not possible with this model and version of this package: {error}"
        ) from error
