"""A survey as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lens_recipes.arrays.survey.arrays import SURVEY_AXES, ItemNames, SurveyArrays
from lens_recipes.views.files.array_file import (
    ArrayFormat,
    Arrays,
    Fields,
    array_json,
    damage_in_words,
    read_array_file,
    write_array_file,
)
from lens_recipes.views.files.schema.certificate import read_certificate, write_certificate
from lens_recipes.views.files.schema.checks import (
    Sizes,
    is_count,
    read_list,
    read_texts,
    read_texts_of_ids,
    write_texts_of_ids,
)
from lens_recipes.views.files.schema.numbers import read_numbers
from lens_recipes.views.files.schema.provenance import read_provenance
from lens_recipes.views.files.schema.rows import read_sites
from lens_recipes.views.files.strict_json import to_json

FORMAT, VERSION = "lens-recipes/survey", 1
WHOLE = ("number", "position")  # arrays of whole numbers that are no ids and no ranks
# The axes as a file has them: an answer may have another number of spellings than what it is held
# against.
AXES = SURVEY_AXES | {"against_ids": ("item", "other_spelling")}


def save_survey(survey: SurveyArrays, path: str | os.PathLike[str]) -> None:
    """Write a survey: complete or not at all. See `Survey.save`."""
    write_array_file(path, SURVEY, fields_of(survey), arrays_of(survey))


def survey_json(survey: SurveyArrays) -> str:
    """Return the whole survey as strict JSON: NaN is null, an infinity is a text."""
    return array_json(SURVEY, fields_of(survey), arrays_of(survey))


def arrays_of(survey: SurveyArrays) -> Arrays:
    """Return the arrays of a survey."""
    return {name: getattr(survey, name) for name in AXES}


def fields_of(survey: SurveyArrays) -> Fields:
    """Return all of a survey but its arrays, as strict JSON can hold it."""
    return {
        "sites": [list(site) for site in survey.sites],
        "names": [list(name) for name in survey.names],
        "n_spellings": [survey.target_ids.shape[1], survey.against_ids.shape[1]],
        "left_out": [list(entry) for entry in survey.left_out],
        "texts": write_texts_of_ids(survey.texts),
        "certificate": to_json(write_certificate(survey.certificate)),
        "provenance": to_json(survey.provenance),
    }


def lengths_of(fields: Fields) -> Sizes:
    """Return the lengths of the axes that the fields of a file name the entries of."""
    sizes: Sizes = {}
    sizes["site"] = len(read_list(fields["sites"], sizes))
    sizes["item"] = len(read_list(fields["names"], sizes))
    for axis, length in zip(("spelling", "other_spelling"), fields["n_spellings"], strict=True):
        if not is_count(length):
            raise ValueError(f"n_spellings is {fields['n_spellings']!r:.80}")
        sizes[axis] = length
    if bool(sizes["site"]) != bool(sizes["item"]):  # a shard may have neither
        raise ValueError("there are no items, or no sites")
    return sizes


SURVEY = ArrayFormat(
    FORMAT,
    VERSION,
    "a survey",
    AXES,
    lengths_of,
    plain=(*WHOLE, *(name for name in AXES if name.endswith(("_ids", "ranks")))),
)


def load_survey(path: str | os.PathLike[str], survey_class: type) -> Any:
    """Read a survey. See `Survey.load`."""
    fields, arrays = read_array_file(path, SURVEY)
    with damage_in_words(Path(path), SURVEY):
        return rebuilt(fields, arrays, survey_class)


def rebuilt(stored: Fields, arrays: Arrays, survey_class: type) -> Any:
    """Return the survey that a file holds.

    Raises:
        KeyError, TypeError, ValueError: the file is damaged.
    """
    sizes = lengths_of(stored)
    names = []
    for entry in stored["names"]:
        names.append(ItemNames(*read_texts(entry, sizes)))
    checked: Arrays = {}
    for name in AXES:
        checked[name] = checked_array(name, arrays[name])
    return survey_class(
        sites=read_sites(stored["sites"], sizes) if sizes["site"] else [],
        names=names,
        left_out=[read_left_out(entry, sizes) for entry in read_list(stored["left_out"], sizes)],
        texts=read_texts_of_ids(stored["texts"], sizes),
        certificate=read_certificate(stored["certificate"], sizes),
        provenance=read_provenance(stored["provenance"], sizes),
        **checked,
    )


def checked_array(name: str, array: Any) -> Any:
    """Return the numbers of an array in the type of its own, all of them in their range.

    Raises:
        ValueError: they are of another sort, or out of range.
    """
    if name in WHOLE:
        if not array.size:
            return array.astype(np.int64 if name == "number" else np.int32)
        if array.dtype.kind not in "iu" or (array < 0).any():
            raise ValueError(f"{name} holds no whole numbers from 0")
        return array.astype(np.int64 if name == "number" else np.int32)
    if name == "ranks":
        return read_numbers("target_ranks", array)
    if name == "logprobs":
        return read_numbers("target_logprobs", array)
    if name == "target_ids":
        return read_numbers("against_ids", array)  # padded: −1 says "none"
    return read_numbers(name, array)


def read_left_out(stored: Any, sizes: Sizes) -> tuple[int, str, str, str]:
    """Return an item that is not among the numbers."""
    number, *texts = read_list(stored, sizes)
    name, reason, detail = read_texts(texts, sizes)
    if not is_count(number):
        raise ValueError(f"left_out has the entry {stored!r:.80}")
    return number, name, reason, detail
