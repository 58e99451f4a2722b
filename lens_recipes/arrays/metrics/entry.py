"""`Metric`: what every view needs to know about one metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors

Values = NDArray[np.floating[Any]]


class Limits(NamedTuple):
    """The range that a metric can have; None for an end that depends on the data."""

    low: float | None = None
    high: float | None = None


def no_limits(vocab: int) -> Limits:
    """Return the limits of a metric that can be any number."""
    return Limits()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What every view needs to know about one metric.

    Attributes:
        name: What a caller passes as `metric`, and the column of a table for other programs.
        title: What sentences, titles and axes call it.
        unit: "nats", or empty.
        heading: Its column in a table; empty where tables leave it out.
        about: Which `of` it takes. "top": any token, or None for the site's own top-1. "token": any
            token. "next": the prompt's next token alone. "pair": two targets. "all": none, it is
            about the whole distribution.
        source: The array of `LensArrays` that holds it, `[site, token]`, if a recipe measures it.
            Else the function that computes it. The function takes the `TokenNumbers` of a token;
            for "pair" the result and the two targets; for "all" the result.
        needs_rank: Whether it needs a token's rank, which is not known of tracked tokens.
        needs_run: Whether it compares with a run of the model. Vectors have none.
        better: Which values are better or more certain; "neither" where zero is the middle.
        scale: The colour scale for plotly, a name or a list of points, from small numbers to large
            ones. All are for the colour-blind too, and a sequential one is bright at its end.
        logarithmic: Whether it is drawn and subtracted as log10(value + 1), the top at the top.
        limits: The range that it can have, for a size of the vocabulary. If it is `logarithmic`,
            the range of −log10(value + 1).
        axis: How far an axis of values reaches: over the "whole" range, so that figures can be
            compared; "from zero", since without it a small change looks like a large one; or as far
            as the "data".
        axis_note: What an axis says beside the title, in place of the unit: how to read it.
        across_layers: Whether the numbers of different layers can be compared. (`logit_diff` says
            why logits cannot.)
        number_format: How a number is written in a sentence.
        in_shell: Whether the command `logit-lens` offers it.
    """

    name: str
    title: str
    unit: str = ""
    heading: str = ""
    about: Literal["top", "token", "next", "pair", "all"]
    source: str | Callable[..., Values]
    needs_rank: bool = False
    needs_run: bool = False
    better: Literal["high", "low", "neither"]
    scale: str | list[list[Any]]
    logarithmic: bool = False
    limits: Callable[[int], Limits] = no_limits
    axis: Literal["whole", "from zero", "data"] = "data"
    axis_note: str = ""
    across_layers: bool = True
    number_format: str = ".4g"
    in_shell: bool = False

    @property
    def array(self) -> str:
        """Return the array of `LensArrays` that holds it; empty if it is computed."""
        if isinstance(self.source, str):
            return self.source
        return ""

    @property
    def label(self) -> str:
        """Return the title with the unit."""
        return _with_note(self.title, self.unit)

    @property
    def axis_title(self) -> str:
        """Return the title of an axis of values, with the unit or how to read it."""
        return _with_note(self.title, self.axis_note or self.unit)

    @property
    def two_sided(self) -> bool:
        """Return whether zero is a middle rather than an end."""
        return self.better == "neither"

    @property
    def colors(self) -> Any:
        """Return the colour scale as it is drawn, with the better end bright."""
        # What is drawn as −log10(value + 1) is bright for small values already.
        if self.better == "low" and not self.logarithmic:
            return f"{self.scale}_r"
        return self.scale

    @property
    def follows_tokens(self) -> bool:
        """Return whether it is about single tokens, which can be followed from layer to layer."""
        return self.about in ("top", "token", "pair")

    def fits(self, result: LensArrays) -> bool:
        """Return whether a result has numbers for it."""
        return not (self.needs_run and are_vectors(result.sites))

    def format_value(self, value: float) -> str:
        """Return one value as a sentence writes it, without the unit."""
        return format(value, self.number_format)


def _with_note(title: str, note: str) -> str:
    """Return a title with a note in brackets, if there is one."""
    if note:
        return f"{title} ({note})"
    return title
