"""Run prompts once without edits and once with each of several lists of them; keep the output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lens_recipes.arrays.certificate import BLOCK
from lens_recipes.errors import LensError
from lens_recipes.models.handle import dtype_of
from lens_recipes.models.lens_head import plain_head
from lens_recipes.run.batches import make_batches
from lens_recipes.run.edits.batches import EditBatches
from lens_recipes.run.recipe import perform
from lens_recipes.run.request.edits.planned import PlannedEdit
from lens_recipes.run.request.request import Request
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import ArraySpec, Schema, effect_specs
from lens_recipes.trace.batch import BatchSize, LensBatch, forward_size
from lens_recipes.trace.edits.effects import (
    EditedRun,
    RunTools,
    edited_runs,
    effect_arrays,
    unedited_run,
    worst_errors,
)
from lens_recipes.trace.edits.sources import read_sources
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import EditStep, ReadStep

MAX_BYTES = LOGIT_BYTES


class RunsPlan(NamedTuple):
    """Which edited runs are made of every batch.

    Attributes:
        runs: The steps of each (`Request.edit_steps`).
        head_operations: What the model does between its last block and its logits.
        max_bytes: Bound on the memory for logits.
    """

    runs: list[list[ReadStep | EditStep]]
    head_operations: list[Operation]
    max_bytes: int

    def batch_size(self, batch: LensBatch) -> BatchSize:
        """Return what makes a batch large."""
        size = forward_size(batch.inputs, len(batch.places.rows))
        all_tokens = (1 + len(self.runs)) * size.rows * size.columns
        return size._replace(vectors=1, all_tokens=all_tokens)

    def batch_identity(self, batch: LensBatch) -> dict[str, Any]:
        """Return what tells a batch from another."""
        return batch.identity()


def trace_runs(
    model: Any, plan: RunsPlan, batch: LensBatch, weight: Any = None
) -> dict[str, Tensor]:
    """Run one batch without edits and with each list of them, each in a trace of its own."""
    sources = read_sources(model, batch.edits)
    own = unedited_run(model, batch, plan.max_bytes)
    every_layer = [batch.edits.layers, *batch.edits.other_layers]
    runs = []
    for steps, layers in zip(plan.runs, every_layer, strict=True):
        runs.append(EditedRun(steps, layers))
    tools = RunTools(sources, plan.head_operations, weight, plan.max_bytes)
    compared = edited_runs(model, runs, batch, own, tools, {})
    errors = worst_errors(compared)["edit"]
    for asked in ("edit_identity", "edit_cone"):  # what the model has said of the edited sites
        errors = errors.maximum(compared[0][asked])
    return {**effect_arrays(batch, own, compared), "edit": errors}


def measure_runs(
    request: Request,
    runs: Sequence[Sequence[PlannedEdit]],
    recipe: str,
    *,
    max_bytes: int = MAX_BYTES,
) -> Arrays:
    """Return the arrays of `effect_arrays`: the unedited run, and each list of edits.

    Args:
        request: Prompts, positions and targets.
        runs: The edits of each run, numbered through all of them.
        recipe: What runs, for a terminal and a server.
        max_bytes: Bound on the memory for logits.

    Raises:
        ValueError: edits that do not fit the prompts.
        LensError: an edit does not hold what was asked.
    """
    edits = EditBatches(request, runs[0], runs[1:])
    batches, token_prompts = make_batches(request, max_bytes, edits=edits.of_batch)
    schemas = []
    for batch in batches:
        n_tokens = len(batch.places.rows)
        arrays = effect_specs(1 + len(runs), n_tokens, len(request.target_ids[0]))
        schemas.append(Schema({**arrays, "edit": ArraySpec("float32", (n_tokens,))}))
    run = RecipeRun(
        request=request,
        traced=trace_runs,
        plan=RunsPlan(
            [request.edit_steps(planned) for planned in runs], request.head_operations, max_bytes
        ),
        batches=batches,
        schemas=schemas,
        finish=partial(finish, token_prompts),
        arguments={"edits": [str(item.edit.to_json()) for run in runs for item in run]},
        local={"weight": None if request.remote else plain_head(request.model, request.anatomy)},
        recipe=recipe,
    )
    return perform(run)


def finish(token_prompts: list[int], run: RecipeRun[Arrays], batches: list[Arrays]) -> Arrays:
    """Join the batches, tokens by prompt.

    Raises:
        LensError: an edit does not hold what was asked.
    """
    order = np.argsort(token_prompts, kind="stable")
    joined = {}
    for name in batches[0]:
        axis = 0 if name in ("edit", "effect_outside") else 1
        joined[name] = np.concatenate([batch[name] for batch in batches], axis).take(order, axis)
    error = float(joined.pop("edit").max())
    dtype = str(dtype_of(run.model)).removeprefix("torch.")
    if not error <= BLOCK.get(dtype, BLOCK["bfloat16"]):
        raise LensError(
            f"the edits do not hold what was asked: largest relative error {error:.2g}. Another "
            "hook writes to the same module, or the numbers leave the range of the model's dtype."
        )
    return joined
