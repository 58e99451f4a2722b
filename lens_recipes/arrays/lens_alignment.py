"""`LensAlignment`: whether what a lens announces of a change is what the model makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.streams import EMBEDDING, streams_in_words
from lens_recipes.arrays.text import counted
from lens_recipes.terminal import show_lines

# What a stream is pushed along: directions of tokens under the lens, the data's main components,
# the way to the states of other tokens, and random directions.
KINDS = ("tokens", "components", "resampled", "random")
MEANT = KINDS[:-1]  # those that the mean is taken over: a random direction means nothing
MEAN = "mean"
ALIGNED = 0.5  # a cosine from which on a lens is said to be about the model


@dataclass(frozen=True)
class Spread:
    """Means over prompts, and between what a bootstrap over the prompts puts them; `[layer]` each.

    Attributes:
        mean: The means. NaN where nothing was defined.
        low, high: Ends of the 95 % interval.
    """

    mean: list[float]
    low: list[float]
    high: list[float]

    def at(self, rows: Iterable[int]) -> Spread:
        """Return the rows with these numbers."""
        chosen = list(rows)
        return Spread(
            [self.mean[row] for row in chosen],
            [self.low[row] for row in chosen],
            [self.high[row] for row in chosen],
        )


@dataclass(frozen=True)
class LensAlignment:
    """Whether a lens is about the model: what it announces of pushes, beside what they do.

    A push changes the stream after a layer at one token. The lens then announces another
    prediction, and the model makes one. The alignment is the cosine of the two changes, in centred
    log-probabilities, with tokens weighted by how likely the model finds them (Belrose et al. 2023,
    stimulus-response alignment).

    Attributes:
        layers: Which streams were pushed, `[layer]`; `EMBEDDING` is the one before block 0.
        alignment: The cosine, by what was pushed along: "tokens", "components", "resampled",
            "random", and "mean" over the first three.
        control: The same with what the model makes of a random push of the same length instead, in
            place of the push that the lens saw.
        drop: By how many nats the log-probability of the model's answer falls when the lens's
            direction of it is taken out of the stream.
        drop_control: The same for a random direction, of which as much is taken.
        kind, digest: Of the lens; "logit" and empty for the logit lens.
        scale: How long the pushes are, in units of the pushed state's own norm.
        n_stimuli: How many pushes of each kind, at each token.
        n_prompts, n_tokens: Over how many prompts, and at how many tokens of them.
        answer: What is taken out: "model" for the direction of the model's answer, or the number of
            the lens's own top tokens whose directions are.
    """

    layers: list[int]
    alignment: dict[str, Spread]
    control: dict[str, Spread]
    drop: Spread
    drop_control: Spread
    kind: str = "logit"
    digest: str = ""
    scale: float = 0.0
    n_stimuli: int = 0
    n_prompts: int = 0
    n_tokens: int = 0
    answer: str | int = field(default="model")

    # -- what it says --------------------------------------------------

    @property
    def is_silent(self) -> NDArray[np.bool_]:
        """Where the lens announces no change whatever is done to the stream, `[layer]`."""
        return np.isnan(self.alignment[MEAN].mean)

    @property
    def is_beyond_control(self) -> NDArray[np.bool_]:
        """Where the alignment's interval lies above that of the control, `[layer]`."""
        return np.array(self.alignment[MEAN].low) > np.array(self.control[MEAN].high)

    @property
    def is_about_model(self) -> NDArray[np.bool_]:
        """Where the lens announces what the model does: a cosine from 0.5, beyond the control."""
        return self.is_beyond_control & (np.array(self.alignment[MEAN].mean) >= ALIGNED)

    @property
    def drops_beyond_control(self) -> NDArray[np.bool_]:
        """Where taking out the lens's direction costs the answer more than a random one does."""
        return np.array(self.drop.low) > np.array(self.drop_control.high)

    def at(self, layers: Iterable[int]) -> LensAlignment:
        """Return what was measured of some streams, in the order of `layers`; others are left out.

        Args:
            layers: Numbers of blocks; `EMBEDDING` is the stream before block 0.
        """
        rows = [self.layers.index(layer) for layer in layers if layer in self.layers]
        return replace(
            self,
            layers=[self.layers[row] for row in rows],
            alignment={name: spread.at(rows) for name, spread in self.alignment.items()},
            control={name: spread.at(rows) for name, spread in self.control.items()},
            drop=self.drop.at(rows),
            drop_control=self.drop_control.at(rows),
        )

    # -- in words ------------------------------------------------------

    @property
    def measured_on(self) -> str:
        """On what it was measured, such as "16 prompts, pushes of 0.25 of the state"."""
        return f"{counted(self.n_prompts, 'prompt')}, pushes of {self.scale:g} × the state"

    def finding(self, row: int) -> str:
        """Return what may be said of the lens at one of the layers, by its row.

        Example: "about the model: what it announces of a change is what the model does (0.74, with
        random pushes 0.05)".
        """
        if self.is_silent[row]:
            return "announces nothing: what it says does not depend on the stream"
        numbers = (
            f"({self.alignment[MEAN].mean[row]:.2f}, with random pushes "
            f"{self.control[MEAN].mean[row]:.2f})"
        )
        if self.is_about_model[row]:
            return (
                f"about the model: what it announces of a change is what the model does {numbers}"
            )
        if self.is_beyond_control[row]:
            return f"in part about the model: it announces some of what a change does {numbers}"
        return (
            "may be the lens's own knowledge of text: changes do not do what it announces "
            f"{numbers}"
        )

    @property
    def verdict(self) -> str:
        """At which layers the lens is about the model, in a line.

        Example: "about the model at layers 12–28, in part at layers 3–11, not shown to be at layers
        0–2; alignment 0.11 at layer 0, 0.93 at layer 28".
        """
        if not self.layers:
            return "alignment measured at no layer"
        layers = np.array(self.layers)
        about, beyond = self.is_about_model, self.is_beyond_control
        groups = (
            ("about the model at", about),
            ("in part at", beyond & ~about),
            ("not shown to be at", ~beyond),
        )
        words = []
        for name, where in groups:
            if where.any():
                words.append(f"{name} {streams_in_words(layers[where].tolist())}")
        means = self.alignment[MEAN].mean
        ends = [f"alignment {means[0]:.2f} at {streams_in_words(self.layers[:1])}"]
        if len(self.layers) > 1:
            ends.append(f"{means[-1]:.2f} at {streams_in_words(self.layers[-1:])}")
        return f"{', '.join(words)}; {', '.join(ends)}"

    def doubts(self, name: str) -> list[str]:
        """Return where what a lens says may be its own knowledge of text.

        Args:
            name: What the lens is called, such as "linear lens".
        """
        layers = np.array(self.layers)
        doubts = []
        silent = layers[self.is_silent].tolist()
        if silent:
            doubts.append(
                f"at {streams_in_words(silent)} the {name} announces nothing: what it says does "
                "not depend on the stream"
            )
        unproved = layers[~self.is_beyond_control & ~self.is_silent].tolist()
        if unproved:
            doubts.append(
                f"at {streams_in_words(unproved)} what the {name} says may be its own knowledge of "
                "text: changes of the stream do not do what it announces, beyond the control"
            )
        return doubts

    def summary(self) -> str:
        """Return a line for each layer: what may be said of the lens there."""
        lines = [f"measured on {self.measured_on}: {self.verdict}"]
        for row, layer in enumerate(self.layers):
            lines.append(f"{streams_in_words([layer])}: {self.finding(row)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return a table with a row for each layer; "?" marks where the control explains it."""
        names = [*self.alignment]
        widths = [max(len(name), 6) for name in names]
        heading = f"{'layer':>5}"
        for name, width in zip(names, widths, strict=True):
            heading += f"  {name:>{width}}"
        heading += f"  {'interval':>13}  {'control':>7}  {'drop':>6}  {'control':>7}"
        lines = [heading]
        for row, layer in enumerate(self.layers):
            line = f"{'embed' if layer == EMBEDDING else layer:>5}"
            for name, width in zip(names, widths, strict=True):
                line += f"  {two_digits(self.alignment[name].mean[row]):>{width}}"
            low, high = self.alignment[MEAN].low[row], self.alignment[MEAN].high[row]
            line += f"  {f'{two_digits(low)} … {two_digits(high)}':>13}"
            line += f"  {two_digits(self.control[MEAN].mean[row]):>7}"
            line += f"  {two_digits(self.drop.mean[row]):>6}"
            line += f"  {two_digits(self.drop_control.mean[row]):>7}"
            if not self.is_beyond_control[row]:
                line += "  ?"
            lines.append(line)
        lines.append(
            "(cosine of what the lens announces with what the model does, mean over "
            f"{self.measured_on}; interval of the mean over prompts, 95 %; drop of the answer in "
            "nats)"
        )
        return "\n".join(lines)

    def cells(self, layer: int) -> str:
        """Return alignment and control of a layer as the table of a lens's quality has them."""
        if layer not in self.layers:
            return f"  {'':>9}  {'':>7}"
        row = self.layers.index(layer)
        means = two_digits(self.alignment[MEAN].mean[row]), two_digits(self.control[MEAN].mean[row])
        return f"  {means[0]:>9}  {means[1]:>7}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the table in a notebook."""
        show_lines(printer, str(self))

    # -- as JSON -------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it, but for NaN."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> LensAlignment:
        """Return what `to_json` gave; keys of a later version are left out."""
        names = [each.name for each in fields(cls)]
        values = {name: stored[name] for name in names if name in stored}
        for name in ("drop", "drop_control"):
            values[name] = _spread(values[name])
        for name in ("alignment", "control"):
            values[name] = {kind: _spread(spread) for kind, spread in values[name].items()}
        return cls(**values)


def two_digits(number: float) -> str:
    """Return a number with two digits; "–" for none."""
    return "–" if math.isnan(number) else f"{number:.2f}"


def _spread(stored: dict[str, list[Any]]) -> Spread:
    """Return means and intervals as a file has them: null is NaN."""
    columns = {}
    for name in ("mean", "low", "high"):
        columns[name] = [math.nan if value is None else float(value) for value in stored[name]]
    return Spread(**columns)
