"""The Jacobians of one prompt: how its final stream answers to a change of an earlier one.

The estimator is that of the reference implementation (Gurnee et al. 2026, "Verbalizable
Representations Form a Global Workspace in Language Models"):

    J = mean over prompts, mean over sources t, sum over targets t' ≥ t of ∂final[t'] / ∂h[t]

where h is the output of a block, final the output of the last block before the final norm, and
sources and targets are the positions 16 to the last but one. Here it is taken of one prompt; fits
add prompts up, and `solve_jacobian` makes the mean of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.lenses.solve.jacobian import FIRST_POSITION
from lens_recipes.models.handle import dtype_of, exclusive
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.weights.frozen import frozen_weights
from lens_recipes.recipes.lenses.estimators.graph import PromptGraph
from lens_recipes.run.run import PulledBack
from lens_recipes.trace.fit.jacobian import mean_over_sources, pull_batched, pull_repeated
from lens_recipes.trace.kernels import Kernels, kernels_for, on_cpu


class PromptJacobians:
    """Take the Jacobians of prompts, one prompt after another.

    Attributes:
        layers: Of the streams that are differentiated, ascending.
        is_batched: Whether several dimensions are pulled back in one batch of gradients: until an
            operation of the model turns out to have no rule for it.
        graph: Runs the prompts.

    Example:
        >>> jacobians = PromptJacobians(model, [0, 1, 2])
        >>> jacobians.of_prompt(token_ids)
    """

    def __init__(
        self,
        model: Envoy,
        layers: Sequence[int],
        *,
        first_position: int = FIRST_POSITION,
        dimensions_at_once: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Keep what is wanted.

        Args:
            model: What `load()` returns, with its weights here and out of training mode.
            layers: Of the streams, ascending and without the last one.
            first_position: Earlier positions are neither sources nor targets.
            dimensions_at_once: Of the final stream that are pulled back together; None for as many
                as fit.
            max_bytes: Of the gradients that exist at once; None for what is chosen for the device.
        """
        self.model = model
        self.parts = anatomy(model)
        self.layers = list(layers)
        self.first_position = first_position
        self.dimensions_at_once = dimensions_at_once
        self.kernels = kernels_for(model.device)
        self.max_bytes = max_bytes
        self.is_batched = True
        self.graph = PromptGraph(model, self.layers, first_position)

    def seconds_of_prompt(self, token_ids: Sequence[int]) -> float:
        """Return about how long the Jacobians of one prompt take: some dimensions are tried."""
        d_model = self.parts.d_model
        some = min(self._width(len(token_ids), self.kernels), d_model)
        for _ in range(2):  # finds out how this model is to be run, and warms up
            self.of_prompt(token_ids, some)
        started = time.perf_counter()
        self.of_prompt(token_ids, some)
        between = time.perf_counter()
        self.of_prompt(token_ids, min(2 * some, d_model))
        first, second = between - started, time.perf_counter() - between
        more = max(0.0, second - first)  # that as many dimensions take again
        return first + more * (d_model / some - 1)

    def of_prompt(
        self, token_ids: Sequence[int], n_dimensions: int | None = None
    ) -> Float[Tensor, "layer d_out d_in"]:
        """Return the Jacobians of one prompt: the mean over sources, the sum over targets.

        Args:
            token_ids: Of the prompt.
            n_dimensions: How many dimensions of the final stream are pulled back, the first ones;
                the others stay zero. None for all.

        Returns:
            On the CPU, in float32 or as exact as the model.

        Raises:
            LensError: the prompt has no source, or no gradient reaches a stream.
        """
        shortest = self.first_position + 2  # a source, and the last token, which is none
        if len(token_ids) < shortest:
            raise LensError(
                f"a prompt of {len(token_ids)} tokens has no position that counts: the first is "
                f"{self.first_position}, and the last token is never one. It takes at least "
                f"{shortest} tokens."
            )
        ids = torch.tensor([[int(token) for token in token_ids]], device=self.model.device)
        if n_dimensions is None:
            n_dimensions = self.parts.d_model
        with exclusive(self.model), frozen_weights(self.model._module):
            n_before = self.graph.tokens_beforehand(ids)
            if self.is_batched:
                try:
                    return self._pull(ids, n_before, n_dimensions)
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, NotImplementedError):
                    self.is_batched = False
            return self._pull(ids, n_before, n_dimensions)

    def _pull(self, ids: Tensor, n_before: int, n_dimensions: int) -> Tensor:
        """Return the Jacobians of one prompt, of which some tokens run without gradients."""
        d_model = self.parts.d_model
        width = self._width(ids.shape[1], self.kernels)
        n_rows = 1 if self.is_batched else min(width, n_dimensions)
        run = self.graph.run(ids, n_before, n_rows)
        if not run.final.requires_grad:
            raise self._no_gradient(self.layers[0])
        pull = pull_batched if self.is_batched else pull_repeated
        dtype = torch.promote_types(dtype_of(self.model), torch.float32)
        jacobians = torch.zeros(len(self.layers), d_model, d_model, dtype=dtype)
        for start in range(0, n_dimensions, width):
            stop = min(start + width, n_dimensions)
            gradients = pull(run, start, stop)
            means = {}
            for number, gradient in enumerate(gradients):
                if gradient is None:
                    raise self._no_gradient(self.layers[number])
                means[number] = mean_over_sources(gradient, run.places)
            for number, mean in on_cpu(means).items():  # all layers together: one wait
                jacobians[number, start:stop] = mean
        return jacobians

    def _width(self, n_tokens: int, kernels: Kernels) -> int:
        """Return how many dimensions of a prompt of so many tokens are pulled back together."""
        if self.dimensions_at_once is not None:
            return self.dimensions_at_once
        max_bytes = kernels.gradient_bytes if self.max_bytes is None else self.max_bytes
        n_numbers = len(self.layers) * n_tokens * self.parts.d_model
        fitting = max_bytes // (n_numbers * dtype_of(self.model).itemsize)
        most = kernels.repeated_at_once
        if self.is_batched:
            most = kernels.dimensions_at_once
        return max(1, min(fitting, most))

    def pulled_back(self, lengths: Sequence[int], kernels: Kernels) -> PulledBack:
        """Return how far gradients are pulled back for prompts of so many tokens, for an estimate.

        It is that of a model that goes on from its cache, and takes dimensions in one batch.

        Args:
            lengths: Of the prompts.
            kernels: Of the device where they will run.
        """
        d_model = self.parts.d_model
        n_tokens = n_pairs = n_passes = 0
        for length in lengths:
            n_run = length - 1  # the last token is left out
            n_sources = n_run - self.first_position
            n_tokens += n_sources
            n_pairs += n_sources * n_run
            n_passes += math.ceil(d_model / self._width(length, kernels))
        return PulledBack(
            tokens=n_tokens * d_model,
            pairs=n_pairs * d_model,
            # The first stream that is differentiated is where gradients end.
            n_blocks=self.parts.last_layer - self.layers[0],
            passes=n_passes,
        )

    def _no_gradient(self, layer: int) -> LensError:
        """Return the error for a stream that the final one does not follow from."""
        return LensError(
            f"{self.parts.family}: no gradient reaches the stream after layer {layer} from the "
            "last block's output, so there is no Jacobian. Some operation between them cannot be "
            'differentiated. Fit kind="linear", which needs no gradients.'
        )
