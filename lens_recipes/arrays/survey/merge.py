"""Put the parts of a survey together: blocks of one run, or shards of several machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.certificate import joined_certificate
from lens_recipes.arrays.survey.arrays import SURVEY_AXES, SurveyArrays
from lens_recipes.errors import LensError

# What must be the same in all parts of a survey.
SAME = ("model", "revision", "dtype", "lens", "edits")


def merge_surveys(surveys: Iterable[SurveyArrays]) -> SurveyArrays:
    """Return the whole survey out of parts of it: the same as if it had been made at once.

    Raises:
        LensError: they are of different models or sites, were asked otherwise, share items, or none
            of them has any.
    """
    if isinstance(surveys, SurveyArrays) or not isinstance(surveys, Iterable):
        raise LensError(
            f"received {type(surveys).__name__} to merge; accepted is a list of surveys: "
            "Survey.merge([first, second])."
        )
    parts = list(surveys)
    if not parts:
        raise LensError("there is no survey to merge.")
    for number, part in enumerate(parts):
        if not isinstance(part, SurveyArrays):
            raise LensError(
                f"part {number} is {type(part).__name__}, no survey: Survey.load reads a file."
            )
    for number, part in enumerate(parts[1:], start=1):
        check_same(number, part, parts[0])
    left_out = sorted(entry for part in parts for entry in part.left_out)
    filled = [part for part in parts if len(part)]
    if not filled:
        raise LensError(
            "none of the surveys has an item: " + (left_out[0][3] if left_out else "there are none")
        )
    first = filled[0]
    numbers = np.concatenate([part.number for part in filled])
    all_numbers = [*numbers.tolist(), *[entry[0] for entry in left_out]]
    distinct, counts = np.unique(all_numbers, return_counts=True)
    if (counts > 1).any():
        raise LensError(f"item {distinct[counts > 1][0]} is in more than one of the surveys.")
    order = np.argsort(numbers, kind="stable")
    joined = joined_arrays([arrays_of(part) for part in filled])
    names = [name for part in filled for name in part.names]
    texts: dict[int, str] = {}
    for part in filled:
        texts.update(part.texts)
    certificates = [part.certificate for part in filled if part.certificate is not None]
    seconds = sum(float(part.provenance.get("seconds", 0.0)) for part in filled)
    arguments = arguments_of(first) | {"shard": joined_shards(parts)}
    return SurveyArrays(
        sites=first.sites,
        names=[names[index] for index in order.tolist()],
        **{name: array[order] for name, array in joined.items()},
        left_out=left_out,
        texts=texts,
        certificate=joined_certificate(certificates),
        provenance=first.provenance | {"arguments": arguments, "seconds": round(seconds, 3)},
    )


def check_same(number: int, part: SurveyArrays, first: SurveyArrays) -> None:
    """Raise a LensError unless a part was asked as the first was."""
    both_filled = len(part) > 0 and len(first) > 0
    if both_filled and part.sites != first.sites:
        raise LensError(f"survey {number} was read at other sites than the first.")
    keys = SAME if both_filled else SAME[:3]  # a part without items never ran
    mine, theirs = part.provenance, first.provenance
    pairs = {key: (mine.get(key), theirs.get(key)) for key in keys}
    for key in sorted({*arguments_of(part), *arguments_of(first)} - {"shard"}):
        pairs[key] = arguments_of(part).get(key), arguments_of(first).get(key)
    for key, (one, other) in pairs.items():
        if one != other:
            raise LensError(
                f"survey {number} is of another {key} than the first: {one!r:.80} and "
                f"{other!r:.80}."
            )


def arguments_of(survey: SurveyArrays) -> dict[str, Any]:
    """Return what a survey was asked with; nothing where it does not say."""
    arguments = survey.provenance.get("arguments")
    return dict(arguments) if isinstance(arguments, dict) else {}


# -- which parts -------------------------------------------------------


def joined_shards(parts: Sequence[SurveyArrays]) -> list[list[int]] | None:
    """Return which shards parts are, those of merged ones among them: None for the whole."""
    shards: set[tuple[int, int]] = set()
    for part in parts:
        own = part.shards
        if not own:
            return None
        shards.update(own)
    known = sorted(shards)
    n_parts = known[0][1]
    if known == [(number, n_parts) for number in range(1, n_parts + 1)]:
        return None
    return [list(shard) for shard in known]


def part_words(survey: SurveyArrays) -> str:
    """Return which part of all items these are, such as "part 3 of 16"; empty for the whole."""
    shards = survey.shards
    if not shards:
        return ""
    if len(shards) == 1:
        return f"part {shards[0][0]} of {shards[0][1]}"
    n_parts = {n for _, n in shards}
    if len(n_parts) == 1:
        return f"{len(shards)} of {shards[0][1]} parts"
    return f"{len(shards)} parts of several divisions"


# -- arrays ------------------------------------------------------------


def without_items(left_out: list[tuple[int, str, str, str]], about: dict[str, Any]) -> SurveyArrays:
    """Return a part of a survey that has no items, perhaps as all of them are left out."""
    arrays: dict[str, Any] = {}
    for name, axes in SURVEY_AXES.items():
        kind = np.float32 if name.endswith(FLOATS) else np.int32
        arrays[name] = np.zeros([0] * len(axes), dtype=kind)
    arrays["number"] = arrays["number"].astype(np.int64)
    return SurveyArrays(sites=[], names=[], left_out=left_out, provenance=about, **arrays)


FLOATS = ("logprobs", "entropy", "kl_to_final")


def arrays_of(survey: SurveyArrays) -> dict[str, NDArray[Any]]:
    """Return the arrays of a survey by name."""
    return {name: getattr(survey, name) for name in SURVEY_AXES}


def joined_arrays(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return arrays of items one after the other; lists of ids as wide as the widest."""
    joined = {}
    for name, axes in SURVEY_AXES.items():
        arrays = [part[name] for part in parts]
        if axes[-1] == "spelling":
            width = max(array.shape[1] for array in arrays)
            arrays = [widened(array, width) for array in arrays]
        joined[name] = np.concatenate(arrays)
    return joined


def widened(ids: NDArray[Any], width: int) -> NDArray[Any]:
    """Return lists of ids padded to a width with −1."""
    return np.pad(ids, [(0, 0), (0, width - ids.shape[1])], constant_values=-1)
