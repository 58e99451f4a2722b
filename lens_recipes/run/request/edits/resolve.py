"""Read the argument `edits=`, and turn lenses and tokens in it into what a trace takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Steering, Swap, edit_from_json
from lens_recipes.caller import in_python, parameter
from lens_recipes.run.request.lenses import recorded_lens, resolve_lens
from lens_recipes.run.request.prompts import shortened


def resolve_edits(edits: Any, model: Any, *, writes: bool = False) -> list[Edit]:
    """Return the edits that a recipe is to make, each with its lens loaded.

    Args:
        edits: None, one edit or several, or what a job's file recorded of them.
        model: The model that the lenses must belong to.
        writes: Whether the model is to write; else there is only the prompt to be edited.

    Raises:
        ValueError: something that is no edit, or one of written tokens where nothing is written.
        LensError: a lens that cannot be read, or cannot belong to the model.
    """
    if edits is None:
        return []
    given = [edits] if isinstance(edits, Edit | Mapping) else edits
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise ValueError(not_edits(edits))
    resolved = []
    for item in given:
        edit = edit_from_json(item) if isinstance(item, Mapping) else item
        if not isinstance(edit, Edit):
            raise ValueError(not_edits(item))
        if edit.when == "written" and not writes:
            raise ValueError(
                f'{edit}: nothing is written here, so an edit with when="written" would change '
                'nothing. Edit with when="prompt", or with generate_lens.'
            )
        if isinstance(edit, Steering | Swap):
            edit = replace(edit, lens=resolve_lens(edit.lens, model))
        resolved.append(edit)
    return sorted(resolved, key=order_of)


@contextmanager
def naming(edit: Edit) -> Iterator[None]:
    """Have a mistake that is found in an edit name the edit, without when it is made.

    Raises:
        ValueError: as what runs within, after the words of the edit.
    """
    try:
        with in_python():
            yield
    except ValueError as error:
        named = replace(edit, when="prompt")
        raise ValueError(f"{parameter('edits')}: {named}: {error}") from error


def not_edits(received: Any) -> str:
    """Return the message about an argument that is no edit."""
    return (
        f"edits={shortened(received)} is no edit: accepted are what ablate(), patch(), steer() and "
        "swap() return, one or a list of them."
    )


def order_of(edit: Edit) -> tuple[int, str]:
    """Return what puts edits in order.

    What is added is added to what was set, whatever the order of the list.
    """
    return (1 if isinstance(edit, Steering) else 0, str(edit.to_json()))


def recorded_edits(edits: list[Edit]) -> list[dict[str, Any]] | None:
    """Return edits as the arguments of a run hold them, from which they can be made again."""
    if not edits:
        return None
    recorded = []
    for edit in edits:
        fields = edit.to_json()
        if isinstance(edit, Steering | Swap) and edit.lens is not None:
            fields["lens"] = recorded_lens(edit.lens)
        recorded.append(fields)
    return recorded


def edits_provenance(edits: list[Edit]) -> dict[str, Any]:
    """Return what a result's provenance says of the edits; nothing for none."""
    recorded = []
    for edit in edits:
        fields = edit.to_json()
        if isinstance(edit, Steering | Swap) and edit.lens is not None:
            used = edit.lens.used()
            fields["lens"] = {"kind": used.kind, "source": used.source, "digest": used.digest}
        recorded.append(fields)
    return {"edits": recorded} if recorded else {}
