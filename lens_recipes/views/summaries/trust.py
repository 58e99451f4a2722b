"""Say where a lens cannot be read, and from where on an answer is known.

A cell that is worse than a uniform guess is no evidence of what the model knows there, however sure
it looks: see `LensArrays.readable`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.certificate import layers_in_words
from lens_recipes.arrays.generation import known_from, known_start, starts_there
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import UNORDERED, main_component, site_label

UNFITTED_MARK = "†"  # before a token at whose position the lens was never fitted
FIRST_READABLE = "the first layer that can be read"
WHY = "it is worse than a uniform guess there"


def cannot(result: LensArrays, *, by_name: bool = False) -> str:
    """Return that something cannot be read, such as "cannot be read with this lens".

    A lens other than the logit lens is named: "cannot be read with this linear lens". Where several
    lenses stand side by side, each is: `by_name` gives "cannot be read with the logit lens".
    """
    if by_name:
        return f"cannot be read with the {result.lens.name}"
    name = "lens" if result.lens.is_logit else result.lens.name
    return f"cannot be read with this {name}"


def before_cannot(result: LensArrays) -> str:
    """Return "the layers before cannot be read with this lens"."""
    return f"the layers before {cannot(result)}"


def unreadable_sentence(
    result: LensArrays, tokens: Sequence[int] | None = None, *, by_name: bool = False
) -> str:
    """Return which layers cannot be read, in plain words; empty where all can.

    Examples: "layers 0–23 cannot be read with this lens", "after most tokens, layers 0–22 cannot be
    read with this lens", "12 of 60 sites cannot be read with this lens".

    Args:
        result: Any lens result.
        tokens: Indices of the tokens that are shown; None for all.
        by_name: As for `cannot`.
    """
    cannot_be_read = cannot(result, by_name=by_name)
    readable = result.readable if tokens is None else result.readable[:, list(tokens)]
    if readable.all():
        return ""
    n_tokens = readable.shape[1]
    is_unreadable = 2 * readable.sum(1) < n_tokens  # after most of the tokens
    if not is_unreadable.any():
        return f"{(~readable).sum():,} of {readable.size:,} cells {cannot_be_read}"
    place = _name_sites(result, is_unreadable)
    is_always_so = not readable[is_unreadable].any()
    sentence = f"{place} {cannot_be_read}"
    return sentence if is_always_so else f"after most tokens, {sentence}"


def unfitted_sentence(result: LensArrays, tokens: Sequence[int] | None = None) -> str:
    """Return which tokens stand where the lens was never fitted; empty where none does.

    Example: "5 of 6 tokens stand before position 16, where this Jacobian lens was never fitted".

    Args:
        result: Any lens result.
        tokens: Indices of the tokens that are shown; None for all.
    """
    fitted = result.fitted if tokens is None else result.fitted[list(tokens)]
    if fitted.all():
        return ""
    n_unfitted = int((~fitted).sum())
    if len(fitted) == 1:
        which = "the token stands"
    elif n_unfitted == len(fitted):
        which = f"all {len(fitted)} tokens stand"
    else:
        which = f"{n_unfitted} of {len(fitted)} tokens stand"
    lens = result.lens
    return f"{which} before position {lens.first_position}, where this {lens.name} was never fitted"


def _name_sites(result: LensArrays, chosen: NDArray[np.bool_]) -> str:
    """Return the layers of some sites, or how many sites they are where layers are not enough."""
    component = main_component(result.sites)
    others = [site for site in result.sites if site.component != component]
    if component is None or component in (*UNORDERED, "embed") or others:
        return f"{chosen.sum():,} of {len(chosen):,} sites"
    layers = [result.sites[index].layer or 0 for index in np.flatnonzero(chosen)]
    of_component = "" if component == "resid_post" else f"{component} of "
    return of_component + layers_in_words(tuple(layers))


def first_readable(result: LensArrays, series: Sequence[int], token: int) -> int:
    """Return from which of some sites on all can be read after a token; 0 where none can.

    Returns:
        An index into `series`.
    """
    return known_start(result.readable[list(series), token], 0) or 0


def dating(result: LensArrays, series: Sequence[int], settled_site: int, token: int) -> str:
    """Return from where on a token is top-1 to the end, and no more than can be read.

    Examples: "top-1 from layer 26 on"; where the layer before it cannot be read: "first read at
    layer 24".

    Args:
        result: Any lens result.
        series: Indices of the sites along which it settles.
        settled_site: The one of them from which on it is top-1.
        token: Index of the token after which it is predicted.
    """
    start = known_from(result, series, settled_site, token)
    if start is None:
        return "top-1 only where the lens cannot be read"
    label = site_label(result.sites[series[start]])
    if starts_there(result.readable[list(series), token], start):
        return f"top-1 from {label} on"
    return f"first read at {label}"
