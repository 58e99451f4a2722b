"""Which lens a result was read with, and how well that lens was measured to transfer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMBEDDING = -1  # in place of a layer: the stream before block 0

# What each kind of lens is called.
LENS_NAMES = {
    "logit": "logit lens",
    "linear": "linear lens",
    "tuned": "tuned lens",
    "jacobian": "Jacobian lens",
    "r": "R-lens",
}


@dataclass(frozen=True)
class LensQuality:
    """How far a lens can be believed at each layer, measured on text that it was not fitted on.

    Attributes:
        layers: Which streams were measured, `[layer]`: the stream after each of these blocks;
            `EMBEDDING` is the one before block 0.
        kl: Mean KL(model's own output ‖ lens), `[layer]`, in nats.
        agreement: Share of tokens at which the lens's top-1 is the model's, `[layer]`.
        logit_kl, logit_agreement: The same of the logit lens on the same tokens.
        refit_kl: `kl` of two lenses that were fitted on halves of the text, `[half][layer]`; empty
            where that was not measured. Their distance says how far a refit moves the lens.
        n_tokens: On how many tokens.
        text: What text that was, in words.
    """

    layers: list[int]
    kl: list[float]
    agreement: list[float]
    logit_kl: list[float]
    logit_agreement: list[float]
    refit_kl: list[list[float]] = field(default_factory=list)
    n_tokens: int = 0
    text: str = ""

    @property
    def is_better(self) -> NDArray[np.bool_]:
        """Where the lens is nearer to the model's output than the logit lens, `[layer]`."""
        return np.array(self.kl) < np.array(self.logit_kl)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class UsedLens:
    """The lens that a result was read with.

    Attributes:
        kind: "logit", "linear", "tuned", "jacobian" or "r".
        source: Where it came from: a path, a hub id, or "fitted here"; empty for the logit lens.
        digest: What tells its numbers from those of any other lens; empty for the logit lens.
        layers: The streams that it has a transport for.
        first_position: Positions before this one were never fitted.
        quality: How well it was measured to transfer, or None.
    """

    kind: str = "logit"
    source: str = ""
    digest: str = ""
    layers: list[int] = field(default_factory=list)
    first_position: int = 0
    quality: LensQuality | None = None

    @property
    def name(self) -> str:
        """What it is called in titles and sentences."""
        return LENS_NAMES[self.kind]

    def to_json(self) -> dict[str, Any]:
        """Return it as a result's provenance holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> UsedLens:
        """Return what `to_json` gave."""
        quality = stored.get("quality")
        return cls(**{**stored, "quality": LensQuality(**quality) if quality else None})


LOGIT_LENS = UsedLens()


def used_lens(provenance: dict[str, Any]) -> UsedLens:
    """Return the lens that a result's provenance names; the logit lens where it names none."""
    stored = provenance.get("lens")
    return UsedLens.from_json(stored) if stored else LOGIT_LENS
