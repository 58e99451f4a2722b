"""The sentences and number formats that tables, figures and pages share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Part, Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import components
from lens_recipes.arrays.text import visible_token


def format_value(value: float, metric: str) -> str:
    """One value in words: a rank whole, everything else in four figures."""
    return f"{value:,.0f}" if metric == "rank" else f"{value:.4g}"


def ending(one: LensArrays) -> str:
    """How many tokens were written after one prompt, and why no more: "12 tokens, finish: length"."""
    n = int(one.tokens.generated.sum())
    return f"{n} token{'' if n == 1 else 's'}, finish: {one.responses[0].finish}"


def percentage(part: int, whole: int) -> str:
    """A count as a person reads it.

    >>> share(5, 12)
    '5 of 12 (42%)'
    """
    return f"{part} of {whole} ({part / whole:.0%})"


def part_name(
    one: AttributionArrays, part: Part, show: Callable[[str, int], str] = visible_token
) -> str:
    """A part of one prompt's result, with the text of the token that was read: "24.head_out.3←5 ·France"."""
    if part.component == "layer":
        return f"layer {part.layer}"
    if part.source is None or not one.sources:
        return show(str(part), 40)
    return f"{show(str(part), 40)} {show(one.sources[0][part.source], 12)}"


def source_groups(
    one: AttributionArrays, values: NDArray[np.float32], head: int | None = None
) -> tuple[list[int], NDArray[Any]]:
    """What the heads read from each token of one prompt, `[layer, source]`, and the layers; NaN where none reads."""
    layers = sorted({part.layer for part in one.parts if part.layer is not None})
    row = {layer: number for number, layer in enumerate(layers)}
    sums, held = np.zeros((len(layers), len(one.sources[0]))), np.zeros(len(layers), dtype=bool)
    for part, value in zip(one.parts, values, strict=True):
        if part.layer is not None and part.source is not None and head in (None, part.head):
            sums[row[part.layer], part.source] += value
            held[row[part.layer]] = True
    return layers, np.where(held[:, None], sums, np.nan)


def signed(value: float | np.floating[Any]) -> str:
    """Logits with their sign, small and huge ones too.

    >>> signed(1.234), signed(-0.00123), signed(0), signed(1e9)
    ('+1.23', '-0.0012', '+0.00', '+1e+09')
    """
    value = float(value)
    if np.isnan(value):
        return "nan"
    return f"{value:+.2f}" if value == 0 or 0.095 <= abs(value) < 1e6 else f"{value:+.2g}"


def after_token(one: LensArrays | AttributionArrays, token: int, show: Any = visible_token) -> str:
    """Where the numbers were read."""
    return f"after token {one.tokens.position[token]}, {show(one.tokens.text[token], 12)}"


def about_token(
    one: LensArrays | AttributionArrays, token: int | None, show: Any = visible_token
) -> str:
    """What the table of one prompt is of, beside the prompt itself."""
    if token is None:
        return "no token of it was read"
    return after_token(one, token, show) + (
        ", in logits" if isinstance(one, AttributionArrays) else ""
    )


def certificate_line(result: LensArrays | AttributionArrays) -> str:
    """The certificate, to stand below the numbers that it is about; empty for none."""
    if result.certificate is None:
        return ""
    raw = isinstance(result, LensArrays) and not result.normed
    return f"{'the wiring, not the numbers above, is ' if raw else ''}{result.certificate}"


def side_by_side(sites: Iterable[Site]) -> list[str]:
    """The components that stand side by side, if they are several; others have rows of their own."""
    return [name for name in components(sites) if name not in ("embed", "head_out")]


def stream_of(beside: list[str]) -> str | None:
    return next((name for name in ("resid_post", "resid_pre", "resid_mid") if name in beside), None)


def probability(logprob: float) -> str:
    """A probability in three figures, however small.

    >>> probability(math.log(0.7725)), probability(math.log(0.00012))
    ('0.772', '1.2e-04')
    """
    p = math.exp(logprob) if not math.isnan(logprob) else math.nan
    return f"{p:.3f}" if math.isnan(p) or p >= 0.001 else f"{p:.1e}"


def whole_text(text: str) -> str:
    """All of a text as `visible` shows it."""
    return visible_token(text, len(text) * 10 + 1)


def prompt_end(prompt: str, width: int = 60) -> str:
    """The end of a prompt: what was read last is what matters."""
    shown = whole_text(prompt).replace("·", " ")
    return shown if len(shown) <= width else "…" + shown[1 - width :]
