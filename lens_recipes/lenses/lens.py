"""`Lens`: a transport for the stream after each block, and where it comes from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.lens_alignment import LensAlignment
from lens_recipes.arrays.used_lens import EMBEDDING, LENS_NAMES, LensQuality, UsedLens
from lens_recipes.errors import LensError
from lens_recipes.lenses.files.checks import check_made_up, is_finite
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.writing import write_lens
from lens_recipes.lenses.merge import merged_parts
from lens_recipes.lenses.record import LensRecord
from lens_recipes.models.weights.origin import shown_name
from lens_recipes.trace.transport import Affine

Told = TypeVar("Told")


@dataclass(frozen=True, eq=False, repr=False)
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
        location: The path that it can be loaded from again; empty where it is in memory alone.
        sums: What a fit added up, from which fits on other texts can be merged; None where the
            sums were not kept.
    """

    kind: str
    transports: Mapping[int, Affine]
    record: LensRecord = field(default_factory=LensRecord)
    quality: LensQuality | None = None
    source: str = "fitted here"
    location: str = field(default="", repr=False)
    sums: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no lens, whoever made it up.

        Raises:
            ValueError: an unknown kind, or transports that are none, by their shapes and dtypes.
        """
        check_made_up(self.kind, self.transports)
        object.__setattr__(self, "transports", dict(self.transports))

    def __repr__(self) -> str:
        """Return what it is in a line, without its numbers."""
        of = f" of {self.record.model}" if self.record.model else ""
        return f"<{self.name}{of}: {len(self.layers)} streams, {self.source}, {self.digest}>"

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

    @property
    def not_finite(self) -> list[int]:
        """The streams whose transport holds NaN or infinite numbers, ascending."""
        return self._told_of_numbers("not_finite", self._find_not_finite)

    @property
    def digest(self) -> str:
        """What tells the numbers of this lens from those of any other."""
        return self._told_of_numbers("digest", self._make_digest)

    def _find_not_finite(self) -> list[int]:
        """Return the streams whose transport holds NaN or infinite numbers, ascending."""
        return [layer for layer in self.layers if not is_finite(self.transports[layer])]

    def _make_digest(self) -> str:
        """Return the digest of the numbers."""
        hashed = hashlib.sha256(self.kind.encode())
        for layer in self.layers:
            weight, bias, is_residual = self.transports[layer]
            hashed.update(f"{layer} {is_residual} {tuple(weight.shape)}".encode())
            hashed.update(number_bytes(weight))
            if bias is not None:
                hashed.update(number_bytes(bias))
        return hashed.hexdigest()[:16]

    def _told_of_numbers(self, name: str, tell: Callable[[], Told]) -> Told:
        """Return what is told of all numbers; again only where one was changed in place since."""
        mark = [version_of(each) for layer in self.layers for each in self.transports[layer][:2]]
        known = self.__dict__.get(f"_{name}")
        if known is None or known[0] != mark:
            known = mark, tell()
            self.__dict__[f"_{name}"] = known
        return known[1]

    @staticmethod
    def merge(lenses: Iterable[Lens]) -> Lens:
        """Return the lens that a fit on the texts of all these lenses would have given.

        It is exact, up to the rounding of the sums, which come in float32 from each batch and are
        added up in float64. How well it transfers is not known before `lens_quality` has measured
        it: `merged.with_quality(lens_quality(merged, model))`.

        Args:
            lenses: Fits of one kind ("linear" or "jacobian") on disjoint texts, of one model and
                the same layers, each with its `sums`. An iterator that loads one after another
                keeps memory small.

        Raises:
            ValueError: they cannot be merged, or some text is in two of them.

        Example:
            >>> lens = Lens.merge([load_lens(path) for path in paths])
        """
        return Lens(**merged_parts(lenses))

    def with_quality(self, quality: LensQuality) -> Lens:
        """Return this lens with what `lens_quality` has measured, which its results then say."""
        return replace(self, quality=quality)

    def with_alignment(self, alignment: LensAlignment) -> Lens:
        """Return this lens with what `lens_alignment` has measured, beside its quality.

        Raises:
            ValueError: it was measured of another lens, or the quality of this one is not known.

        Example:
            >>> lens = lens.with_alignment(lens_alignment(lens, model, prompts))
            >>> lens.save("lens.safetensors")
        """
        if alignment.digest != self.digest:
            raise ValueError(
                f"this alignment is that of a {LENS_NAMES.get(alignment.kind, 'lens')} with the "
                f"digest {alignment.digest!r}, and this {self.name} has {self.digest!r}: measure "
                "lens_alignment of this one."
            )
        if self.quality is None:
            raise ValueError(
                f"how near this {self.name} comes to the model was not measured: begin with "
                "lens.with_quality(lens_quality(lens, model)), which its alignment stands beside."
            )
        return self.with_quality(self.quality.with_alignment(alignment))

    def used(self) -> UsedLens:
        """Return what a result that was read with it says of it: nothing of this machine."""
        return UsedLens(
            kind=self.kind,
            source=shown_name(self.source),
            digest=self.digest,
            layers=self.layers,
            first_position=self.record.first_position,
            quality=self.quality,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        sums: bool = False,
        dtype: torch.dtype | None = None,
        model: Envoy | None = None,
    ) -> None:
        """Write the lens to a file: complete or not at all.

        Args:
            path: The file, or for "tuned" the folder.
            format: None for our own format, one `.safetensors` file with all that is known of the
                lens. "jacobian" for what the reference implementation of Jacobian lenses and
                TransformerLens read; it has no place for biases, nor for the stream before block 0.
                "tuned" for a folder that the package tuned-lens reads; streams without a transport
                get one of zeros there, which reads as the logit lens.
            sums: Whether to keep what the fit added up as well, so that it can be merged with
                others. Only in our own format.
            dtype: Of the numbers of a "jacobian" file; None for float16, as the reference writes.
            model: For "tuned", the model that the lens is of: tuned-lens compares its unembedding.

        Raises:
            LensError: the format cannot hold this lens, its numbers are not finite, or the file
                cannot be written.
            ValueError: an unknown format, an option that it does not have, or a name in our own
                format that does not end in `.safetensors`.

        Example:
            >>> lens.save("lens.safetensors")
            >>> lens.save("lens.pt", format="jacobian")
        """
        if self.not_finite:
            raise LensError(
                f"the transports of layers {self.not_finite} hold NaN or infinite numbers, which "
                "no reader takes: nothing is saved."
            )
        if sums and self.sums is None:
            raise ValueError(
                "this lens has no sums to save: they are there when it was fitted here, or merged"
            )
        kept = self.sums if sums else None
        write_lens(path, self.content, format=format, sums=kept, dtype=dtype, model=model)

    @property
    def content(self) -> LensContent:
        """What a file holds of it, beside its sums."""
        return LensContent(self.kind, self.transports, self.record, self.quality, self.digest)


def version_of(numbers: Tensor | None) -> tuple[int, int]:
    """Return what is another where numbers are others, or were changed in place."""
    if numbers is None or numbers.is_inference():  # which is not changed outside inference mode
        return id(numbers), 0
    return id(numbers), numbers._version


def number_bytes(numbers: Tensor) -> bytes:
    """Return the bytes of a tensor's numbers, in its own dtype."""
    return numbers.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


__all__ = ["EMBEDDING", "Lens", "LensRecord"]
