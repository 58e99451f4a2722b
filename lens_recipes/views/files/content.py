"""A result to what its file holds, and back: arrays, and everything else as JSON."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.axes import TOKEN_DTYPES, Axes, Tokens
from lens_recipes.arrays.edits.effects import EFFECT_AXES, FIRST_CONTROL, EditEffects
from lens_recipes.views.files.schema.checks import Sizes
from lens_recipes.views.files.schema.kinds import KINDS, Result, ResultKind, kind_of
from lens_recipes.views.files.schema.numbers import TOKEN_AXES, read_numbers
from lens_recipes.views.files.schema.pictures import IMAGE_COLUMNS, check_places
from lens_recipes.views.files.schema.relations import Arrays
from lens_recipes.views.files.strict_json import to_json

# Columns of the tokens that only a generation has.
GENERATION_COLUMNS = ("next_logprob", "sampler_logprob")


def meta_of(result: Result) -> dict[str, Any]:
    """Return all of a result but its arrays, as strict JSON can hold it."""
    kind = kind_of(type(result))
    metadata: dict[str, Any] = {"format": kind.format, "version": kind.version}
    for field_name, field in kind.fields.items():
        value = result.tokens.text if field_name == "token_text" else getattr(result, field_name)
        if value or field.is_written_empty:
            metadata[field_name] = to_json(field.write(value))
    return metadata


def arrays_of(result: Result) -> Arrays:
    """Return the arrays of a result and of its tokens."""
    kind = kind_of(type(result))
    array_names = [*kind.axes, *kind.derived_axes]
    arrays = {array_name: getattr(result, array_name) for array_name in array_names}
    effects = getattr(result, "effects", None)
    if effects is not None:
        arrays |= effects.arrays()
    for column_name in TOKEN_DTYPES:
        column = getattr(result.tokens, column_name)
        if column is not None:
            arrays[f"token_{column_name}"] = column
    return arrays


def stored_axes(metadata: dict[str, Any]) -> Axes:
    """Return the arrays of a file's format, and the axes of each; none of an unknown format."""
    for kind in KINDS:
        if (kind.format, kind.version) == (metadata.get("format"), metadata.get("version")):
            return {**TOKEN_AXES, **kind.axes, **kind.derived_axes, **kind.effect_axes}
    return {}


def promised_lengths(metadata: dict[str, Any]) -> Sizes:
    """Return the lengths of the axes that the JSON of a file names the entries of.

    Raises:
        KeyError, TypeError: the file is damaged.
    """
    kind = next(kind for kind in KINDS if kind.format == metadata["format"])
    return {
        kind.rows_axis: len(metadata[kind.rows_field]),
        "token": len(metadata["token_text"]),
        "prompt": len(metadata["prompts"]),
    }


def check_shape(
    array_name: str, axis_names: tuple[str, ...], lengths: Sizes, shape: tuple[int, ...]
) -> None:
    """Check that each axis of an array is as long as in the other arrays.

    Args:
        array_name: The array.
        axis_names: Its axes.
        lengths: The lengths of the axes that are known; new ones are added.
        shape: Its shape.

    Raises:
        ValueError: an axis has another length, or there are more or fewer axes.
    """
    if len(shape) == len(axis_names):
        for axis_name, length in zip(axis_names, shape, strict=True):
            lengths.setdefault(axis_name, length)
    expected = [lengths.get(axis_name, "any") for axis_name in axis_names]
    if list(shape) == expected:
        return
    raise ValueError(
        f"{array_name} has the shape {list(shape)}, expected {expected} for {list(axis_names)}"
    )


def rebuild(result_class: type, meta: dict[str, Any], arrays: Arrays) -> Any:
    """Return the result that a file holds.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: the file is damaged.
    """
    kind = kind_of(result_class)
    sizes = {
        kind.rows_axis: len(meta[kind.rows_field]),
        "token": len(arrays["token_id"]),
        "prompt": len(meta["prompts"]),
    }
    fields = _read_fields(kind, meta, sizes)
    columns = _read_token_columns(arrays, sizes)
    tokens = Tokens(**columns, text=fields.pop("token_text"))
    checked_arrays = _read_arrays(kind, arrays, sizes)
    for array_name, derive in kind.later_arrays.items():
        if array_name not in checked_arrays:
            checked_arrays[array_name] = derive(fields, checked_arrays)
    kind.check(fields, tokens, checked_arrays)
    check_places(tokens, fields.get("pictures", []))
    if kind.effect_axes:
        lengths = sizes | {"target": checked_arrays["target_ids"].shape[1]}
        fields["effects"] = read_effects(arrays, tokens, fields["provenance"], lengths)
    result = result_class(tokens=tokens, **fields, **checked_arrays)
    _check_derived(kind, arrays, result)
    return result


def _read_fields(kind: ResultKind, meta: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Return the checked fields of a result.

    Raises:
        ValueError: one of them is not what it can hold; the message begins with its name.
    """
    fields = {}
    for field_name, field in kind.fields.items():
        if field_name not in meta and field.default is not None:
            fields[field_name] = list(field.default)
            continue
        try:
            fields[field_name] = field.read(meta[field_name], sizes)
        except ValueError as error:
            raise ValueError(f"{field_name}: {error}") from error
    return fields


def _read_token_columns(arrays: Arrays, sizes: Sizes) -> Arrays:
    """Return the checked columns of the tokens."""
    columns = {}
    has_images = any(f"token_{name}" in arrays for name in IMAGE_COLUMNS)  # all of them, or none
    for stored_name, axis_names in TOKEN_AXES.items():
        column_name = stored_name.removeprefix("token_")
        if column_name in GENERATION_COLUMNS and stored_name not in arrays:
            continue
        if column_name in IMAGE_COLUMNS and not has_images:
            continue
        column = arrays[stored_name]
        check_shape(stored_name, axis_names, sizes, column.shape)
        columns[column_name] = read_numbers(stored_name, column)
    return columns


def _read_arrays(kind: ResultKind, arrays: Arrays, sizes: Sizes) -> Arrays:
    """Return the checked arrays of a result: each axis has one length in all of them."""
    checked = {}
    lengths = dict(sizes)
    for array_name, axis_names in kind.axes.items():
        if array_name in kind.later_arrays and array_name not in arrays:
            continue
        array = arrays[array_name]
        check_shape(array_name, axis_names, lengths, array.shape)
        checked[array_name] = read_numbers(array_name, array)
    return checked


def read_effects(
    arrays: Arrays, tokens: Tokens, provenance: dict[str, Any], sizes: Sizes
) -> EditEffects | None:
    """Return the checked effects of an edited run; None where a file has none.

    Raises:
        KeyError, ValueError: they are not whole, or not of the controls that the file names.
    """
    stored = [name for name in EFFECT_AXES if name in arrays]
    if not stored and "controls" not in provenance:
        return None
    lengths = dict(sizes)
    lengths["run"] = FIRST_CONTROL + len(provenance["controls"]["names"])
    checked = {}
    for array_name, axis_names in EFFECT_AXES.items():
        check_shape(array_name, axis_names, lengths, arrays[array_name].shape)
        checked[array_name] = read_numbers(array_name, arrays[array_name])
    return EditEffects.from_arrays(checked, tokens.prompt, provenance["controls"])


def _check_derived(kind: ResultKind, arrays: Arrays, result: Any) -> None:
    """Check that the arrays of a file that follow from the others do so.

    Raises:
        ValueError: one of them says something else.
    """
    for array_name in kind.derived_axes:
        if array_name not in arrays:
            continue
        stored = read_numbers(array_name, arrays[array_name])
        expected = getattr(result, array_name)
        if stored.shape != expected.shape or (stored != expected).any():
            raise ValueError(f"{array_name} is not what follows from the other numbers")
