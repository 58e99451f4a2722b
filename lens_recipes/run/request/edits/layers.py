"""The edits of each layer, and the tokens that any of them changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lens_recipes.run.request.edits.planned import PlannedEdit
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.plan import LayerEdits, SiteEdit


def layer_edits(
    planned: Sequence[PlannedEdit], sites: Sequence[SiteEdit], n_rows: int
) -> dict[int, LayerEdits]:
    """Return the edits of each layer, and the tokens that any of them changes.

    Args:
        planned: The edits of one run.
        sites: What each edit of the batch does, by its number.
        n_rows: Rows of the batch.
    """
    layer_of: dict[int, int] = {}
    for item in planned:
        assert item.site.layer is not None
        layer_of[item.number] = item.site.layer
    return edits_by_layer(layer_of, sites, n_rows)


def edits_by_layer(
    layer_of: dict[int, int], sites: Sequence[SiteEdit], n_rows: int
) -> dict[int, LayerEdits]:
    """Return the edits of each layer, and the tokens that any of them changes.

    Args:
        layer_of: The layer of each edit of one run, by its number.
        sites: What each edit does, by its number.
        n_rows: Rows of the batch.
    """
    places: dict[int, set[tuple[int, int]]] = {}
    numbers: dict[int, list[int]] = {}
    for number, layer in layer_of.items():
        edit = sites[number]
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
