"""The edits of each layer, and the tokens that any of them changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lens_recipes.run.request.edits.planned import PlannedEdit
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.plan import LayerEdits, SiteEdit


def layer_edits(
    planned: Sequence[PlannedEdit], sites: list[SiteEdit], n_rows: int
) -> dict[int, LayerEdits]:
    """Return the edits of each layer, and the tokens that any of them changes."""
    places: dict[int, set[tuple[int, int]]] = {}
    numbers: dict[int, list[int]] = {}
    for number, (item, edit) in enumerate(zip(planned, sites, strict=True)):
        layer = item.site.layer
        assert layer is not None
        numbers.setdefault(layer, []).append(number)
        if edit.when != "written":
            pairs = zip(edit.rows.tolist(), edit.columns.tolist(), strict=True)
            places.setdefault(layer, set()).update(pairs)
    layers = {}
    for layer, of_layer in numbers.items():
        entries = sorted(places.get(layer, set()))
        rows = as_index([row for row, _ in entries])
        columns = as_index([column for _, column in entries])
        layers[layer] = LayerEdits(of_layer, TokenPlaces(n_rows, rows, columns))
    return layers


def as_index(numbers: Sequence[int]) -> Tensor:
    """Return whole numbers as an index, on the CPU."""
    return torch.tensor(list(numbers), dtype=torch.long, device="cpu")
