"""Attribution patching: every cell at once, by two forward passes and one backward.

The change of the metric is taken to the first order: (source − base) · gradient at each cell of the
base run (Nanda 2023, "Attribution Patching"; Syed et al. 2023).
"""

from __future__ import annotations

from typing import Any

import nnsight
import numpy as np
import torch
from torch import Tensor

from lens_recipes.recipes.patching.batches import CellBatches, Prepared
from lens_recipes.recipes.patching.finish import MapRequest, finish
from lens_recipes.recipes.patching.kept import KeptRuns
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.edits.apply import put_back, undone
from lens_recipes.trace.edits.cells import (
    CellBatch,
    CellPlan,
    copied_values,
    read_group,
    trace_cells,
)
from lens_recipes.trace.operations import first_of, model_logits, replay
from lens_recipes.trace.plan import EditStep


def run_gradient(
    maker: CellBatches,
    asked: MapRequest,
    prepared: Prepared,
    verify: int,
    from_cache: bool,
    run: RecipeRun[Any],
) -> list[Arrays]:
    """Return the approximation of each batch, and last the cells that were run exactly.

    Args:
        maker, asked, prepared: Of the map.
        verify: How many cells are run exactly.
        from_cache: Whether their rows go on from a cache.
        run: The run.
    """
    arrays = []
    for batch in prepared.batches:
        numbers = gradient_of(run.model, run.plan, batch, asked.metric)
        arrays.append({name: value.numpy() for name, value in numbers.items()})
    if verify:
        arrays.append(run_exactly(maker, asked, prepared, verify, from_cache, run, arrays))
    return arrays


def run_exactly(
    maker: CellBatches,
    asked: MapRequest,
    prepared: Prepared,
    verify: int,
    from_cache: bool,
    run: RecipeRun[Any],
    arrays: list[Arrays],
) -> Arrays:
    """Run the largest cells of an approximation as they are."""
    approximate = finish(asked, prepared, run, list(arrays))
    places = approximate.largest(verify)
    number_of = {(cell.row, cell.column): n for n, cell in enumerate(asked.cells.cells)}
    chosen = [number_of[place] for place in places]
    exact = maker.prepare(chosen, approximate.pairs, from_cache=from_cache)
    kept = KeptRuns(run.request)
    found = []
    for batch in exact.batches:
        numbers = trace_cells(run.model, run.plan, batch, kept)
        found.append({name: value.numpy() for name, value in numbers.items()})
    proved = finish(asked._replace(method="exact"), exact, run, found)
    return {
        "cells": np.array(places).reshape(-1, 2),
        "exact": np.array([proved.mean[place] for place in places]),
        "approximate": np.array([approximate.mean[place] for place in places]),
    }


def gradient_of(model: Any, plan: CellPlan, batch: CellBatch, metric: str) -> dict[str, Tensor]:
    """Return what each row of a batch would have, to the first order.

    Args:
        model: The nnsight model.
        plan: Of the map.
        batch: The rows, of which none is run.
        metric: "logit_diff" or "logprob".
    """
    values = read_group(model, plan, batch)
    sources = copied_values(batch, values)
    n_rows = len(batch.pairs)
    with torch.enable_grad(), model.trace(**batch.base.inputs):
        found = nnsight.save(linear_run(model, batch, sources, metric))
    predicted, tensors, changes, rows, places = found
    gradients = torch.autograd.grad(predicted.sum(), tensors, allow_unused=True)
    base = predicted.detach().cpu()
    total = base[batch.pairs].clone()
    for gradient, change, row, place in zip(gradients, changes, rows, places, strict=True):
        if gradient is not None:
            slope = to_float32(gradient)[place]
            total.index_add_(0, row, (slope * change).sum(-1).float().cpu())
    return {
        "rows": values.base_numbers[batch.pairs] * float("nan"),
        "predicted": total,
        "error": torch.zeros(n_rows),
        "source": values.source_numbers,
        "base": values.base_numbers,
    }


def linear_run(
    model: Any, batch: CellBatch, sources: dict[int, Tensor], metric: str
) -> tuple[Any, ...]:
    """Run the base inside its trace with a graph from every site to the metric.

    Returns:
        The metric `[pair]`; of each edit the tensor that it would change `[pair, position, width]`,
        by how much `[entry, width]`, in which rows, and where in the tensor.
    """
    n_pairs = batch.base.n_rows
    tensors: list[Tensor] = []
    changes: list[Tensor] = []
    rows: list[Tensor] = []
    places: list[tuple[Tensor, ...]] = []
    held: dict[int, Tensor] = {}
    grids: dict[tuple[str, str], Tensor] = {}
    for step in batch.steps:
        if not isinstance(step, EditStep) or step.role in ("settle", "finish"):
            continue  # to the first order, the sum of what is added is what was asked for
        grid = grid_of(model, step, n_pairs, grids)
        edit = batch.edits.sites[step.site]
        pair = batch.pairs[edit.rows].to(grid.device)
        column = edit.columns.to(grid.device)
        raw = grid[pair, column].detach()
        if step.columns is not None:
            raw = raw[:, list(step.columns)]
        value = replay(model, step.operations, raw)
        if step.role == "hold":
            before = held.get(step.site)
            held[step.site] = value if before is None else before + value.to(before.device)
            continue
        beside = held.pop(step.site, None)
        current = to_float32(value if beside is None else value + beside.to(value.device))
        wanted = to_float32(value) + sources[step.site].to(current.device) - current
        change = undone(step.operations, wanted) - to_float32(raw)
        tensors.append(grid)
        changes.append(change)
        rows.append(edit.rows)
        if step.columns is None:
            places.append((pair, column))
        else:
            own = torch.tensor(step.columns, device=grid.device)
            places.append((pair[:, None], column[:, None], own))
    last = model_logits(model.output)
    return metric_with_graph(last, batch.answers, metric), tensors, changes, rows, places


def grid_of(
    model: Any, step: EditStep, n_pairs: int, grids: dict[tuple[str, str], Tensor]
) -> Tensor:
    """Return a module's tensor `[pair, position, width]`, of which the model goes on with a copy.

    The graph begins at the first one, and at each that does not depend on it, whatever of the
    weights has a gradient.
    """
    key = (step.module, step.side)
    if key in grids:
        return grids[key]
    module = model.get(step.module)
    output = module.input if step.side == "in" else module.output
    tensor = first_of(output)
    if not grids or not tensor.requires_grad:
        tensor = tensor.detach().requires_grad_(True)
    grid = tensor.reshape(n_pairs, -1, tensor.shape[-1]).clone()
    put_back(module, step.side, output, grid.reshape(tensor.shape).clone())
    grids[key] = grid
    return grid


def metric_with_graph(logits: Tensor, answers: Tensor, metric: str) -> Tensor:
    """Return the metric of each pair, with its graph, `[pair]`."""
    last = to_float32(logits[:, -1])
    both = last.gather(1, answers.to(last.device))
    if metric == "logit_diff":
        return both[:, 0] - both[:, 1]
    return both[:, 0] - last.logsumexp(-1)
