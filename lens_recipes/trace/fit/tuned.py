"""What training a tuned lens computes: the gradient of a KL divergence through the head.

Everything here is torch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import replay

RIDGE = 0.3  # of the mean variance: directions that vary less than this are not blown up
# Of the polynomial whose iteration takes singular values to about 1 (Jordan et al. 2024, "Muon").
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
POLYNOMIAL_STEPS = 5
SMALLEST = 1e-30


class Whitening(NamedTuple):
    """The affine map after which a stream varies by about 1 in each direction.

    Attributes:
        mean: `[d_model]`.
        matrix: Symmetric, `[d_model, d_model]`.
        median_square: The median over tokens of the squared distance to the mean. A token that is
            farther off weighs less, as those with massive activations, which would outweigh all
            others.
    """

    mean: Tensor
    matrix: Tensor
    median_square: Tensor

    def apply(
        self, rows: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token d_model_1"], Float[Tensor, "token 1"]]:
        """Return whitened rows with a column of ones for the bias, and the weight of each."""
        centred = rows - self.mean
        weights = weights_of(centred, self.median_square)
        ones = torch.ones_like(rows[:, :1])
        return torch.cat([centred @ self.matrix, ones], 1), weights


def whiten(rows: Float[Tensor, "token d_model"]) -> Whitening:
    """Return the whitening of a stream, from some of its tokens."""
    mean = rows.mean(0)
    median_square = rows.new_zeros(())
    for _ in range(2):  # first all tokens alike, then by the weights that come of it
        centred = rows - mean
        median_square = (centred * centred).sum(-1).median()
        weights = weights_of(centred, median_square)
        mean = (weights * rows).sum(0) / weights.sum()
    centred = rows - mean
    weights = weights_of(centred, median_square)
    covariance = (weights * centred).T @ centred / weights.sum()
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)
    scale = (variances + RIDGE * variances.mean() + SMALLEST).rsqrt()
    return Whitening(mean, (directions * scale) @ directions.T, median_square)


def weights_of(
    centred: Float[Tensor, "token d_model"], median_square: Tensor
) -> Float[Tensor, "token 1"]:
    """Return the weight of each token: 1, or less where it is far off."""
    squares = (centred * centred).sum(-1, keepdim=True).clamp(min=SMALLEST)
    return (median_square / squares).clamp(max=1)


def orthogonalised(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Return about the nearest matrix whose singular values are all 1.

    As a step it moves all directions alike, however unequal the gradient is in size.
    """
    linear, cubic, quintic = POLYNOMIAL
    result = matrix / (matrix.norm() + SMALLEST)
    for _ in range(POLYNOMIAL_STEPS):
        gram = result @ result.T
        result = linear * result + (cubic * gram + quintic * gram @ gram) @ result
    return result


# -- the head ----------------------------------------------------------


def head_logits(head: LensHead, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Return logits with their graph, in float32 or as exact as the model."""
    logits = replay(head.model, head.unembedding, head.normed(rows))[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def head_probabilities(
    head: LensHead, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    """Return the distributions that the model itself makes of its final stream."""
    with torch.no_grad():
        return head_logits(head, rows).softmax(-1)


def kl_gradient(
    head: LensHead,
    rows: Float[Tensor, "row d_model"],
    probabilities: Float[Tensor, "row vocab"],
    dtype: torch.dtype,
) -> Float[Tensor, "row d_model"]:
    """Return the gradient of each row's KL(probabilities ‖ what the head makes of the row).

    With respect to the logits it is softmax(logits) − probabilities, so that nothing beside the
    head needs a graph.

    Args:
        head: The model's own.
        rows: Moved vectors.
        probabilities: The model's own distributions.
        dtype: Of the vectors that the head takes.
    """
    leaf = rows.detach().to(dtype).requires_grad_(True)
    logits = head_logits(head, leaf)
    with torch.no_grad():
        error = torch.softmax(logits, -1).sub_(probabilities.to(logits.device))
    gradient = torch.autograd.grad(logits, leaf, error)[0]
    return gradient.to(rows.device, rows.dtype)


def kl_divergences(
    head: LensHead,
    rows: Float[Tensor, "row d_model"],
    probabilities: Float[Tensor, "row vocab"],
    dtype: torch.dtype,
) -> Float[Tensor, " row"]:
    """Return KL(probabilities ‖ what the head makes of the row) of each row, in nats."""
    with torch.no_grad():
        logprobs = head_logits(head, rows.to(dtype)).log_softmax(-1)
        probabilities = probabilities.to(logprobs.device)
        cross_entropy = -(probabilities * logprobs).sum(-1)
        entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    return (cross_entropy - entropy).to(rows.device)


# -- one stream --------------------------------------------------------


class StreamTraining:
    """The correction of one stream's transport, while it is trained.

    The moved vector is start(x) + size · D [whitened x, 1], and D begins as zero.
    """

    def __init__(
        self,
        rows: Float[Tensor, "token d_model"],
        start: Callable[[Tensor], Tensor],
        size: float,
        learning_rate: float,
        momentum: float,
    ) -> None:
        """Begin at the start.

        Args:
            rows: Vectors of the stream, in float32 or better.
            start: The transport to begin with.
            size: How large the final stream is: the root of its mean square.
            learning_rate: How far the first step moves a vector, in units of `size`.
            momentum: How much of the gradient's mean each step keeps.
        """
        self.whitening = whiten(rows)
        self.start = start
        self.size = size
        self.learning_rate = learning_rate
        self.momentum = momentum
        d_out = start(rows[:1]).shape[-1]
        self.correction = rows.new_zeros(d_out, rows.shape[-1] + 1)
        self.mean_gradient = torch.zeros_like(self.correction)

    def moved(self, rows: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """Return vectors, moved as far as it is trained."""
        inputs, _ = self.whitening.apply(rows)
        return self.moved_from(rows, inputs)

    def moved_from(
        self, rows: Float[Tensor, "token d_model"], inputs: Float[Tensor, "token d_model_1"]
    ) -> Float[Tensor, "token d_model"]:
        """Return vectors, moved as far as it is trained, from what whitening makes of them."""
        return self.start(rows) + self.size * inputs @ self.correction.T

    def step(
        self,
        rows: Float[Tensor, "token d_model"],
        gradient: Callable[[Tensor], Tensor],
        rate: float,
    ) -> None:
        """Take one step.

        Args:
            rows: Vectors of the stream.
            gradient: From moved vectors to the gradient with respect to them.
            rate: What the learning rate is multiplied by in this step.
        """
        inputs, weights = self.whitening.apply(rows)
        of_moved = weights * gradient(self.moved_from(rows, inputs))
        of_correction = of_moved.T @ inputs
        self.mean_gradient = self.momentum * self.mean_gradient + of_correction
        step = orthogonalised(self.mean_gradient)
        self.correction = self.correction - self.learning_rate * rate * step

    def trained(self) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
        """Return what is to be added to the weight and to the bias of the start."""
        weight = self.size * self.correction[:, :-1] @ self.whitening.matrix
        bias = self.size * self.correction[:, -1] - weight @ self.whitening.mean
        return weight, bias
