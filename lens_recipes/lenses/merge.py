"""Merge fits on disjoint texts into the fit on all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.lenses.files.own import SUFFIX, read_sums
from lens_recipes.lenses.record import LensRecord
from lens_recipes.lenses.solve.solution import ROWS, add_sums, halves_of
from lens_recipes.lenses.solve.solve import MERGED_KINDS, solve

TEXT_LETTERS = 500  # of the names of all texts together

# What must be the same of all fits: a word for it, and where their records have it.
SAME = {
    "model": "the model",
    "revision": "the revision",
    "n_layers": "the number of layers",
    "unembedding": "the unembedding",
    "tokenizer": "the tokenizer",
    "starts_with_bos": "whether texts begin with BOS",
    "first_position": "the first position that was fitted",
    "target_layer": "the layer that is predicted",
}


def merged_parts(lenses: Iterable[Any]) -> dict[str, Any]:
    """Return what a `Lens` is made of that is the fit on the texts of several lenses.

    The lenses are added up one after another, so that no more than two sets of sums exist at once
    of those whose sums are still in their files.

    Args:
        lenses: Of one kind and one model, with their sums.

    Raises:
        ValueError: they cannot be merged, or were fitted on the same text.
    """
    merging: Merging | None = None
    for lens in as_lenses(lenses):
        if merging is None:
            merging = Merging(lens)
        merging.add(lens)
    if merging is None:
        raise ValueError("received no lenses to merge: pass at least one.")
    first, records = merging.first, merging.records
    solution = solve(first.kind, merging.sums, first.layers)
    settings = {**first.record.settings, **solution.settings}
    settings.pop("shard", None)
    seeds = {record.seed for record in records}
    record = replace(
        first.record,
        text=merged_text([record.text for record in records]),
        n_prompts=total(record.n_prompts for record in records),
        n_tokens=total(record.n_tokens for record in records),
        seed=first.record.seed if len(seeds) == 1 else None,
        settings=settings,
    )
    return {
        "kind": first.kind,
        "transports": solution.transports,
        "record": record,
        "quality": None,
        "source": f"{len(records)} fits merged",
        "sums": merging.sums,
    }


class Merging:
    """Add up the sums of fits, one after another.

    Attributes:
        first: The lens that the others must go with.
        records: Those of the lenses so far.
        sums: What the fits so far added up.
    """

    def __init__(self, first: Any) -> None:
        """Begin with nothing added up."""
        self.first = first
        self.records: list[LensRecord] = []
        self.sums: dict[str, Tensor] = {}

    def add(self, lens: Any) -> None:
        """Add a lens.

        Raises:
            ValueError: it does not go with the first, or some of its text is in an earlier one.
        """
        check_kind(lens)
        sums = sums_of(lens)
        check_mergeable(lens, self.first)
        check_sums(lens, sums, self.sums or sums)
        rows = sums.pop(ROWS)
        seen = self.sums.pop(ROWS, rows[:0])
        check_disjoint(len(self.records), rows, seen)
        add_sums(self.sums, sums)
        self.sums[ROWS] = torch.cat([seen, rows])
        self.records.append(lens.record)


def merged_text(texts: Sequence[str]) -> str:
    """Return what several texts are together, in no more words than a record has room for.

    >>> merged_text(["a.txt", "b.txt", "a.txt", ""])
    'a.txt + b.txt'
    """
    together = " + ".join(dict.fromkeys(text for text in texts if text))
    return together if len(together) <= TEXT_LETTERS else f"{together[:TEXT_LETTERS]}… and others"


def as_lenses(lenses: Any) -> Iterator[Any]:
    """Yield the lenses that are to be merged.

    Raises:
        ValueError: something among them is none.
    """
    if is_path(lenses) or not isinstance(lenses, Iterable):
        lenses = [lenses]
    for lens in lenses:
        if not hasattr(lens, "sums"):
            raise ValueError(
                f"received {type(lens).__name__} among the lenses to merge: pass a list of what "
                "fit_lens() and load_lens() return."
            )
        yield lens


def is_path(value: Any) -> bool:
    """Return whether something names a file, though it could be gone through as well."""
    return isinstance(value, str | bytes | os.PathLike)


def check_kind(lens: Any) -> None:
    """Raise ValueError for a lens that is made of more than sums."""
    if lens.kind not in MERGED_KINDS:
        raise ValueError(
            f"received a {lens.name}; fits of kind {' and '.join(MERGED_KINDS)} can be merged, "
            "because all that they are made of are sums over their texts."
        )


def sums_of(lens: Any) -> dict[str, Tensor]:
    """Return what the fit of a lens added up, which is read of its file only now.

    Raises:
        ValueError: it was not kept; or the file is no longer there, or is another one now.
    """
    sums = lens.sums
    if sums is None and lens.location.endswith(SUFFIX):
        try:
            sums = read_sums(Path(lens.location), lens.digest)
        except (LensError, OSError, ValueError) as error:
            raise ValueError(
                f"what the fit of {lens.source!r} added up cannot be read any more: {error}."
            ) from error
    if not sums or ROWS not in sums or not halves_of(sums):
        raise ValueError(
            f"{lens.source!r} does not hold what its fit added up, so it cannot be merged. "
            + say(
                python="Fit with path=, whose file holds it, or save with sums=True.",
                shell="Merge the files that lens-recipes fit wrote.",
            )
        )
    return dict(sums)


def check_mergeable(lens: Any, first: Any) -> None:
    """Raise ValueError unless a lens is of the kind, the streams and the model of another."""
    if lens.kind != first.kind:
        raise ValueError(f"received a {first.name} and a {lens.name}: merge one kind at a time.")
    if lens.layers != first.layers or lens.d_model != first.d_model:
        raise ValueError(
            f"received lenses of different streams: {first.source!r} has {first.layers} of "
            f"width {first.d_model}, {lens.source!r} has {lens.layers} of width {lens.d_model}."
        )
    for name, words in SAME.items():
        ours, theirs = getattr(first.record, name), getattr(lens.record, name)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"{words} differs: {ours!r} in {first.source!r}, {theirs!r} in "
                f"{lens.source!r}. Only fits of one model can be merged."
            )


def check_sums(lens: Any, sums: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the sums of a lens are whole, finite and shaped as others."""
    expected = shapes_of(halves_of(others)[0])
    for half in halves_of(sums):
        is_finite = all(bool(torch.isfinite(value).all()) for value in half.values())
        if not is_finite or shapes_of(half) != expected:
            raise ValueError(
                f"what the fit of {lens.source!r} added up is damaged, or of another kind of fit: "
                "fit it again."
            )


def shapes_of(sums: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of sums, by their names."""
    return {name: value.shape for name, value in sums.items()}


def check_disjoint(number: int, rows: Tensor, seen: Tensor) -> None:
    """Raise ValueError if some row of text of a lens was in an earlier one.

    Args:
        number: Of the lens.
        rows: The keys of its rows, `[row]`.
        seen: Those of the earlier ones.
    """
    n_shared = int(torch.isin(rows, seen).sum())
    if n_shared:
        raise ValueError(
            f"{n_shared} of the {len(rows)} rows of text of lens {number} are in an earlier "
            "one as well, and would count twice. Merge fits on disjoint texts, such as the "
            + say(python="shards of one text (shard=(i, n)).", shell="--shards of one text.")
        )


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of some counts; None where one is not known."""
    together = 0
    for count in counts:
        if count is None:
            return None
        together += count
    return together
