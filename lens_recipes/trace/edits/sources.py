"""Run the prompts from which edits take something, unedited, and read it."""

from __future__ import annotations

from typing import Any

import nnsight
import torch
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.edits.plan import PROOF, BatchEdits, SourceBatch, SourceRead
from lens_recipes.trace.edits.probe import SiteProof, ask_model, worst_of
from lens_recipes.trace.operations import first_of, replay


def read_sources(model: Any, edits: BatchEdits | None) -> dict[int, Tensor]:
    """Return what edits take from other runs: of each site `[entry, width]`, a mean `[1, width]`.

    Under `PROOF` is what the model says of the edited sites, which is asked here if nobody has
    asked it. Each batch of sources is one forward pass of its own; means are taken once for all
    batches, and kept in `BatchEdits.kept_means`.
    """
    if edits is None:
        return {}
    proof = edits.proof
    if edits.probes:
        proofs: dict[float, SiteProof] = {}
        for probe in edits.probes:
            proofs.update(ask_model(model, probe))
        proof = worst_of(proofs)
    means = {} if edits.kept_means is None else edits.kept_means
    if not means:
        means.update(read_means(model, edits.means))
    values: dict[int, Tensor] = {}
    if proof is not None:
        values[PROOF] = torch.tensor(proof, dtype=torch.float32, device="cpu")
    for source in edits.sources:
        for read, found in zip(source.reads, run_source(model, source), strict=True):
            assert read.entries is not None
            if read.site not in values:
                n_entries = len(edits.sites[read.site].rows)
                values[read.site] = found.new_zeros(n_entries, found.shape[-1])
            values[read.site][read.entries.to(found.device)] = found
    return {**values, **means}


def read_means(model: Any, sources: list[SourceBatch]) -> dict[int, Tensor]:
    """Return the mean of each site over all tokens that are read of some runs, `[1, width]`."""
    totals: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for source in sources:
        for read, found in zip(source.reads, run_source(model, source), strict=True):
            total = to_float32(found).sum(0, keepdim=True)
            if read.site in totals:
                total = total + totals[read.site]
            totals[read.site] = total
            counts[read.site] = counts.get(read.site, 0) + len(found)
    return {site: total / counts[site] for site, total in totals.items()}


def run_source(model: Any, source: SourceBatch) -> list[Tensor]:
    """Run one batch of sources, and return what its reads name, each `[entry, width]`."""
    with torch.no_grad(), model.trace(**source.inputs):
        found = nnsight.save(read_tensors(model, source))
    return found  # noqa: RET504 - a traced block does not return


def read_tensors(model: Any, source: SourceBatch) -> list[Tensor]:
    """Read a batch of sources inside its trace."""
    return [read_tensor(model, source.n_rows, read) for read in source.reads]


def read_tensor(model: Any, n_rows: int, read: SourceRead) -> Tensor:
    """Read one tensor at the tokens that are taken of it."""
    module = model.get(read.module)
    value = first_of(module.input if read.side == "in" else module.output)
    grid = value.reshape(n_rows, -1, value.shape[-1])
    taken = grid[read.rows.to(grid.device), read.token_columns.to(grid.device)]
    if read.columns is not None:
        taken = taken[:, list(read.columns)]
    return replay(model, read.operations, taken)
