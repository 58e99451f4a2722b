"""`Certificate`: the proof that a lens was read right, and what to say when it was not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lens_recipes.errors import LensError

# How far the last layer's lens may be from the model's own logits, relative to the largest of them: the two are the
# same modules on the same vectors, so only the order of additions and the rounding of the dtype may differ.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}

# The same for sums of parts, which are made in float32 of what the model rounded: of one block, and over all layers,
# where the stream was rounded after each addition.
BLOCK = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}

TOTAL = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def _within(error: float | None, tolerance: dict[str, float], dtype: str) -> bool:
    """Whether a relative error is one of rounding, or was not measured. (A NaN is not.)"""
    return error is None or error <= tolerance.get(dtype, tolerance["bfloat16"])


@dataclass(frozen=True)
class Certificate:
    """The last layer's lens, through norm and unembedding, against the logits the model itself gave in that run.

    Where parts of the stream were read, also the largest relative errors of the sums, number by number and of all that
    was added up: `max_block_error` of stream before + what the block adds = stream after,
    `max_total_error` of embedding + all that was added = the stream; and, of the largest number, `max_head_error` of
    heads + bias = attention and `max_sum_error` of the parts of a logit = the logit. None where nothing was added up.
    Both sides of each sum are measured.
    """

    max_logit_error: float
    max_abs_logit: float
    max_kl: float
    top1_agreement: float
    tokens: int
    dtype: str
    max_block_error: float | None = None
    max_total_error: float | None = None
    max_head_error: float | None = None
    max_sum_error: float | None = None

    @property
    def tolerance(self) -> float:
        """The largest logit error that rounding in this dtype explains."""
        return TOLERANCE.get(self.dtype, TOLERANCE["bfloat16"]) * max(self.max_abs_logit, 1e-3)

    @property
    def passed(self) -> bool:
        """Whether the lens is wired right, and the parts add up. (A NaN anywhere fails.)"""
        return self.max_logit_error <= self.tolerance and self.additive

    @property
    def additive(self) -> bool:
        """Whether the parts that were read sum to the stream, as far as rounding in this dtype lets them."""
        return self._sums_to_stream and _within(self.max_sum_error, TOTAL, self.dtype)

    @property
    def _sums_to_stream(self) -> bool:
        totals = (self.max_total_error, self.max_head_error)
        block = _within(self.max_block_error, BLOCK, self.dtype)
        return block and all(_within(error, TOTAL, self.dtype) for error in totals)

    def __str__(self) -> str:
        verdict = "certified" if self.passed else "NOT CERTIFIED"
        return (
            f"{verdict}: last-layer lens vs the model's own logits on {self.tokens} "
            f"token{'' if self.tokens == 1 else 's'}: largest difference "
            f"{self.max_logit_error:.2g} (tolerance {self.tolerance:.2g}), KL {self.max_kl:.2g} nats, "
            f"same top-1 {self.top1_agreement:.1%} ({self.dtype}){self._sums}"
        )

    @property
    def _sums(self) -> str:
        """The errors of the sums, in words."""
        named = {
            "blocks": self.max_block_error,
            "total": self.max_total_error,
            "heads": self.max_head_error,
            "logit": self.max_sum_error,
        }
        found = ", ".join(
            f"{name} {error:.1g}" for name, error in named.items() if error is not None
        )
        return f"; sums of parts, largest relative error: {found}" if found else ""

    def check(self) -> None:
        """Raise a LensError with the numbers and the likely cause unless `passed`."""
        if self.passed:
            return
        if (
            self.max_logit_error <= self.tolerance
            and self.max_sum_error is not None
            and self._sums_to_stream
        ):
            cause = (
                "something between the stream and the logits is not linear even when the norms are frozen (an "
                "activation in the model's head), so a logit has no parts"
            )
        elif self.max_logit_error <= self.tolerance:
            cause = (
                "what the blocks add does not sum to the stream, so a part was missed or read at the wrong place, or "
                "something (a hook, an adapter) changes the stream between the parts"
            )
        elif math.isnan(self.max_logit_error):
            cause = "there are NaNs in the logits; look for overflow in half precision or broken weights"
        elif self.top1_agreement > 0.99:
            cause = (
                "the order of the tokens is right but not the numbers: a logit scale or softcap after the "
                "unembedding or the final norm's scale was missed, or the products run in reduced precision (TF32)"
            )
        elif self.max_kl > 0.1:
            cause = (
                "the final norm was missed or applied twice, or this is not the last block's output"
            )
        else:
            cause = "what happens between the last block and the logits was not read right"
        summed = self.max_logit_error <= self.tolerance
        wrong = "Its parts" if summed else "The lens does not reproduce this model, so its layers"
        raise LensError(
            f"{self}. {wrong} cannot be trusted. Likely cause: {cause}. "
            "strict=False keeps the result, marked as not certified."
        )
