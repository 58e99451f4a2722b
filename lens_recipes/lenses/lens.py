"""`Lens`: a transport for the stream after each block, and where it comes from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lens_recipes.arrays.used_lens import EMBEDDING, LENS_NAMES, LensQuality, UsedLens
from lens_recipes.lenses.merge import merged_parts
from lens_recipes.trace.transport import Affine


@dataclass(frozen=True)
class LensRecord:
    """What a lens was fitted on, and how. Whatever a file does not say is None or empty.

    Attributes:
        model, revision: The model's hub id or folder name, and the commit of its weights.
        n_layers: How many blocks the model has.
        unembedding: Digest of the model's unembedding, as `unembedding_digest` makes it.
        tokenizer: Digest of its tokenizer, as `tokenizer_digest` makes it.
        starts_with_bos: Whether each text began with the token for the beginning of a text.
        first_position: Positions before this one were never fitted.
        target_layer: The block whose output the lens maps to; the last one in every lens that can
            be read.
        text: What text it was fitted on, in words.
        n_prompts, n_tokens: How much of it.
        versions: Of the packages that fitted it.
        seed: Of the fit.
        settings: What else the fit was asked for, and what it chose, such as the ridge.
    """

    model: str | None = None
    revision: str | None = None
    n_layers: int | None = None
    unembedding: str | None = None
    tokenizer: str | None = None
    starts_with_bos: bool | None = None
    first_position: int = 0
    target_layer: int | None = None
    text: str = ""
    n_prompts: int | None = None
    n_tokens: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Lens:
    """A set of transports from streams to the final stream before the norm.

    Attributes:
        kind: "linear", "tuned", "jacobian" or "r".
        transports: From the number of a block to the transport of the stream after it; `EMBEDDING`
            (−1) is the stream before block 0.
        record: What it was fitted on, and how.
        quality: How well it transfers, measured on text that it was not fitted on; None where that
            was not measured.
        source: Where it came from: a path, a hub id, or "fitted here".
        sums: What a fit added up, from which fits on other texts can be merged; None where the
            sums were not kept.
    """

    kind: str
    transports: Mapping[int, Affine]
    record: LensRecord = LensRecord()
    quality: LensQuality | None = None
    source: str = "fitted here"
    sums: Mapping[str, Tensor] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What this kind of lens is called."""
        return LENS_NAMES[self.kind]

    @property
    def layers(self) -> list[int]:
        """The streams that it has a transport for, ascending."""
        return sorted(self.transports)

    @property
    def d_model(self) -> int:
        """How wide its vectors are."""
        first = next(iter(self.transports.values()))
        return int(first.weight.shape[1])

    @functools.cached_property
    def digest(self) -> str:
        """What tells the numbers of this lens from those of any other."""
        hashed = hashlib.sha256(self.kind.encode())
        for layer in self.layers:
            weight, bias, is_residual = self.transports[layer]
            hashed.update(f"{layer} {is_residual} {tuple(weight.shape)}".encode())
            hashed.update(number_bytes(weight))
            if bias is not None:
                hashed.update(number_bytes(bias))
        return hashed.hexdigest()[:16]

    @staticmethod
    def merge(lenses: Sequence[Lens]) -> Lens:
        """Return the lens that a fit on the texts of all these lenses would have given.

        It is exact, up to the rounding of sums in float64. How well it transfers is not known
        before `lens_quality` has measured it.

        Args:
            lenses: Fits of one kind ("linear" or "jacobian") on disjoint texts, of one model and
                the same layers, each with its `sums`.

        Raises:
            ValueError: they cannot be merged, or some text is in two of them.

        Example:
            >>> lens = Lens.merge([load_lens(path) for path in paths])
        """
        return Lens(**merged_parts(lenses))

    def used(self) -> UsedLens:
        """Return what a result that was read with it says of it."""
        return UsedLens(
            kind=self.kind,
            source=self.source,
            digest=self.digest,
            layers=self.layers,
            first_position=self.record.first_position,
            quality=self.quality,
        )


def number_bytes(numbers: Tensor) -> bytes:
    """Return the bytes of a tensor's numbers, in its own dtype."""
    return numbers.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


__all__ = ["EMBEDDING", "Lens", "LensRecord"]
