"""Two prompts' results as one comparison: whether their tokens go together, the sites that both have, A − B."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import metric_values
from lens_recipes.arrays.sites import are_vectors, components

Array = NDArray[np.floating[Any]]

ALIGN = ("token", "position")


class Side(NamedTuple):
    """One of the two: what it is called, its prompt, its numbers `[site, token]`, and the sites that they are of."""

    name: str
    one: LensArrays
    numbers: Array
    sites: list[int]


def paired(
    ones: tuple[LensArrays, LensArrays],
    names: Any,
    metric: str,
    of: Any,
    align: str,
    component: str | None,
) -> tuple[Side, Side, str]:
    """The two sides at the sites that both have, in the order of the first, and what their numbers are called.

    Args:
        ones: Two results of one prompt each.
        names, metric, of, align, component: As for `compare`, and so are the errors.
    """
    a, b = _names(names)
    _check_aligned(ones, (a, b), align)
    both = common(ones, (a, b), component)
    what = metric_values(ones[0], metric, of)[1]
    first, second = (
        _side(one, name, both, metric, of) for one, name in zip(ones, (a, b), strict=True)
    )
    if np.isnan(difference(first, second, metric)).all():
        raise ValueError(
            f"metric={metric!r}, of={of!r}: there is no token at which {a} and {b} both have a number. Name another "
            "metric or token, or read other positions=."
        )
    return first, second, what


def _side(one: LensArrays, name: str, sites: list[Site], metric: str, of: Any) -> Side:
    here = [one.sites.index(site) for site in sites]
    return Side(name, one, metric_values(one, metric, of)[0][here].astype(np.float64), here)


def difference(a: Side, b: Side, metric: str) -> Array:
    """A − B, `[site, token]`: of ranks that of log10(rank + 1), of anything else that of the numbers; NaN where one has
    none."""
    with np.errstate(invalid="ignore"):  # of infinities there is none
        return (
            np.log10(a.numbers + 1) - np.log10(b.numbers + 1)
            if metric == "rank"
            else a.numbers - b.numbers
        )


def common(
    ones: tuple[LensArrays, LensArrays], names: tuple[str, str], component: str | None
) -> list[Site]:
    """The sites that both have, in the order of the first.

    Raises:
        ValueError: there are none, or they are vectors, which have no layers.
    """
    if any(are_vectors(one.sites) for one in ones):
        raise ValueError("vectors have no layers to compare: heatmap() shows them.")
    there = [[site for site in one.sites if component in (None, site.component)] for one in ones]
    both = [site for site in there[0] if site in there[1]]
    if not both:
        held = ", ".join(
            f"{name} has {spans(one.sites)}" for name, one in zip(names, ones, strict=True)
        )
        which = "" if component is None else f" of component={component!r}"
        raise ValueError(
            f"there is no site{which} that both have: {held}. Read the same layers= and components=."
        )
    return both


def spans(sites: Iterable[Site]) -> str:
    """Some sites in a few words: "layers 0–11, 14; mlp_out 3–5"."""
    sites = list(sites)
    said = []
    for name in components(sites):
        layers = sorted(
            {site.layer for site in sites if site.component == name and site.layer is not None}
        )
        starts = [layer for layer in layers if layer - 1 not in layers]
        ends = [layer for layer in layers if layer + 1 not in layers]
        runs = ", ".join(
            f"{s}" if s == e else f"{s}–{e}" for s, e in zip(starts, ends, strict=True)
        )
        plain = "layer" if len(layers) == 1 else "layers"
        said.append(
            name if name == "embed" else f"{plain if name == 'resid_post' else name} {runs}"
        )
    return "; ".join(said)


def _names(names: Any) -> tuple[str, str]:
    found = [] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if (
        len(found) != 2
        or not all(isinstance(name, str) and name for name in found)
        or found[0] == found[1]
    ):
        raise ValueError(f'names={names!r} must be two different texts, such as ("base", "tuned").')
    return found[0], found[1]


def _check_aligned(ones: tuple[LensArrays, LensArrays], names: tuple[str, str], align: str) -> None:
    if align not in ALIGN:
        raise ValueError(f"align={align!r} is unknown: accepted are {', '.join(map(repr, ALIGN))}.")
    positions = [one.tokens.position.tolist() for one in ones]
    texts = [one.tokens.text for one in ones]
    same_place = positions[0] == positions[1]
    if same_place and (align == "position" or texts[0] == texts[1]):
        return
    read = [list(zip(*both, strict=True)) for both in zip(positions, texts, strict=True)]
    if align == "position":
        read = [[(position, "") for position, _ in side] for side in read]
    n = next(
        (n for n, (x, y) in enumerate(zip(*read, strict=False)) if x != y), min(map(len, read))
    )
    at = [
        f"{name} has {text[n]!r} at position {position[n]}"
        if n < len(position)
        else f"{name} has no more"
        for name, text, position in zip(names, texts, positions, strict=True)
    ]
    todo = (
        'Pass align="position" to compare them nevertheless'
        if same_place
        else "Read the same positions="
    )
    raise ValueError(
        f"the tokens do not go together; the first that differ are number {n} of those read: {', '.join(at)}. "
        f"{todo}, or name other prompts (prompt=, prompt_b=)."
    )
