"""Merge fits on disjoint texts into the fit on all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.lenses.files.own import SUFFIX, read_sums
from lens_recipes.lenses.solve.solution import HALVES, ROWS, half_of
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


def merged_parts(lenses: Sequence[Any]) -> dict[str, Any]:
    """Return what a `Lens` is made of that is the fit on the texts of several lenses.

    Args:
        lenses: Of one kind and one model, with their sums.

    Raises:
        ValueError: they cannot be merged, or were fitted on the same text.
    """
    lenses = [with_sums(lens) for lens in as_lenses(lenses)]
    if not lenses:
        raise ValueError("received no lenses to merge: pass at least one.")
    check_mergeable(lenses)
    sums = summed([lens.sums for lens in lenses])
    first = lenses[0]
    solution = solve(first.kind, sums, first.layers)
    settings = {**first.record.settings, **solution.settings}
    settings.pop("shard", None)
    record = replace(
        first.record,
        text=merged_text([lens.record.text for lens in lenses]),
        n_prompts=total(lens.record.n_prompts for lens in lenses),
        n_tokens=total(lens.record.n_tokens for lens in lenses),
        seed=first.record.seed if len({lens.record.seed for lens in lenses}) == 1 else None,
        settings=settings,
    )
    return {
        "kind": first.kind,
        "transports": solution.transports,
        "record": record,
        "quality": None,
        "source": f"{len(lenses)} fits merged",
        "sums": sums,
    }


def merged_text(texts: Sequence[str]) -> str:
    """Return what several texts are together, in no more words than a record has room for.

    >>> merged_text(["a.txt", "b.txt", "a.txt", ""])
    'a.txt + b.txt'
    """
    together = " + ".join(dict.fromkeys(text for text in texts if text))
    return together if len(together) <= TEXT_LETTERS else f"{together[:TEXT_LETTERS]}… and others"


def as_lenses(lenses: Any) -> list[Any]:
    """Return the lenses that are to be merged as a list.

    Raises:
        ValueError: something among them is none.
    """
    single = [lenses] if is_path(lenses) or not isinstance(lenses, Iterable) else list(lenses)
    for lens in single:
        if not hasattr(lens, "sums"):
            raise ValueError(
                f"received {type(lens).__name__} among the lenses to merge: pass a list of what "
                "fit_lens() and load_lens() return."
            )
    return single


def is_path(value: Any) -> bool:
    """Return whether something names a file, though it could be gone through as well."""
    return isinstance(value, str | bytes | os.PathLike)


def with_sums(lens: Any) -> Any:
    """Return a lens with its sums, which are read of its file only now.

    Raises:
        ValueError: the file is no longer there, or is another one now.
    """
    if lens.sums is not None or not lens.location.endswith(SUFFIX):
        return lens
    try:
        sums = read_sums(Path(lens.location), lens.digest)
    except (LensError, OSError, ValueError) as error:
        raise ValueError(
            f"what the fit of {lens.source!r} added up cannot be read any more: {error}."
        ) from error
    return replace(lens, sums=sums or None)


def check_mergeable(lenses: Sequence[Any]) -> None:
    """Raise ValueError unless lenses are fits of one kind on disjoint texts of one model."""
    first = lenses[0]
    for lens in lenses:
        if lens.kind not in MERGED_KINDS:
            raise ValueError(
                f"received a {lens.name}; fits of kind {' and '.join(MERGED_KINDS)} can be merged, "
                "because all that they are made of are sums over their texts."
            )
        if not lens.sums or ROWS not in lens.sums or not halves_of(lens.sums):
            raise ValueError(
                f"{lens.source!r} does not hold what its fit added up, so it cannot be merged. "
                + say(
                    python="Fit with path=, whose file holds it, or save with sums=True.",
                    shell="Merge the files that lens-recipes fit wrote.",
                )
            )
        if lens.kind != first.kind:
            raise ValueError(
                f"received a {first.name} and a {lens.name}: merge one kind at a time."
            )
        if lens.layers != first.layers or lens.d_model != first.d_model:
            raise ValueError(
                f"received lenses of different streams: {first.source!r} has {first.layers} of "
                f"width {first.d_model}, {lens.source!r} has {lens.layers} of width {lens.d_model}."
            )
        check_alike(lens, first)
        for name, words in SAME.items():
            ours, theirs = getattr(first.record, name), getattr(lens.record, name)
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError(
                    f"{words} differs: {ours!r} in {first.source!r}, {theirs!r} in "
                    f"{lens.source!r}. Only fits of one model can be merged."
                )


def halves_of(sums: Any) -> list[dict[str, Tensor]]:
    """Return what was added up of each half of the text that a fit has."""
    return [own for own in (half_of(sums, half) for half in HALVES) if own]


def check_alike(lens: Any, first: Any) -> None:
    """Raise ValueError unless sums are whole, finite and shaped as those of another fit."""
    expected = {name: value.shape for name, value in halves_of(first.sums)[0].items()}
    for own in halves_of(lens.sums):
        is_finite = all(bool(torch.isfinite(value).all()) for value in own.values())
        if not is_finite or {name: value.shape for name, value in own.items()} != expected:
            raise ValueError(
                f"what the fit of {lens.source!r} added up is damaged, or of another kind of fit: "
                "fit it again."
            )


def summed(all_sums: Sequence[Any]) -> dict[str, Tensor]:
    """Return the sums of several fits together.

    Raises:
        ValueError: some text is in two of them.
    """
    together: dict[str, Tensor] = {}
    for number, sums in enumerate(all_sums):
        for name, value in sums.items():
            if name == ROWS:
                continue
            together[name] = together[name] + value if name in together else value
        rows = sums[ROWS]
        seen = together.get(ROWS, rows[:0])
        n_shared = int(torch.isin(rows, seen).sum())
        if n_shared:
            raise ValueError(
                f"{n_shared} of the {len(rows)} rows of text of lens {number} are in an earlier "
                "one as well, and would count twice. Merge fits on disjoint texts, such as the "
                + say(python="shards of one text (shard=(i, n)).", shell="--shards of one text.")
            )
        together[ROWS] = torch.cat([seen, rows])
    return together


def total(counts: Any) -> int | None:
    """Return the sum of some counts; None where one is not known."""
    known = list(counts)
    return None if None in known else sum(known)
