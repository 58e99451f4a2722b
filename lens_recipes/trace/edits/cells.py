"""Patch one cell in each row of a batch: many single patches share a forward pass.

The runs that are not patched give what is copied, and both baselines. Each row of the patched run
is a prompt in which one cell is changed; an edit of a layer changes only the rows of its cells, so
the cells of all layers run together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.batch import BatchSize, TokenPlaces, forward_size
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.checks import EditChecks
from lens_recipes.trace.edits.plan import BatchEdits
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import Operation, first_of, model_logits, replay
from lens_recipes.trace.plan import EditStep, ReadStep
from lens_recipes.trace.transport import IDENTITY, Transport

# Of each row: logit of the target, of the other token; logprob and rank of the target; the two
# logits under a lens at an inner layer.
N_NUMBERS = 6
LENS_READ = -3  # in place of a site's number: the stream that the lens reads
COPIES_OF_LOGITS = 4  # that exist at once


class TensorRead(NamedTuple):
    """A whole tensor of an unpatched run, from which cells copy.

    Attributes:
        site: Which site it is.
        side, module, operations: As of an `EditStep`.
        columns: Those of one head; None for all.
    """

    site: int
    side: str
    module: str
    operations: tuple[Any, ...]
    columns: tuple[int, ...] | None


class UnpatchedRun(NamedTuple):
    """The prompts of some pairs, all of one length, as they are.

    Attributes:
        inputs: Of the trace.
        n_rows: How many prompts.
        reads: What is read of them, in the order in which the model runs.
    """

    inputs: dict[str, Any]
    n_rows: int
    reads: list[TensorRead]


class CellCopies(NamedTuple):
    """What the cells of one site copy.

    Attributes:
        read: Under which number the unpatched runs read it.
        is_base: Whether it comes from the run that is patched itself, which changes nothing.
        pairs: The row of the unpatched run, `[entry]`.
        positions: The token there, `[entry]`.
    """

    read: int
    is_base: bool
    pairs: Int[Tensor, " entry"]
    positions: Int[Tensor, " entry"]


class CellBatch(NamedTuple):
    """Some rows, each with one cell patched, and the runs of their pairs.

    Attributes:
        group: Which pairs these are: what was read of them serves all batches of the group.
        source: The run from which cells copy.
        base: The run that is patched.
        inputs: Of the patched rows: their tokens from `n_before` on.
        n_before: How many tokens of each row run beforehand, once for each pair.
        pairs: The pair of each row, counted within the group, `[row]`.
        answers: The ids of the target and of the other token of each pair, `[pair, 2]`.
        steps: Those that make the edits and those that prove them, as the model runs.
        edits: What each does, with the columns counted from `n_before`.
        copies: What each copies.
    """

    group: int
    source: UnpatchedRun
    base: UnpatchedRun
    inputs: dict[str, Any]
    n_before: int
    pairs: Int[Tensor, " row"]
    answers: Int[Tensor, "pair 2"]
    steps: list[ReadStep | EditStep]
    edits: BatchEdits
    copies: list[CellCopies]


class CellPlan(NamedTuple):
    """What is the same for all batches.

    Attributes:
        head_operations: What the model does between its last block and its logits.
        max_bytes: Bound on the memory for logits.
        transport: Of the lens that reads an inner layer, if one does.
    """

    head_operations: list[Operation]
    max_bytes: int
    transport: Transport = IDENTITY

    def batch_size(self, batch: CellBatch) -> BatchSize:
        """Return what makes a batch large."""
        n_rows = len(batch.pairs)
        size = forward_size(batch.inputs, n_rows)
        n_columns = size.columns + batch.n_before
        unpatched = (
            batch.source.inputs["input_ids"].numel() + batch.base.inputs["input_ids"].numel()
        )
        return size._replace(
            columns=n_columns,
            vectors=1,
            logit_rows=n_rows,
            all_tokens=int(batch.inputs["input_ids"].numel()) + int(unpatched),
            mapped_rows=0 if self.transport is IDENTITY else n_rows,
        )

    def batch_identity(self, batch: CellBatch) -> dict[str, Any]:
        """Return what tells a batch from another."""
        places = [(edit.rows, edit.columns) for edit in batch.edits.sites]
        return {
            "source": batch.source.inputs,
            "base": batch.base.inputs,
            "inputs": batch.inputs,
            "pairs": batch.pairs,
            "answers": batch.answers,
            "cells": places,
            "copies": batch.copies,
        }


class GroupValues(NamedTuple):
    """What the unpatched runs of a group gave.

    Attributes:
        source, base: Of each site that was read, `[pair, position, width]`.
        source_numbers, base_numbers: `[pair, number]`.
    """

    source: dict[int, Tensor]
    base: dict[int, Tensor]
    source_numbers: Float[Tensor, "pair number"]
    base_numbers: Float[Tensor, "pair number"]


def trace_cells(
    model: Any, plan: CellPlan, batch: CellBatch, kept: Any = None
) -> dict[str, Tensor]:
    """Run one batch: the two runs of its pairs, and then its patched rows in one forward pass.

    Args:
        model: The nnsight model.
        plan: What is the same for all batches.
        batch: The rows.
        kept: In this process, what keeps the unpatched runs from batch to batch, and the caches of
            tokens that run beforehand; None on a server, where each batch is whole by itself.

    Returns:
        "rows", "source" and "base", `[row or pair, number]`; and "error" `[row]`: how far what
        stands at the patched cells is from what was asked, relative.
    """
    values = None if kept is None else kept.values_of(batch)
    if values is None:
        values = read_group(model, plan, batch)
    inputs = dict(batch.inputs)
    if kept is not None:
        kept.values[batch.group] = values
        inputs.update(kept.inputs_of(batch))
    sources = copied_values(batch, values)
    with torch.no_grad(), model.trace(**inputs):
        found = nnsight.save(read_cells(model, plan, batch, sources))
    return {
        "rows": found[0],
        "error": found[1],
        "source": values.source_numbers,
        "base": values.base_numbers,
    }


def read_cells(
    model: Any, plan: CellPlan, batch: CellBatch, sources: dict[int, Tensor]
) -> list[Tensor]:
    """Patch every row inside its trace, and return its numbers and errors."""
    edits = EditPass(model, batch.edits, sources, plan.head_operations, None, plan.max_bytes)
    checks = EditChecks(edits, plan.max_bytes)
    n_rows, n_columns = batch.inputs["input_ids"].shape
    every_row = torch.arange(n_rows, device="cpu")
    last = TokenPlaces(n_rows, every_row, torch.full_like(every_row, n_columns - 1))
    streams = checks.follow_edits(batch.steps, last)
    errors = checks.errors(every_row)["edit"]
    answers = batch.answers[batch.pairs]
    own = answer_numbers(model_logits(model.output), answers)
    return [torch.cat([own, lens_numbers(model, plan, streams, answers)], dim=1), errors]


def read_group(model: Any, plan: CellPlan, batch: CellBatch) -> GroupValues:
    """Run the prompts of a batch's pairs as they are."""
    source, source_numbers = run_unpatched(model, plan, batch.source, batch.answers)
    base, base_numbers = run_unpatched(model, plan, batch.base, batch.answers)
    return GroupValues(source, base, source_numbers, base_numbers)


def run_unpatched(
    model: Any, plan: CellPlan, run: UnpatchedRun, answers: Int[Tensor, "pair 2"]
) -> tuple[dict[int, Tensor], Tensor]:
    """Run some prompts as they are; return what is read of them, and their numbers."""
    with torch.no_grad(), model.trace(**run.inputs):
        found = nnsight.save(read_unpatched(model, plan, run, answers))
    sites = [read.site for read in run.reads]
    return dict(zip(sites, found[:-1], strict=True)), found[-1]


def read_unpatched(
    model: Any, plan: CellPlan, run: UnpatchedRun, answers: Int[Tensor, "pair 2"]
) -> list[Tensor]:
    """Read whole tensors inside a trace, and last the numbers of the answers."""
    found = [whole_tensor(model, read, run.n_rows) for read in run.reads]
    streams = []
    for read, tensor in zip(run.reads, found, strict=True):
        if read.site == LENS_READ:
            streams.append(tensor[:, -1])
    own = answer_numbers(model_logits(model.output), answers)
    return [*found, torch.cat([own, lens_numbers(model, plan, streams, answers)], dim=1)]


def lens_numbers(
    model: Any, plan: CellPlan, streams: list[Tensor], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, "row 2"]:
    """Return the two logits under a lens at each row's last position, on the CPU.

    Args:
        model: The nnsight model.
        plan: Which lens.
        streams: What it reads, `[row, d_model]`, alone; nothing where no lens reads.
        answers: The two ids.
    """
    if not streams:
        return torch.full(answers.shape, torch.nan, dtype=torch.float32, device="cpu")
    head = LensHead(model, plan.head_operations)
    logits = head(streams[0], transport=plan.transport)
    return logits.gather(1, answers.to(logits.device)).float().cpu()


def whole_tensor(model: Any, read: TensorRead, n_rows: int) -> Float[Tensor, "row position width"]:
    """Read one tensor at all tokens. It is a copy: some models write on into their own."""
    module = model.get(read.module)
    value = first_of(module.input if read.side == "in" else module.output)
    grid = value.reshape(n_rows, -1, value.shape[-1])
    if read.columns is not None:
        grid = grid[..., list(read.columns)]
    return replay(model, read.operations, grid).clone()


def copied_values(batch: CellBatch, values: GroupValues) -> dict[int, Tensor]:
    """Return what is put at each edited token, by the number of the edit, `[entry, width]`."""
    sources = {}
    for step in batch.steps:
        if not isinstance(step, EditStep):
            continue
        copies = batch.copies[step.site]
        run = values.base if copies.is_base else values.source
        found = run[copies.read]
        sources[step.site] = found[copies.pairs.to(found.device), copies.positions.to(found.device)]
    return sources


def answer_numbers(
    logits: Float[Tensor, "row position vocab"], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, "row number"]:
    """Return what each row's last position says of its answers, on the CPU.

    These are the logit of the target, the logit of the other token, the log-probability of the
    target in nats, and its rank.
    """
    last = to_float32(logits[:, -1])
    answers = answers.to(last.device)
    both = last.gather(1, answers)
    logprob = both[:, 0] - last.logsumexp(-1)
    rank = (last > both[:, :1]).sum(-1)
    return torch.stack([both[:, 0], both[:, 1], logprob, rank.to(last.dtype)], dim=1).float().cpu()
