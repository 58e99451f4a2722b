"""Plan the cells of a patch map: at which sites, and which tokens of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lens_recipes.arrays.edits.kinds import patch
from lens_recipes.arrays.edits.patch_map import UNITS
from lens_recipes.models.components import WRITES
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.recipes.patching.pairs import Columns, TokenPairs, all_tokens, read_columns
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_edits
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.sites import pick_layers
from lens_recipes.trace.edits.cells import LENS_READ, TensorRead

OVER_POSITIONS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mixer_out")


class Cell(NamedTuple):
    """One cell of a map.

    Attributes:
        row, column: Where it is.
        site: The number of its planned edit.
        tokens: Which tokens of each pair it patches, `[pair]`, as (clean, corrupt).
    """

    row: int
    column: int
    site: int
    tokens: list[TokenPairs]


class CellMap(NamedTuple):
    """All cells of a map, and how they are made.

    Attributes:
        layers: Of the rows.
        columns: The names of the columns.
        planned: The edits, by their numbers; the last is that of the stream after the first layer,
            by which everything is patched.
        cells: The cells.
        column_tokens: Which tokens of each pair a column is, `[column][pair]`; empty where columns
            are no positions.
    """

    layers: list[int]
    columns: list[str]
    planned: list[PlannedEdit]
    cells: list[Cell]
    column_tokens: list[list[TokenPairs]]

    @property
    def everything(self) -> int:
        """Return the number of the edit by which the whole run is patched."""
        return len(self.planned) - 1

    def reads(self, lens_layer: int | None, anatomy: Anatomy) -> list[TensorRead]:
        """Return what is read of the unpatched runs, in the order in which the model runs.

        Args:
            lens_layer: After which layer a lens reads, if one does.
            anatomy: The model's.
        """
        numbers = sorted(
            range(len(self.planned)),
            key=lambda number: EditBatches.order_of_source(self.planned[number]),
        )
        reads = []
        for number in numbers:
            item = self.planned[number]
            source = item.source
            reads.append(
                TensorRead(number, source.side, source.path, source.operations, item.columns)
            )
        if lens_layer is None:
            return reads
        n_before = 0
        for number in numbers:
            layer = self.planned[number].site.layer
            assert layer is not None  # of a cell
            n_before += layer <= lens_layer
        stream = TensorRead(LENS_READ, "out", anatomy.block(lens_layer), (), None)
        return [*reads[:n_before], stream, *reads[n_before:]]


def plan_cells(
    request: Request,
    unit: str,
    layers: Any,
    positions: Any,
    align: Any,
    clean: list[list[int]],
    corrupt: list[list[int]],
) -> CellMap:
    """Return the cells of a map.

    Raises:
        ValueError: a unit that does not exist or that the model lacks, layers or positions that
            are not there, or lengths that do not fit together.
        LensError: a site that cannot be edited in this model.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown: accepted are {', '.join(map(repr, UNITS))}.")
    pick_layers(layers, request.anatomy)  # a mistake in them is none of a patch's
    tokenizer = request.tokenizer
    if unit in OVER_POSITIONS:
        columns = read_columns(align, positions, clean, corrupt, tokenizer)
        return cells_of_positions(request, unit, layers, columns)
    tokens = all_tokens(align, positions, clean, corrupt, tokenizer)
    if unit == "head_out":
        return cells_of_heads(request, layers, tokens)
    return cells_of_components(request, layers, tokens)


def cells_of_positions(request: Request, unit: str, layers: Any, columns: Columns) -> CellMap:
    """Return the cells of layers × positions."""
    planned = planned_at(request, [(unit, layers)])
    found = layers_of(planned)
    cells = []
    for site, item in enumerate(planned[:-1]):
        assert item.site.layer is not None
        row = found.index(item.site.layer)
        for column, tokens in enumerate(columns.tokens):
            cells.append(Cell(row, column, site, tokens))
    return CellMap(found, columns.names, planned, cells, columns.tokens)


def cells_of_heads(request: Request, layers: Any, tokens: list[TokenPairs]) -> CellMap:
    """Return the cells of layers × heads."""
    planned = planned_at(request, [("head_out", layers)])
    found = layers_of(planned)
    cells = []
    n_heads = 0
    for site, item in enumerate(planned[:-1]):
        assert item.site.layer is not None
        assert item.site.head is not None
        n_heads = max(n_heads, item.site.head + 1)
        cells.append(Cell(found.index(item.site.layer), item.site.head, site, tokens))
    return CellMap(found, [str(head) for head in range(n_heads)], planned, cells, [])


def cells_of_components(request: Request, layers: Any, tokens: list[TokenPairs]) -> CellMap:
    """Return the cells of layers × what a block adds."""
    blocks = request.blocks()
    asked = []
    for component in WRITES:
        having = []
        for layer in pick_layers(layers, request.anatomy):
            if component in blocks[layer].components:
                having.append(layer)
        if having:
            asked.append((component, having))
    planned = planned_at(request, asked)
    found = layers_of(planned)
    names = [component for component, _ in asked]
    cells = []
    for site, item in enumerate(planned[:-1]):
        assert item.site.layer is not None
        row, column = found.index(item.site.layer), names.index(item.site.component)
        cells.append(Cell(row, column, site, tokens))
    return CellMap(found, names, planned, cells, [])


def planned_at(request: Request, asked: Sequence[tuple[str, Any]]) -> list[PlannedEdit]:
    """Return the patches of some components at some layers, and last that of the whole run.

    Raises:
        ValueError, LensError: as `plan_edits`.
    """
    edits = [patch(0, layer=layers, component=component) for component, layers in asked]
    edits.append(patch(0, layer=request.anatomy.layers[0]))
    return plan_edits(list(edits), request.blocks, request.anatomy)


def layers_of(planned: list[PlannedEdit]) -> list[int]:
    """Return the layers of all edits but the last, ascending."""
    return sorted({item.site.layer for item in planned[:-1] if item.site.layer is not None})
