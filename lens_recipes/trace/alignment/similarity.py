"""How alike two changes of a prediction are: the cosine between changes of log-probabilities.

A constant on all logits changes no prediction, so changes are centred (Aitchison geometry). Tokens
are weighted by how likely the model finds them: what happens among tokens that it would never say
changes nothing that it says. For small changes the squared length is then twice the KL.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Changes:
    """Changes of logits, centred under a weight for each token.

    Attributes:
        centred: `[row, vocab]`, times the root of the weights.
        length: `[row]`, in nats.
        is_silent: Where the change is no larger than rounding makes it, `[row]`.
    """

    def __init__(
        self,
        logits: Float[Tensor, "row vocab"],
        before: Float[Tensor, "row vocab"],
        weights: Float[Tensor, "row vocab"],
        eps: float,
    ) -> None:
        """Take the difference of two readings.

        Args:
            logits: After the change.
            before: Before it.
            weights: Of the tokens; those of a row sum to 1.
            eps: How finely numbers are rounded where the logits were made.
        """
        # A token that is ruled out before and after has not changed.
        change = torch.where(logits == before, 0.0, logits - before)
        mean = (change * weights).sum(-1, keepdim=True)
        self.centred = (change - mean) * weights.sqrt()
        self.length = self.centred.norm(dim=-1)
        size = before.masked_fill(before.isinf(), 0.0).abs().amax(-1)
        self.is_silent = self.length <= 4 * eps * size

    def cosines(self, other: Changes, places: Tensor | None = None) -> Float[Tensor, " row"]:
        """Return the cosine of each change with another one.

        NaN where this change is silent, which has no direction; 0 where only the other one is.

        Args:
            other: Changes under the same weights.
            places: Which change of the other is meant, `[row]`; None for that of the same row.
        """
        centred, length, is_silent = other.centred, other.length, other.is_silent
        if places is not None:
            centred, length, is_silent = centred[places], length[places], is_silent[places]
        products = (self.centred * centred).sum(-1)
        cosines = products / (self.length * length).clamp(min=1e-30)
        cosines = cosines.clamp(-1, 1).masked_fill(is_silent, 0.0)
        return torch.where(self.is_silent, float("nan"), cosines)
