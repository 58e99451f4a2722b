"""Which lens a result was read with, and how well that lens was measured to transfer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens_alignment import LensAlignment
from lens_recipes.arrays.stored_alignment import read_alignment
from lens_recipes.arrays.streams import EMBEDDING as EMBEDDING
from lens_recipes.arrays.streams import streams_in_words as streams_in_words
from lens_recipes.arrays.text import counted, legible_line
from lens_recipes.terminal import show_lines

# A refit moves a lens much where two fits on halves of the text differ by more than this share of
# its distance to the output, and by more nats than one would look at.
MUCH = 0.25
MUCH_NATS = 0.05

FEW_TOKENS = 32  # of fewer a mean says little: single tokens are nats apart

SOURCE_LETTERS = 60  # of where a lens came from, and of the name of a text, in a sentence

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
        alignment: Whether what the lens announces of a change is what the model makes of it; None
            where `lens_alignment` did not measure that.
    """

    layers: list[int]
    kl: list[float]
    agreement: list[float]
    logit_kl: list[float]
    logit_agreement: list[float]
    refit_kl: list[list[float]] = field(default_factory=list)
    n_tokens: int = 0
    text: str = ""
    alignment: LensAlignment | None = None

    @property
    def is_better(self) -> NDArray[np.bool_]:
        """Where the lens is nearer to the model's output than the logit lens, `[layer]`."""
        return np.array(self.kl) < np.array(self.logit_kl)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """Where two fits on halves of the text differ much, `[layer]`; False where none was made.

        That is: their KL differs by more than a quarter of `kl`, and by more than 0.05 nats.
        """
        if len(self.refit_kl) < 2:
            return np.zeros(len(self.layers), dtype=bool)
        with np.errstate(invalid="ignore"):  # between two infinities
            distance = np.ptp(np.array(self.refit_kl), axis=0)
        return (distance > MUCH * np.array(self.kl)) & (distance > MUCH_NATS)

    def at(self, layers: Iterable[int]) -> LensQuality:
        """Return what was measured of some streams, in the order of `layers`; others are left out.

        Args:
            layers: Numbers of blocks; `EMBEDDING` is the stream before block 0.
        """
        layers = list(layers)
        rows = [self.layers.index(layer) for layer in layers if layer in self.layers]
        alignment = None if self.alignment is None else self.alignment.at(layers)

        def chosen(numbers: list[Any]) -> list[Any]:
            """Return the numbers of these streams."""
            return [numbers[row] for row in rows]

        return replace(
            self,
            layers=chosen(self.layers),
            kl=chosen(self.kl),
            agreement=chosen(self.agreement),
            logit_kl=chosen(self.logit_kl),
            logit_agreement=chosen(self.logit_agreement),
            refit_kl=[chosen(half) for half in self.refit_kl],
            alignment=alignment,
        )

    def with_alignment(self, alignment: LensAlignment) -> LensQuality:
        """Return this with what `lens_alignment` has measured."""
        return replace(self, alignment=alignment)

    # -- in words ------------------------------------------------------

    @property
    def measured_on(self) -> str:
        """On what it was measured, such as "256 tokens of WikiText", or "256 held-out tokens"."""
        if not self.text:
            return counted(self.n_tokens, "held-out token") if self.n_tokens else "held-out text"
        text = _end_of(self.text)
        return f"{counted(self.n_tokens, 'token')} of {text}" if self.n_tokens else text

    @property
    def verdict(self) -> str:
        """How it compares with the logit lens, and how far it is from the output at both ends.

        Example: "better than the logit lens at all 27 layers; mean KL to the output 2.8 nats at
        layer 0, 0.4 at layer 26".
        """
        n_layers, n_better = len(self.layers), int(self.is_better.sum())
        if n_layers == 0:
            return "measured at no layer"
        if n_better < n_layers:
            better = f"better than the logit lens at {n_better} of {n_layers} layers"
        elif n_layers == 1:
            better = f"better than the logit lens at {streams_in_words(self.layers)}"
        else:
            better = f"better than the logit lens at all {n_layers} layers"
        first, last = (streams_in_words([self.layers[end]]) for end in (0, -1))
        distance = f"mean KL to the output {self.kl[0]:.2g} nats at {first}"
        if n_layers > 1:
            distance += f", {self.kl[-1]:.2g} at {last}"
        return f"{better}; {distance}"

    def doubts(self, name: str) -> list[str]:
        """Return the reasons to distrust a lens at these layers, the gravest first.

        Args:
            name: What the lens is called, such as "linear lens".
        """
        doubts = []
        if 0 < self.n_tokens < FEW_TOKENS and self.layers:
            doubts.append(
                f"the {name} was measured on {counted(self.n_tokens, 'token')} only, which says "
                f"little: at least {FEW_TOKENS} are needed"
            )
        layers = np.array(self.layers)
        worse = layers[~self.is_better].tolist()
        if worse:
            doubts.append(
                f"at {streams_in_words(worse)} the {name} is measured to be no nearer to the "
                "model's output than the logit lens"
            )
        moved = layers[self.moves].tolist()
        if moved:
            doubts.append(
                f"at {streams_in_words(moved)} two fits of the {name} on halves of the text differ "
                f"by more than {MUCH:.0%} of its KL to the output: more text would move it"
            )
        if self.alignment is not None:
            doubts += self.alignment.doubts(name)
        return doubts

    def summary(self) -> str:
        """Return a few lines: on what it was measured, how it compares, what to distrust."""
        lines = [f"measured on {self.measured_on}: {self.verdict}"]
        if self.alignment is not None:
            lines.append(f"pushed on {self.alignment.measured_on}: {self.alignment.verdict}")
        lines += [f"distrust: {doubt}" for doubt in self.doubts("lens")]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return a table with a row for each layer; "worse" marks where no lens is better."""
        heading = f"{'layer':>5}  {'KL':>7}  {'logit lens':>10}  {'top-1':>5}  {'logit lens':>10}"
        with_refit = len(self.refit_kl) > 0
        if with_refit:
            heading += f"  {'KL of refits':>12}"
        if self.alignment is not None:
            heading += f"  {'alignment':>9}  {'control':>7}"
        lines = [heading]
        for row, layer in enumerate(self.layers):
            name = "embed" if layer == EMBEDDING else str(layer)
            line = (
                f"{name:>5}  {self.kl[row]:>7.3f}  {self.logit_kl[row]:>10.3f}  "
                f"{self.agreement[row]:>5.0%}  {self.logit_agreement[row]:>10.0%}"
            )
            if with_refit:
                refits = ", ".join(f"{half[row]:.3f}" for half in self.refit_kl)
                line += f"  {refits:>12}"
            if self.alignment is not None:
                line += self.alignment.cells(layer)
            if not self.is_better[row]:
                line += "  worse"
            lines.append(line)
        lines.append(f"(mean KL(model's own output ‖ lens) in nats, on {self.measured_on})")
        if self.alignment is not None:
            lines.append(
                "(alignment: cosine of what the lens announces of a change with what the model "
                f"does, on {self.alignment.measured_on})"
            )
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the table in a notebook."""
        show_lines(printer, str(self))

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
    def is_logit(self) -> bool:
        """Whether it is the logit lens, which was not fitted on anything."""
        return self.kind == "logit"

    @property
    def name(self) -> str:
        """What it is called in titles and sentences."""
        return LENS_NAMES[self.kind]

    @property
    def named(self) -> str:
        """Its name, where it came from and its digest: "linear lens (lens.safetensors, 3f2a…)"."""
        origin = [_end_of(self.source)] if self.source else []
        if self.digest:
            origin.append(f"{legible_line(self.digest)[:8]}…")
        return f"{self.name} ({', '.join(origin)})" if origin else self.name

    def to_json(self) -> dict[str, Any]:
        """Return it as a result's provenance holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> UsedLens:
        """Return what `to_json` gave; keys of a later version are left out."""
        values = _known_fields(cls, stored)
        if values.get("quality") is not None:
            quality = _known_fields(LensQuality, values["quality"])
            for name in ("kl", "logit_kl"):
                quality[name] = _distances(quality[name])
            quality["refit_kl"] = [_distances(half) for half in quality.get("refit_kl", [])]
            quality["alignment"] = read_alignment(quality.get("alignment"))
            values["quality"] = LensQuality(**quality)
        return cls(**values)


def _distances(stored: list[Any]) -> list[float]:
    """Return distances as a file or a run has them: null is NaN, and an infinity a text."""
    return [math.nan if distance is None else float(distance) for distance in stored]


def _known_fields(dataclass_type: type[Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return what is stored of the fields that a dataclass has."""
    names = [each.name for each in fields(dataclass_type)]
    return {name: stored[name] for name in names if name in stored}


LOGIT_LENS = UsedLens()


def used_lens(provenance: dict[str, Any]) -> UsedLens:
    """Return the lens that a result's provenance names; the logit lens where it names none."""
    stored = provenance.get("lens")
    return UsedLens.from_json(stored) if stored else LOGIT_LENS


def _end_of(text: str) -> str:
    """Return the end of a text on one line: of a path, its name; what has no look is visible."""
    shown = legible_line(text[-SOURCE_LETTERS - 1 :])
    return shown if len(shown) <= SOURCE_LETTERS else f"…{shown[1 - SOURCE_LETTERS :]}"
