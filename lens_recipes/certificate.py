"""`Certificate`: the proof that a lens was read right, and what to say when it was not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import LensError

# How far the last layer's lens may be from the model's own logits, relative to the largest of them: the two are the
# same modules on the same vectors, so only the order of additions and the rounding of the dtype may differ.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Certificate:
    """The last layer's lens, through norm and unembedding, against the logits the model itself gave in that run."""

    max_logit_error: float
    max_abs_logit: float
    max_kl: float
    top1_agreement: float
    tokens: int
    dtype: str

    @property
    def tolerance(self) -> float:
        """The largest logit error that rounding in this dtype explains."""
        return TOLERANCE.get(self.dtype, TOLERANCE["bfloat16"]) * max(self.max_abs_logit, 1e-3)

    @property
    def passed(self) -> bool:
        """Whether the lens is wired right. (A NaN anywhere fails.)"""
        return self.max_logit_error <= self.tolerance

    def __str__(self) -> str:
        verdict = "certified" if self.passed else "NOT CERTIFIED"
        return (
            f"{verdict}: last-layer lens vs the model's own logits on {self.tokens} "
            f"token{'' if self.tokens == 1 else 's'}: largest difference "
            f"{self.max_logit_error:.2g} (tolerance {self.tolerance:.2g}), KL {self.max_kl:.2g} nats, "
            f"same top-1 {self.top1_agreement:.1%} ({self.dtype})"
        )

    def check(self) -> None:
        """Raise a LensError with the numbers and the likely cause unless `passed`."""
        if self.passed:
            return
        if math.isnan(self.max_logit_error):
            cause = "there are NaNs in the logits; look for overflow in half precision or broken weights"
        elif self.top1_agreement > 0.99:
            cause = (
                "the order of the tokens is right but not the numbers: a logit scale or softcap after the "
                "unembedding or the final norm's scale was missed, or the products run in reduced precision (TF32)"
            )
        elif self.max_kl > 0.1:
            cause = "the final norm was missed or applied twice, or this is not the last block's output"
        else:
            cause = "what happens between the last block and the logits was not read right"
        raise LensError(
            f"{self}. The lens does not reproduce this model, so its layers cannot be trusted. Likely cause: {cause}. "
            "strict=False keeps the result, marked as not certified."
        )
