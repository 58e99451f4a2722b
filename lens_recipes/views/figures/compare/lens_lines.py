"""What a figure of lenses draws: the lenses under their names, and a line of numbers for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens_alignment import LensAlignment
from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.views.figures.base.style import COLORS, DASHES, MARKERS

LOGIT_COLOR = "#666666"
LOGIT_DASHES = ("dash", "dot", "dashdot", "longdash")


class Measured(NamedTuple):
    """A lens, and what was measured of it."""

    name: str
    quality: LensQuality


class Line(NamedTuple):
    """What both panels draw of one lens.

    Attributes:
        name: What the legend calls it.
        layers: Numbers of blocks; `EMBEDDING` is the stream before block 0.
        kl: In nats, `[layer]`.
        agreement: Shares, `[layer]`.
        refit_kl: Of fits on halves of the text, `[fit, layer]`; without rows for none.
        look: Colour and dash of the line.
        marker: Of its points.
        alignment: Whether the lens is about the model; None where that was not measured.
    """

    name: str
    layers: list[int]
    kl: NDArray[np.float64]
    agreement: NDArray[np.float64]
    refit_kl: NDArray[np.float64]
    look: dict[str, Any]
    marker: dict[str, Any]
    alignment: LensAlignment | None = None


def measured_lens(lens: Any) -> Measured:
    """Return what was measured of a lens.

    Raises:
        TypeError: it is no lens, no measurement and no result.
        ValueError: it was not measured.
    """
    if isinstance(lens, LensQuality):
        return Measured("lens", lens)
    used = getattr(lens, "lens", lens)  # of a result, the lens that it was read with
    if not hasattr(used, "quality") or not hasattr(used, "name"):
        raise TypeError(
            f"received {type(lens).__name__}, expected a lens, what lens_quality() returns, or a "
            "result that was read with a lens."
        )
    if getattr(used, "is_logit", False):
        raise ValueError(
            "the logit lens was not fitted, so nothing was measured of it: its line is beside that "
            "of every other lens. Pass a lens, or a result that was read with one."
        )
    if used.quality is None:
        raise ValueError(
            f"this {used.name} was not measured: run lens_quality(lens, model, texts), and pass "
            "what it returns."
        )
    return Measured(used.name, used.quality)


def name_all(measured: list[Measured], names: Sequence[str] | None) -> list[Measured]:
    """Return the lenses under different names: the caller's, or their kinds, numbered.

    Raises:
        ValueError: there are no lenses, or not a name for each.
    """
    if not measured:
        raise ValueError("there is nothing to draw: pass a lens, or what lens_quality() returns.")
    if names is not None:
        wanted = [names] if isinstance(names, str) else list(names)
        if len(wanted) != len(measured) or len(set(wanted)) != len(wanted):
            raise ValueError(
                f"names={names!r} must be {len(measured)} different texts, one for each lens."
            )
        named = []
        for name, each in zip(wanted, measured, strict=True):
            named.append(Measured(str(name), each.quality))
        return named
    kinds = [each.name for each in measured]
    named = []
    for number, each in enumerate(measured):
        name = each.name
        if kinds.count(name) > 1:
            name = f"{name} {kinds[: number + 1].count(name)}"
        named.append(Measured(name, each.quality))
    return named


def lens_lines(measured: list[Measured]) -> list[Line]:
    """Return a line for each lens."""
    lines = []
    for number, (name, quality) in enumerate(measured):
        look = {
            "color": COLORS[number % len(COLORS)],
            "width": 2,
            "dash": DASHES[number // len(COLORS) % len(DASHES)],
        }
        marker = {"size": 6, "symbol": MARKERS[number % len(MARKERS)]}
        lines.append(
            Line(
                name=name,
                layers=quality.layers,
                kl=_numbers(quality.kl),
                agreement=_numbers(quality.agreement),
                refit_kl=_numbers(quality.refit_kl).reshape(-1, len(quality.layers)),
                look=look,
                marker=marker,
                alignment=quality.alignment,
            )
        )
    return lines


def logit_lines(measured: list[Measured]) -> list[Line]:
    """Return a line of the logit lens for each text that lenses were measured on."""
    lines: list[Line] = []
    seen = []
    for _, quality in measured:
        numbers = (quality.layers, quality.logit_kl, quality.logit_agreement)
        if numbers in seen:
            continue
        seen.append(numbers)
        name = "logit lens" if len(seen) == 1 else f"logit lens {len(seen)}"
        dash = LOGIT_DASHES[(len(seen) - 1) % len(LOGIT_DASHES)]
        lines.append(
            Line(
                name=name,
                layers=quality.layers,
                kl=_numbers(quality.logit_kl),
                agreement=_numbers(quality.logit_agreement),
                refit_kl=np.empty((0, len(quality.layers))),
                look={"color": LOGIT_COLOR, "width": 2, "dash": dash},
                marker={"size": 4, "symbol": "circle-open"},
            )
        )
    return lines


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return numbers of a quality as an array."""
    return np.array(values, dtype=np.float64)
