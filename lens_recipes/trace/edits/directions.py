"""The direction in the stream along which a token's logit rises, under a lens.

It is the gradient of the lens's logit with the final norm held: the token's row of the unembedding,
times the norm's gain, taken back through the transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.attribution.freeze import apply_affine, freeze_norm
from lens_recipes.trace.attribution.target_logits import TargetLogits, Weight, target_rows
from lens_recipes.trace.kernels import UNIT_VECTORS
from lens_recipes.trace.operations import Operation, slices, split_at_unembedding, without_autocast
from lens_recipes.trace.pack import OWN_ERROR
from lens_recipes.trace.transport import Affine, Transport

BENT = 0.02  # of the sum of its terms: more than rounding in half precision can be


class TokenDirection(NamedTuple):
    """The direction of a token, perhaps minus that of another one.

    Attributes:
        token: Its id.
        minus: The id of the other; −1 for none.
        transport: From the site to the final stream.
    """

    token: int
    minus: int
    transport: Transport


class Directions:
    """Finds the directions of tokens in a running model, each once."""

    def __init__(
        self,
        model: Any,
        head_operations: Sequence[Operation],
        weight: Weight | None,
        like: Tensor,
        max_bytes: int,
    ) -> None:
        """Keep the way to the logits.

        Args:
            model: The nnsight model.
            head_operations: What it does between its last block and its logits.
            weight: Of a plain unembedding in this process, whose rows are picked; None calls the
                module on every unit vector of the stream instead.
            like: A stream, whose width, dtype and device the model takes.
            max_bytes: Bound on the memory for logits.
        """
        self.model = model
        self.head = split_at_unembedding(head_operations)
        self.weight = weight
        self.like = like
        self.max_bytes = max_bytes
        self._rows: dict[int, Tensor] = {}

    def vector(self, direction: Tensor | TokenDirection) -> Float[Tensor, " width"]:
        """Return a direction as a vector in float32; a vector stays as it is."""
        if isinstance(direction, Tensor):
            return direction.float()
        vector = self.logit_gradient(direction.token)
        if direction.minus >= 0:
            vector = vector - self.logit_gradient(direction.minus)
        return pulled_back(direction.transport, vector)

    def logit_gradient(self, token: int) -> Float[Tensor, " d_model"]:
        """Return along what the final stream raises a token's logit, but for its length."""
        if token not in self._rows:
            self._rows[token] = self.find_gradient(token)
        return self._rows[token]

    def find_gradient(self, token: int) -> Float[Tensor, " d_model"]:
        """Take every unit vector of the final stream to the token's logit, the norm held."""
        width, device = self.like.shape[-1], self.like.device
        # Any stream will do: it sets the length of the gradient, which is not used.
        stream = torch.linspace(-1, 1, width, device=device).to(self.like.dtype)[None]
        frozen, normed = freeze_norm(self.model, self.head.before, stream)
        ids = torch.tensor([[token]], device=normed.device)
        rows = None if self.weight is None else target_rows(self.weight, ids, None)
        logit_of = TargetLogits(self.model, self.head, ids, False, rows, normed.dtype)
        nothing = stream.new_zeros(1, 1, width)
        constant = logit_of.linear(apply_affine(self.model, frozen, nothing))
        at_once = UNIT_VECTORS
        if rows is None:
            at_once = min(at_once, self.max_bytes // (4 * self.n_logits(normed)))
        basis = torch.eye(width, dtype=self.like.dtype, device=device)
        gradient = []
        for some in slices(width, at_once):
            vectors = basis[some].unsqueeze(1)  # [vector, 1, width]
            logits = logit_of.linear(apply_affine(self.model, frozen, vectors))
            gradient.append((logits - constant)[:, 0, 0].float())
        found = torch.cat(gradient)
        far = 4 * stream.unsqueeze(0)
        there = logit_of.linear(apply_affine(self.model, frozen, far)) - constant
        refuse_bent(found, far[0, 0].float(), there[0, 0, 0].float())
        return found

    def n_logits(self, normed: Tensor) -> int:
        """Return how many logits the unembedding gives."""
        first = self.head.linear[0].apply(self.model, normed.unsqueeze(0))
        return int(first.shape[-1])


def refuse_bent(
    gradient: Float[Tensor, " d_model"], vector: Float[Tensor, " d_model"], logit: Float[Tensor, ""]
) -> None:
    """Refuse a direction along which the logit does not rise evenly.

    Raises:
        ValueError: at `vector` the logit is not what the gradient says.
    """
    terms = gradient * vector.to(gradient.device)
    if (terms.sum() - logit.to(gradient.device)).abs() <= BENT * terms.abs().sum():
        return
    raise ValueError(
        f"{OWN_ERROR}a token has no direction in the stream of this model: there is an activation "
        "between the stream and the logits. Pass a vector instead of a token."
    )


def pulled_back(
    transport: Transport, gradient: Float[Tensor, " d_model"]
) -> Float[Tensor, " width"]:
    """Return a gradient at the final stream as one at the site before a transport."""
    if not isinstance(transport, Affine):
        return gradient
    with without_autocast(gradient.device):
        moved = transport.weight.to(gradient.device, gradient.dtype).T @ gradient
    return moved + gradient if transport.is_residual else moved
