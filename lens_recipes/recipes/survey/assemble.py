"""Put the blocks of a survey together to its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lens_recipes.arrays.certificate import joined_certificate
from lens_recipes.arrays.survey.merge import joined_arrays, without_items
from lens_recipes.errors import LensError
from lens_recipes.recipes.survey.store import SurveyStore
from lens_recipes.results import Survey
from lens_recipes.results.survey import as_survey


def assembled(store: SurveyStore, about: Mapping[str, Any], *, is_part: bool = False) -> Survey:
    """Return all that was found, in the order of the items.

    Args:
        store: Where the blocks are.
        about: Of the provenance.
        is_part: Whether this is one part of several, which may have no items.

    Raises:
        LensError: no item is left, of all that there are.
    """
    blocks = store.blocks()
    asked = [block for block in blocks if block.names]
    ledger = [entry for block in blocks for entry in block.left_out]
    entries = [(each.number, each.id, each.reason, each.detail) for each in ledger]
    if not asked and is_part:
        return as_survey(without_items(entries, dict(about)))
    if not asked:
        reasons = sorted({entry.reason for entry in ledger}) or ["there are none"]
        detail = f"; the first: {ledger[0].detail}" if ledger else ""
        raise LensError(f"no item could be asked: {', '.join(reasons)}{detail}.")
    texts: dict[int, str] = {}
    for block in asked:
        texts.update(block.texts)
    certificates = [block.certificate for block in asked if block.certificate is not None]
    seconds = sum(float(block.provenance.get("seconds", 0.0)) for block in asked)
    return Survey(
        sites=asked[0].sites,
        names=[name for block in asked for name in block.names],
        **joined_arrays([block.arrays for block in asked]),
        left_out=entries,
        texts=texts,
        certificate=joined_certificate(certificates),
        provenance=asked[0].provenance | dict(about) | {"seconds": round(seconds, 3)},
    )
