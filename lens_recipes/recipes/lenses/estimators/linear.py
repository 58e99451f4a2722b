"""The linear lens: sums of products of streams, from forward passes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lens_recipes.lenses.solve.linear import solve_linear
from lens_recipes.lenses.solve.solution import Solution
from lens_recipes.models.handle import dtype_of, exclusive
from lens_recipes.recipes.lenses.estimators.estimator import Estimator, FitTask, seconds_of
from lens_recipes.recipes.lenses.streams import read_steps
from lens_recipes.recipes.lenses.text.rows import Row, RowSets
from lens_recipes.run.recipe import perform
from lens_recipes.run.remote.http.settings import remote_settings
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import ArraySpec, Schema
from lens_recipes.trace.fit.streams import FitBatch, FitPlan, add_streams
from lens_recipes.trace.kernels import FORWARD_TOKENS, PASS_BYTES, PROCESSOR, kernels_for

PASS_TOKENS = FORWARD_TOKENS  # of one forward pass
BATCH_TOKENS = PROCESSOR.fit_tokens  # of which sums come together here; on a server it is a job
TRIED_TOKENS = 512  # for an estimate of time


class BatchSums:
    """The sums of one batch, as a run gives them back.

    Attributes:
        arrays: By their names in `add_streams`.
        provenance: What a job adds to what it gives.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.provenance: dict[str, Any] = {}


class LinearEstimator(Estimator):
    """Weighted ridge regression from each stream to the final one."""

    kind = "linear"
    runs_remotely = True
    solves = True

    def __init__(self, task: FitTask) -> None:
        """Plan what is read."""
        super().__init__(task)
        request = task.request
        final = request.anatomy.last_layer
        self.plan = FitPlan(read_steps(request, [*task.layers, final]))

    # -- batches -------------------------------------------------------

    def batches(self, rows: Sequence[Row]) -> list[FitBatch]:
        """Return rows as batches of several passes, each of rows of one length.

        So nothing is padded, and each row gives what it gives alone.
        """
        batches: list[FitBatch] = []
        passes: list[dict[str, Any]] = []
        n_tokens = 0
        for group in self._passes(rows):
            size = sum(len(row.ids) for row in group)
            if passes and n_tokens + size > self._batch_tokens:
                batches.append(FitBatch(passes))
                passes, n_tokens = [], 0
            passes.append(self._inputs(group))
            n_tokens += size
        if passes:
            batches.append(FitBatch(passes))
        return batches

    @property
    def _batch_tokens(self) -> int:
        """How many tokens a batch has at most."""
        if self.task.request.remote:
            return remote_settings.tokens_per_job
        kernels = kernels_for(self.task.request.model.device)
        return BATCH_TOKENS if kernels is PROCESSOR else kernels.fit_tokens

    def _passes(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Return rows in groups of one length, each as large as a forward pass may be."""
        request = self.task.request
        number_bytes = dtype_of(request.model).itemsize
        token_bytes = len(self.plan.steps) * request.anatomy.d_model * number_bytes
        most_tokens = min(PASS_TOKENS, PASS_BYTES // token_bytes, self._batch_tokens)
        groups: list[list[Row]] = []
        for row in sorted(rows, key=lambda row: len(row.ids)):
            length = len(row.ids)
            fits = False
            if groups and len(groups[-1][0].ids) == length:
                fits = (len(groups[-1]) + 1) * length <= most_tokens
            if fits:
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _inputs(self, rows: list[Row]) -> dict[str, Any]:
        """Return what the model is given in one pass."""
        options = self.task.request.anatomy.forward_options
        inputs: dict[str, Any] = {"input_ids": torch.stack([row.ids for row in rows]).long()}
        if "use_cache" in options:
            inputs["use_cache"] = False
        if "logits_to_keep" in options:
            inputs["logits_to_keep"] = 1
        return inputs

    def n_tokens(self, batch: FitBatch) -> int:
        """Return how many tokens of a batch run through the model."""
        return batch.n_tokens

    # -- where the model runs ------------------------------------------

    def run(self, batches: list[FitBatch]) -> RecipeRun[BatchSums]:
        """Return batches as one run."""
        return RecipeRun(
            request=self.task.request,
            traced=add_streams,
            plan=self.plan,
            batches=batches,
            schemas=[self._schema()] * len(batches),
            finish=lambda run, arrays: BatchSums(arrays[0]),
            arguments={"layers": self.task.layers},
            recipe="fit_lens",
            not_counted="solving for the lens in this process",
        )

    def _schema(self) -> Schema:
        """Return which arrays a batch gives."""
        n_streams, d_model = len(self.task.layers), self.task.request.anatomy.d_model
        dtype = torch.promote_types(dtype_of(self.task.request.model), torch.float32)
        name = str(dtype).removeprefix("torch.")
        return Schema(
            {
                "xx": ArraySpec(name, (n_streams, d_model, d_model)),
                "xy": ArraySpec(name, (n_streams, d_model, d_model)),
                "x": ArraySpec(name, (n_streams, d_model)),
                "y": ArraySpec(name, (d_model,)),
                "yy": ArraySpec(name, (1,)),
                "weight": ArraySpec(name, (1,)),
                "n_tokens": ArraySpec("int64", (1,)),
            }
        )

    def sums_of(self, batch: FitBatch) -> dict[str, Tensor]:
        """Return the sums of a batch, added up where the model is."""
        request = self.task.request
        if not request.remote:
            with exclusive(request.model):
                return add_streams(request.model, self.plan, batch)
        arrays = perform(self.run([batch])).arrays
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def seconds(self, batches: list[FitBatch]) -> float:
        """Return how long the batches may take in this process: one small pass is tried."""
        tried = batches[0].passes[0]
        ids = tried["input_ids"]
        n_rows = max(1, TRIED_TOKENS // ids.shape[1])
        small = FitBatch([{**tried, "input_ids": ids[:n_rows]}])
        model = self.task.request.model
        with exclusive(model):
            per_token = seconds_of(lambda: add_streams(model, self.plan, small)) / small.n_tokens
        return per_token * sum(batch.n_tokens for batch in batches)

    # -- the lens ------------------------------------------------------

    def solution(self, sums: Mapping[str, Tensor], rows: RowSets) -> Solution:
        """Return the transports, computed where the model's last block is."""
        return solve_linear(sums, self.task.layers, self._device())

    def _device(self) -> torch.device:
        """Return a device that computes in float64: the model's own, if it is one of CUDA."""
        parameter = next(self.task.request.model._module.parameters(), None)
        if parameter is not None and parameter.device.type == "cuda":
            return parameter.device
        return torch.device("cpu")
