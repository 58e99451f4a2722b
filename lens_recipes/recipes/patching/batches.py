"""Cut the cells of a patch map into batches, in which each row has one cell patched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.recipes.patching.cells import Cell, CellMap
from lens_recipes.recipes.patching.pairs import Answers, TokenPairs
from lens_recipes.run.batches import MAX_TOKENS
from lens_recipes.run.request.edits.layers import as_index, edits_by_layer
from lens_recipes.run.request.request import Request
from lens_recipes.trace.edits.cells import (
    COPIES_OF_LOGITS,
    LENS_READ,
    CellBatch,
    CellCopies,
    TensorRead,
    UnpatchedRun,
)
from lens_recipes.trace.edits.changes import CopySource
from lens_recipes.trace.edits.plan import BatchEdits, LayerEdits, SiteEdit
from lens_recipes.trace.plan import EditStep, ReadStep

NOTHING, EVERYTHING = -1, -2  # in place of a cell's number: the rows that prove the map


class PatchedRow(NamedTuple):
    """One row of a batch.

    Attributes:
        pair: The pair, by its number among all.
        cell: The number of the cell, or `NOTHING` or `EVERYTHING`.
        site: The number of the edit.
        tokens: What it patches, as (source, base).
    """

    pair: int
    cell: int
    site: int
    tokens: TokenPairs

    @property
    def first(self) -> int:
        """Return the first token of the base that is patched; what comes before stays as it is."""
        return min(base for _, base in self.tokens)


class Prepared(NamedTuple):
    """The batches of a map, and which row of which batch is what.

    Attributes:
        batches: Each one forward pass.
        rows: Of each batch.
        groups: The pairs of each group, by their numbers among all.
    """

    batches: list[CellBatch]
    rows: list[list[PatchedRow]]
    groups: list[list[int]]


class CellBatches:
    """Makes the batches of a map."""

    def __init__(
        self,
        request: Request,
        cell_map: CellMap,
        source: list[list[int]],
        base: list[list[int]],
        answers: Answers,
        max_bytes: int,
        is_noise: bool,
        lens_layer: int | None = None,
    ) -> None:
        """Keep what is patched.

        Args:
            request: The model.
            cell_map: The cells.
            source: Ids of the prompts from which cells are copied, `[pair][position]`.
            base: Ids of those into which they are put.
            answers: Of each pair.
            max_bytes: Bound on the logits of a batch, and on its cache.
            is_noise: Whether the clean prompts are the base.
            lens_layer: After which layer a lens reads, if one does.
        """
        self.request = request
        self.cell_map = cell_map
        self.source = source
        self.base = base
        self.answers = answers
        self.max_bytes = max_bytes
        self.is_noise = is_noise
        self.steps = request.edit_steps(cell_map.planned, lens_layer)
        self.reads = cell_map.reads(lens_layer, request.anatomy)

    # -- rows ----------------------------------------------------------

    def rows_of(self, pair: int, cells: Iterable[int], *, with_proof: bool) -> list[PatchedRow]:
        """Return the rows of one pair: its cells, and those that prove the map."""
        rows = []
        for number in cells:
            cell = self.cell_map.cells[number]
            tokens = self.oriented(cell, pair)
            if tokens:
                rows.append(PatchedRow(pair, number, cell.site, tokens))
        if not with_proof or not rows:
            return rows
        middle = rows[len(rows) // 2]
        itself = [(base, base) for _, base in middle.tokens]
        rows.append(PatchedRow(pair, NOTHING, middle.site, itself))
        if len(self.source[pair]) == len(self.base[pair]):
            every = [(position, position) for position in range(len(self.base[pair]))]
            rows.append(PatchedRow(pair, EVERYTHING, self.cell_map.everything, every))
        return rows

    def oriented(self, cell: Cell, pair: int) -> TokenPairs:
        """Return the tokens of a cell as (source, base)."""
        tokens = cell.tokens[pair]
        if self.is_noise:
            return [(corrupt, clean) for clean, corrupt in tokens]
        return tokens

    # -- batches -------------------------------------------------------

    def prepare(
        self,
        cells: Iterable[int] | None = None,
        pairs: Iterable[int] | None = None,
        *,
        from_cache: bool = False,
        with_proof: bool = True,
    ) -> Prepared:
        """Return the batches of all cells of all pairs, or of some.

        Args:
            cells: Which cells; None for all.
            pairs: Which pairs; None for all.
            from_cache: Whether tokens before the first that is patched run once for all rows.
            with_proof: Whether rows are added that prove the map.
        """
        numbers = list(range(len(self.cell_map.cells)) if cells is None else cells)
        chosen = list(range(len(self.base)) if pairs is None else pairs)
        prepared = Prepared([], [], [])
        for group in self.groups(chosen, len(numbers)):
            rows = []
            for pair in group:
                rows += self.rows_of(pair, numbers, with_proof=with_proof)
            reads = self.base_reads(rows)
            for n_before, some in self.cut(rows, len(self.base[group[0]]), from_cache):
                batch = self.batch(len(prepared.groups), group, some, n_before, reads)
                prepared.batches.append(batch)
                prepared.rows.append(some)
            prepared.groups.append(group)
        return prepared

    def groups(self, pairs: list[int], n_cells: int) -> list[list[int]]:
        """Return pairs of the same lengths together, as many as fill a batch or two."""
        by_length: dict[tuple[int, int], list[int]] = {}
        for pair in pairs:
            lengths = (len(self.source[pair]), len(self.base[pair]))
            by_length.setdefault(lengths, []).append(pair)
        n_columns = max(1, len(self.cell_map.columns))
        groups = []
        for (n_source, n_base), of_length in by_length.items():
            tokens_of_pair = max(1, n_cells // n_columns) * max(n_source, n_base)
            at_once = max(1, MAX_TOKENS // tokens_of_pair)
            for start in range(0, len(of_length), at_once):
                groups.append(of_length[start : start + at_once])
        return groups

    def cut(
        self, rows: list[PatchedRow], length: int, from_cache: bool
    ) -> list[tuple[int, list[PatchedRow]]]:
        """Return rows as batches, each with how many tokens run beforehand."""
        by_start: dict[int, list[PatchedRow]] = {}
        for row in rows:
            start = row.first if from_cache else 0
            by_start.setdefault(start, []).append(row)
        batches = []
        for start in sorted(by_start):
            at_once = self.rows_at_once(length, start)
            of_start = by_start[start]
            for begin in range(0, len(of_start), at_once):
                batches.append((start, of_start[begin : begin + at_once]))
        return batches

    def rows_at_once(self, length: int, n_before: int) -> int:
        """Return how many rows a batch holds: bounded in tokens, in logits and in cache."""
        anatomy = self.request.anatomy
        n_logits = 1 if "logits_to_keep" in anatomy.forward_options else length - n_before
        logit_bytes = 4 * COPIES_OF_LOGITS * anatomy.vocab_size * n_logits
        # Keys and values are at most as wide as the stream.
        cache_bytes = 2 * 4 * anatomy.n_layers * anatomy.d_model * length if n_before else 0
        by_bytes = self.max_bytes // max(logit_bytes, cache_bytes)
        return max(1, min(MAX_TOKENS // (length - n_before), by_bytes))

    def batch(
        self,
        number: int,
        group: list[int],
        rows: list[PatchedRow],
        n_before: int,
        base_reads: list[TensorRead],
    ) -> CellBatch:
        """Return some rows as one forward pass.

        Args:
            number: Of the group.
            group: Its pairs.
            rows: The rows.
            n_before: How many of their tokens run beforehand.
            base_reads: What is read of the base for any row of the group.
        """
        row_of_pair = {pair: index for index, pair in enumerate(group)}
        kinds: dict[tuple[int, bool], list[int]] = {}
        for index, row in enumerate(rows):
            kinds.setdefault((row.site, row.cell == NOTHING), []).append(index)
        sites: list[SiteEdit] = []
        copies: list[CellCopies] = []
        local: dict[int, list[int]] = {}  # which edits of this batch are at a site
        for (site, is_base), indices in kinds.items():
            entry_rows, columns, pairs, positions = [], [], [], []
            for index in indices:
                row = rows[index]
                for source, base in row.tokens:
                    entry_rows.append(index)
                    columns.append(base - n_before)
                    pairs.append(row_of_pair[row.pair])
                    positions.append(source)
            edit = SiteEdit(as_index(entry_rows), as_index(columns), CopySource(), "prompt")
            local.setdefault(site, []).append(len(sites))
            sites.append(edit)
            copies.append(CellCopies(site, is_base, as_index(pairs), as_index(positions)))
        layers = self.edited_layers(local, sites, len(rows))
        padding = as_index([0] * len(rows))
        ids = [self.base[row.pair][n_before:] for row in rows]
        answers = [[self.answers.target[pair], self.answers.against[pair]] for pair in group]
        return CellBatch(
            group=number,
            source=self.unpatched(self.source, group, self.source_reads(rows)),
            base=self.unpatched(self.base, group, base_reads),
            inputs=plain_inputs(self.request.anatomy, ids),
            n_before=n_before,
            pairs=as_index([row_of_pair[row.pair] for row in rows]),
            answers=torch.tensor(answers, device="cpu"),
            steps=self.steps_of(local, layers),
            edits=BatchEdits(sites, [], [], padding, layers),
            copies=copies,
        )

    def edited_layers(
        self, local: dict[int, list[int]], sites: list[SiteEdit], n_rows: int
    ) -> dict[int, LayerEdits]:
        """Return the edits of a batch by layer.

        Args:
            local: Which edits of the batch are at each of the map's sites.
            sites: The edits of the batch.
            n_rows: Rows of the batch.
        """
        layer_of: dict[int, int] = {}
        for site, numbers in local.items():
            layer = self.cell_map.planned[site].site.layer
            assert layer is not None  # of a cell
            for number in numbers:
                layer_of[number] = layer
        return edits_by_layer(layer_of, sites, n_rows)

    def steps_of(
        self, local: dict[int, list[int]], layers: dict[int, LayerEdits]
    ) -> list[ReadStep | EditStep]:
        """Return the steps that make the edits of a batch, and those that prove them."""
        steps: list[ReadStep | EditStep] = []
        for step in self.steps:
            if isinstance(step, ReadStep):
                if step.at is None or step.at in layers:
                    steps.append(step)
                continue
            for own in local.get(step.site, ()):
                steps.append(step._replace(site=own))
        return steps

    def source_reads(self, rows: list[PatchedRow]) -> list[TensorRead]:
        """Return what is read of the source: here for all batches of a group, there for one."""
        if not self.request.remote:
            return self.reads
        sites = {row.site for row in rows if row.cell != NOTHING} | {LENS_READ}
        return [read for read in self.reads if read.site in sites]

    def base_reads(self, rows: list[PatchedRow]) -> list[TensorRead]:
        """Return what is read of the base: what the rows that prove that nothing changes copy."""
        sites = {row.site for row in rows if row.cell == NOTHING} | {LENS_READ}
        return [read for read in self.reads if read.site in sites]

    def unpatched(
        self, prompts: list[list[int]], group: list[int], reads: list[TensorRead]
    ) -> UnpatchedRun:
        """Return the prompts of a group as they are."""
        ids = [prompts[pair] for pair in group]
        return UnpatchedRun(plain_inputs(self.request.anatomy, ids), len(ids), reads)


def plain_inputs(anatomy: Anatomy, ids: list[list[int]]) -> dict[str, Any]:
    """Return rows of one length as a trace takes them; only the last position has logits."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor(ids, device="cpu")}
    if "use_cache" in anatomy.forward_options:
        inputs["use_cache"] = False
    if "logits_to_keep" in anatomy.forward_options:
        inputs["logits_to_keep"] = 1
    return inputs
