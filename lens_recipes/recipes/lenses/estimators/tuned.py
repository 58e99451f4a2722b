"""The tuned lens: affine maps whose readout is as near as possible to the model's own distribution.

After Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens":
KL(model ‖ lens) is made small, stream by stream. Three things differ from the reference. It starts
from transports that were fitted already, such as the linear lens's, so that a few thousand tokens
are enough in place of 250 times 2¹⁸. The head is the model's own, softcap and logit scale included.
And the best state on tokens that were not trained on is kept: no stream gets worse than its start.

Streams and final logits come from forward passes; the gradient runs through the head and the
transport alone. A step moves all directions of a whitened stream alike (Jordan et al. 2024, "Muon:
An optimizer for hidden layers in neural networks"), which is what makes so few steps enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.models.handle import dtype_of, exclusive, refuse_training
from lens_recipes.models.lens_head import lens_head
from lens_recipes.models.weights.frozen import frozen_weights
from lens_recipes.recipes.lenses.streams import read_steps
from lens_recipes.run.request.request import Request
from lens_recipes.trace.fit.streams import read_streams
from lens_recipes.trace.fit.tuned import (
    StreamTraining,
    head_probabilities,
    kl_divergences,
    kl_gradient,
)
from lens_recipes.trace.kernels import TRAINING_BYTES
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import slices
from lens_recipes.trace.transport import Affine

STEPS = 16
TOKENS_PER_STEP = 256
LEARNING_RATE = 0.035  # how far the first step moves a vector, times the start's relative error
MOMENTUM = 0.8
VALIDATION_TOKENS = 256
VALIDATION_SHARE = 8  # one row in so many is not trained on
FIRST_TRAINED = 1  # the first token's streams are like those of no other token
MAX_BYTES = TRAINING_BYTES  # of logits that exist at once
LOGITS_AT_ONCE = 4  # arrays [row, vocabulary] that exist at once


class TunedTraining(NamedTuple):
    """What training came to.

    Attributes:
        transports: The best of each stream.
        start_kl, kl: KL(model ‖ lens) of each stream's start and of what was kept, in nats: the
            mean over tokens that were not trained on.
        n_tokens: How many tokens were trained on.
    """

    transports: dict[int, Affine]
    start_kl: dict[int, float]
    kl: dict[int, float]
    n_tokens: int


class StreamTokens(NamedTuple):
    """Some tokens of a text, with all that training needs of them.

    Attributes:
        streams: `[stream][token, d_model]`, in the model's dtype.
        final: The final stream of each, `[token, d_model]`.
    """

    streams: dict[int, Tensor]
    final: Tensor

    def __len__(self) -> int:
        return len(self.final)

    def at(self, stream: int, which: Tensor | slice) -> Float[Tensor, "token d_model"]:
        """Return some vectors of a stream, in float32 or as exact as the model."""
        rows = self.streams[stream][which]
        return rows.to(torch.promote_types(rows.dtype, torch.float32))


def train_tuned(
    model: Envoy,
    rows: Sequence[Sequence[int]],
    start: Mapping[int, Affine],
    *,
    seed: int = 0,
    steps: int = STEPS,
    tokens_per_step: int = TOKENS_PER_STEP,
    learning_rate: float = LEARNING_RATE,
    momentum: float = MOMENTUM,
    validation_tokens: int = VALIDATION_TOKENS,
    first_position: int = FIRST_TRAINED,
    max_bytes: int = MAX_BYTES,
    on_step: Callable[[int, int], Any] | None = None,
) -> TunedTraining:
    """Train affine transports until their readout is near the model's own distribution.

    Costs two products with the unembedding for each token and stream, and one for each token.

    Args:
        model: What `load()` returns, with its weights here.
        rows: Token ids of each text. One in eight is kept apart to validate on.
        start: The transports to begin with; `EMBEDDING` (−1) is the stream before block 0.
        seed: Of the choice of rows and tokens.
        steps, tokens_per_step: How long to train, and on how many tokens at a time. Text that is
            shorter than that is used again.
        learning_rate: How far the first step moves a vector: this, times the relative error of the
            start, times the size of the final stream. The last step moves next to nothing.
        momentum: How much of the gradients so far each step keeps.
        validation_tokens: How many tokens decide what is kept.
        first_position: Earlier positions are not trained on.
        max_bytes: Of the logits that exist at once.
        on_step: Called after each step with its number from 1 and the number of steps.

    Raises:
        LensError: there are fewer than two rows with a token to train on, or the model is in
            training mode.

    Example:
        >>> tuned = train_tuned(model, rows, linear.transports)
        >>> lens = Lens("tuned", tuned.transports)
    """
    refuse_training(model, False)
    request = Request(model, remote=False)
    read = TokenReader(request, sorted(start), first_position)
    generator = torch.Generator().manual_seed(seed)
    n_trained = steps * tokens_per_step
    training_rows, validation_rows = split_for_validation(rows, first_position, generator)
    head = lens_head(model, remote=False)
    with exclusive(model), frozen_weights(model._module):
        training = read.tokens(training_rows, n_trained, generator)
        validation = read.tokens(validation_rows, validation_tokens, generator)
        vocab_size = request.anatomy.vocab_size
        trainer = Trainer(head, dtype_of(model), vocab_size, max_bytes, training, validation)
        trainer.begin(start, learning_rate, momentum)
        for step in range(steps):
            which = step_tokens(len(training), step, tokens_per_step, generator)
            trainer.step(which, 1 - step / steps)
            if on_step is not None:
                on_step(step + 1, steps)
            if step + 1 == steps // 2:
                trainer.keep_best()
        trainer.keep_best()
    return trainer.result(min(n_trained, len(training)))


# -- tokens ------------------------------------------------------------


def split_for_validation(
    rows: Sequence[Sequence[int]], first_position: int, generator: torch.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the rows to train on and those to validate on, both in random order.

    Raises:
        LensError: there are fewer than two.
    """
    long_enough = [[int(token) for token in row] for row in rows if len(row) > first_position]
    if len(long_enough) < 2:
        raise LensError(
            f"a tuned lens takes at least two texts of more than {first_position} tokens, one to "
            f"train on and one to validate on, and received {len(long_enough)}: give more text, or "
            "cut it into several."
        )
    order = torch.randperm(len(long_enough), generator=generator).tolist()
    n_validation = max(1, len(long_enough) // VALIDATION_SHARE)
    shuffled = [long_enough[number] for number in order]
    return shuffled[n_validation:], shuffled[:n_validation]


def step_tokens(n_tokens: int, step: int, n_at_once: int, generator: torch.Generator) -> Tensor:
    """Return which tokens a step is taken on: the next ones, or random ones when all were used."""
    first = step * n_at_once
    if first + n_at_once <= n_tokens:
        return torch.arange(first, first + n_at_once)
    return torch.randperm(n_tokens, generator=generator)[:n_at_once]


class TokenReader:
    """Read streams of rows in forward passes."""

    def __init__(self, request: Request, streams: Sequence[int], first_position: int) -> None:
        """Find where each stream is read.

        Args:
            request: The model.
            streams: Ascending; `EMBEDDING` (−1) is the one before block 0.
            first_position: Of the tokens that are kept.
        """
        self.model = request.model
        self.streams = list(streams)
        self.first_position = first_position
        self.steps = read_steps(request, [*streams, request.anatomy.last_layer])
        self.options: dict[str, Any] = {}
        if "use_cache" in request.anatomy.forward_options:
            self.options["use_cache"] = False

    def tokens(
        self, rows: Sequence[Sequence[int]], n_tokens: int, generator: torch.Generator
    ) -> StreamTokens:
        """Return up to so many tokens of some rows, in random order.

        As many rows are read as that takes.
        """
        read: list[list[Tensor]] = []
        n_read = 0
        for row in rows:
            streams = self._row(row)
            read.append(streams)
            n_read += len(streams[-1])
            if n_read >= n_tokens:
                break
        order = torch.randperm(n_read, generator=generator)[:n_tokens]
        columns = []
        for of_rows in zip(*read, strict=True):
            whole = torch.cat(of_rows)
            columns.append(whole[order.to(whole.device)])
        return StreamTokens(dict(zip(self.streams, columns[:-1], strict=True)), columns[-1])

    def _row(self, row: Sequence[int]) -> list[Float[Tensor, "token d_model"]]:
        """Return the streams of one row, and the final one last."""
        model, steps = self.model, self.steps
        ids = torch.tensor([list(row)], device=model.device)
        with torch.no_grad(), model.trace(input_ids=ids, **self.options) as tracer:
            streams = nnsight.save(read_streams(model, steps))
            tracer.stop()
        return [stream[self.first_position :] for stream in streams]


# -- training ----------------------------------------------------------


class Trainer:
    """Train all streams side by side, on the same tokens."""

    def __init__(
        self,
        head: LensHead,
        dtype: torch.dtype,
        vocab_size: int,
        max_bytes: int,
        training: StreamTokens,
        validation: StreamTokens,
    ) -> None:
        """Keep the tokens, and how many of them the head takes at once."""
        self.head = head
        self.dtype = dtype
        self.training = training
        self.validation = validation
        number_bytes = torch.promote_types(dtype, torch.float32).itemsize
        self.rows_at_once = max(1, max_bytes // (LOGITS_AT_ONCE * vocab_size * number_bytes))
        self.start: dict[int, Affine] = {}
        self.streams: dict[int, StreamTraining] = {}
        self.best: dict[int, Affine] = {}
        self.start_kl: dict[int, float] = {}
        self.kl: dict[int, float] = {}

    def begin(self, start: Mapping[int, Affine], learning_rate: float, momentum: float) -> None:
        """Begin with some transports, which are the best so far."""
        final = self.training.final.to(torch.promote_types(self.dtype, torch.float32))
        squares = final.square().mean(-1)
        size = float(squares.median().sqrt())
        for stream in sorted(start):
            rows = self.training.at(stream, slice(None))
            transport = start[stream]
            moved = transport.transform_hidden(rows)
            errors = (moved - final.to(rows.device)).square().mean(-1) / squares.to(rows.device)
            relative_error = min(1.0, float(errors.median().sqrt()))
            self.start[stream] = transport
            self.streams[stream] = StreamTraining(
                rows, transport.transform_hidden, size, learning_rate * relative_error, momentum
            )
            self.best[stream] = transport
        self.start_kl = self.validate()
        self.kl = dict(self.start_kl)

    def step(self, which: Tensor, rate: float) -> None:
        """Take one step of every stream on these tokens."""
        parts = list(slices(len(which), self.rows_at_once))
        final = self.training.final[which.to(self.training.final.device)]
        probabilities = [head_probabilities(self.head, final[part]) for part in parts]

        def gradient(moved: Tensor) -> Tensor:
            gradients = []
            for part, own in zip(parts, probabilities, strict=True):
                gradients.append(kl_gradient(self.head, moved[part], own, self.dtype))
            return torch.cat(gradients)

        for stream, training in self.streams.items():
            rows = self.training.at(stream, which.to(self.training.streams[stream].device))
            training.step(rows, gradient, rate)

    def validate(self) -> dict[int, float]:
        """Return the mean KL(model ‖ lens) of each stream on the tokens to validate on, in nats."""
        totals = dict.fromkeys(self.streams, 0.0)
        for chunk in slices(len(self.validation), self.rows_at_once):
            own = head_probabilities(self.head, self.validation.final[chunk])
            for stream, training in self.streams.items():
                moved = training.moved(self.validation.at(stream, chunk))
                divergences = kl_divergences(self.head, moved, own, self.dtype)
                totals[stream] += float(divergences.sum())
        return {stream: total / len(self.validation) for stream, total in totals.items()}

    def keep_best(self) -> None:
        """Keep each stream as it is now where it is better than before."""
        for stream, divergence in self.validate().items():
            if divergence < self.kl[stream]:
                self.kl[stream] = divergence
                self.best[stream] = corrected(self.start[stream], *self.streams[stream].trained())

    def result(self, n_tokens: int) -> TunedTraining:
        """Return the best of each stream."""
        return TunedTraining(self.best, self.start_kl, self.kl, n_tokens)


def corrected(start: Affine, weight: Tensor, bias: Tensor) -> Affine:
    """Return a transport with something added to its weight and its bias."""
    whole = start.weight.to(weight) + weight
    offset = bias if start.bias is None else start.bias.to(bias) + bias
    return Affine(whole.cpu(), offset.cpu(), start.is_residual)
