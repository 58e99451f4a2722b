"""The kinds of lenses that `fit_lens` knows, by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lens_recipes.caller import argument
from lens_recipes.errors import LensError
from lens_recipes.lenses.solve.jacobian import FIRST_POSITION
from lens_recipes.lenses.solve.solution import Solution
from lens_recipes.lenses.solve.solve import solve
from lens_recipes.recipes.lenses.estimators.estimator import Estimator, FitTask
from lens_recipes.recipes.lenses.estimators.jacobian import PromptJacobians
from lens_recipes.recipes.lenses.estimators.linear import LinearEstimator
from lens_recipes.recipes.lenses.estimators.tuned import (
    FIRST_TRAINED,
    STEPS,
    TOKENS_PER_STEP,
    train_tuned,
)
from lens_recipes.recipes.lenses.text.rows import Row, RowSets
from lens_recipes.run.progress import progress
from lens_recipes.run.request.kernels import expected_kernels
from lens_recipes.run.run import RecipeRun


class Prompt(NamedTuple):
    """One prompt whose Jacobians are added up by themselves."""

    row: Row


class JacobianEstimator(Estimator):
    """The mean Jacobian of each stream: backward passes, one prompt after another."""

    kind = "jacobian"
    first_position = FIRST_POSITION
    reads_embedding = False
    default_tokens = 12_800  # a hundred prompts

    def __init__(self, task: FitTask) -> None:
        """Plan what is pulled back.

        Raises:
            ValueError: a setting; this kind has none.
            LensError: the model has one block, whose stream is the final one.
        """
        super().__init__(task)
        if not task.layers:
            raise LensError(
                f"{task.request.anatomy.family}: this model has only one block, and the stream "
                "after the last block is the final one already, so there is nothing to fit. Fit "
                'kind="linear", which also has the stream before block 0.'
            )
        self.jacobians = PromptJacobians(task.request.model, task.layers)
        self.passes = LinearEstimator(task)  # for an estimate: the same passes without gradients
        self.passes.plan = self.passes.plan._replace(has_products=False)

    @property
    def shortest_row(self) -> int:
        """How many tokens a prompt must have: a source, and the last token, which is none."""
        return FIRST_POSITION + 2

    def batches(self, rows: Sequence[Row]) -> list[Prompt]:
        """Return the rows, each by itself."""
        return [Prompt(row) for row in rows]

    def n_tokens(self, batch: Prompt) -> int:
        """Return how many tokens a prompt has."""
        return len(batch.row.ids)

    def sums_of(self, batch: Prompt) -> dict[str, Tensor]:
        """Return the Jacobians of one prompt."""
        ids = batch.row.ids.tolist()
        return {
            "jacobian": self.jacobians.of_prompt(ids),
            "n_prompts": torch.tensor([1]),
            "n_tokens": torch.tensor([len(ids)]),
        }

    def run(self, batches: list[Prompt]) -> RecipeRun[Any]:
        """Return the forward passes of all prompts as one run, and how much is pulled back."""
        run = self.passes.run(self.passes.batches([batch.row for batch in batches]))
        run.not_counted = ""
        kernels = expected_kernels(self.task.request.model)
        lengths = [self.n_tokens(batch) for batch in batches]
        run.pulled = self.jacobians.pulled_back(lengths, kernels)
        return run

    def seconds(self, batches: list[Prompt]) -> float:
        """Return about how long the Jacobians of all prompts take: those of one are begun."""
        tried = batches[0].row.ids.tolist()
        per_token = self.jacobians.seconds_of_prompt(tried) / len(tried)
        return per_token * sum(self.n_tokens(batch) for batch in batches)

    def solution(self, sums: Mapping[str, Tensor], rows: RowSets) -> Solution:
        """Return the mean of the Jacobians of all prompts."""
        return solve(self.kind, sums, self.task.layers)


class TunedEstimator(LinearEstimator):
    """The linear lens, and then affine maps that are trained from it on the model's own output."""

    kind = "tuned"
    runs_remotely = False
    first_position = FIRST_TRAINED
    accepts = ("steps", "tokens_per_step")
    trains = True

    def __init__(self, task: FitTask) -> None:
        """Keep what is to be fitted.

        Raises:
            ValueError: a setting that this kind does not have, or a number that is none.
        """
        super().__init__(task)
        for name, value in task.settings.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{argument(name, value)} must be a whole number from 1.")

    def run(self, batches: list[Any]) -> RecipeRun[Any]:
        """Return the passes of the linear lens as one run; what comes after them is not in it."""
        run = super().run(batches)
        run.not_counted = "solving for the lens and training it"
        return run

    def seconds(self, batches: list[Any]) -> float:
        """Return how long the passes take, and the training: two products of the head a stream."""
        settings = self.task.settings
        n_trained = settings.get("steps", STEPS) * settings.get("tokens_per_step", TOKENS_PER_STEP)
        n_passed = sum(batch.n_tokens for batch in batches)
        forward = super().seconds(batches)
        anatomy = self.task.request.anatomy
        head = 2 * len(self.task.layers) * anatomy.d_model * anatomy.vocab_size
        body = sum(parameter.numel() for parameter in self.task.request.model._module.parameters())
        return forward + forward / n_passed * n_trained * head / body

    def solution(self, sums: Mapping[str, Tensor], rows: RowSets) -> Solution:
        """Return what training comes to from the linear lens. Its halves are not trained."""
        linear = super().solution(sums, rows)
        n_steps = self.task.settings.get("steps", STEPS)
        with steps_shown(n_steps) as on_step:
            trained = train_tuned(
                self.task.request.model,
                [row.ids.tolist() for row in rows.fitted],
                linear.transports,
                seed=self.task.seed,
                on_step=on_step,
                **self.task.settings,
            )
        return Solution(trained.transports, [], {**linear.settings, "trained": trained.n_tokens})


@contextmanager
def steps_shown(n_steps: int) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how far a training is; what is given is called after each step."""
    with progress(range(n_steps), "fit_lens, training", [1] * n_steps) as steps:
        waiting = iter(steps)
        next(waiting, None)

        def on_step(number: int, total: int) -> None:
            next(waiting, None)

        yield on_step


ESTIMATORS: dict[str, type[Estimator]] = {
    "linear": LinearEstimator,
    "tuned": TunedEstimator,
    "jacobian": JacobianEstimator,
}
