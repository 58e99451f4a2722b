"""The kinds of results: each says what its file holds, with a check for each field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AXES as ATTRIBUTION_AXES
from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Axes, Tokens
from lens_recipes.arrays.edits.effects import EFFECT_AXES
from lens_recipes.arrays.lens import AXES as LENS_AXES
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.views.files.schema.certificate import read_certificate, write_certificate
from lens_recipes.views.files.schema.checks import (
    Sizes,
    read_inputs,
    read_layer,
    read_places,
    read_prompts,
    read_responses,
    read_sources,
    read_text,
    read_texts_of_ids,
    read_token_texts,
    read_unit,
    write_places,
    write_texts_of_ids,
)
from lens_recipes.views.files.schema.pictures import read_pictures, write_pictures
from lens_recipes.views.files.schema.provenance import read_provenance
from lens_recipes.views.files.schema.relations import (
    Arrays,
    Fields,
    check_attribution,
    check_lens,
    entropy_of_last_layer,
)
from lens_recipes.views.files.schema.rows import read_parts, read_sites

Result = LensArrays | AttributionArrays


class StoredField(NamedTuple):
    """How one field of a result is written as JSON, and how it is checked when it is read.

    Attributes:
        read: Return the value of the field for what the file holds and the sizes of the axes.
            Raise a ValueError if that is not what the field can hold.
        write: Return what the file holds for a value of the field.
        default: What the field is in a file that is older than the field; None if every file has
            it.
        is_written_empty: Whether the field is written where it is empty.
    """

    read: Callable[[Any, Sizes], Any]
    write: Callable[[Any], Any] = lambda value: value
    default: list[Any] | None = None
    is_written_empty: bool = True


class ResultKind(NamedTuple):
    """One kind of result, and what its file holds.

    Attributes:
        arrays_class: The class whose arrays are stored.
        public_name: The public class.
        description: What sentences call it.
        format, version: What its file says first.
        axes: Its arrays, and the axes of each.
        rows_field, rows_axis: The field that names the entries of the first axis, and that axis.
        fields: All fields but the arrays, in the order in which the file has them.
        check: Raise a ValueError if the fields, the tokens and the arrays do not belong together.
        derived_axes: Arrays that follow from the others, and the axes of each. They are written for
            other programs, and must be right where they are read.
        later_arrays: What makes an array that a file of an earlier version lacks out of the others.
        effect_axes: The arrays of its effects, which only a result of an edited run has, and the
            axes of each.
    """

    arrays_class: type[Result]
    public_name: str
    description: str
    format: str
    version: int
    axes: Axes
    rows_field: str
    rows_axis: str
    fields: dict[str, StoredField]
    check: Callable[[Fields, Tokens, Arrays], None]
    derived_axes: Axes
    later_arrays: dict[str, Callable[[Fields, Arrays], NDArray[Any]]]
    effect_axes: Axes


COMMON_FIELDS = {
    "prompts": StoredField(read_prompts),
    "token_text": StoredField(read_token_texts),  # of `Tokens`
    "texts": StoredField(read_texts_of_ids, write_texts_of_ids),
    "certificate": StoredField(read_certificate, write_certificate),
    "provenance": StoredField(read_provenance),
    "inputs": StoredField(read_inputs, default=[], is_written_empty=False),
}

KINDS = (
    ResultKind(
        arrays_class=LensArrays,
        public_name="LensResult",
        description="a lens result",
        format="lens-recipes/result",
        version=1,
        axes=LENS_AXES,
        rows_field="sites",
        rows_axis="site",
        fields={
            "responses": StoredField(read_responses, default=[]),
            "sites": StoredField(read_sites),
            **COMMON_FIELDS,
            "pictures": StoredField(
                read_pictures, write_pictures, default=[], is_written_empty=False
            ),
        },
        check=check_lens,
        derived_axes={"readable": ("site", "token")},
        later_arrays={"model_entropy": entropy_of_last_layer},
        effect_axes=EFFECT_AXES,
    ),
    ResultKind(
        arrays_class=AttributionArrays,
        public_name="Attribution",
        description="an attribution",
        format="lens-recipes/attribution",
        version=1,
        axes=ATTRIBUTION_AXES,
        rows_field="parts",
        rows_axis="part",
        fields={
            "unit": StoredField(read_unit),
            "at_layer": StoredField(read_layer),
            "against": StoredField(read_text),
            "sources": StoredField(read_sources),
            "parts": StoredField(read_parts),
            **COMMON_FIELDS,
            "places": StoredField(read_places, write_places, default=[], is_written_empty=False),
        },
        check=check_attribution,
        derived_axes={},
        later_arrays={},
        effect_axes={},
    ),
)


def kind_of(result_class: type) -> ResultKind:
    """Return the kind of a class of results."""
    return next(kind for kind in KINDS if issubclass(result_class, kind.arrays_class))
