"""What a lens says of one token at the patches of an image, as far as it was measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.caller import say


class TokenAtPatches(NamedTuple):
    """The probability of one token at some sites and patches.

    Attributes:
        token_id: The token.
        values: Its probability, `[site, patch]`; NaN where it was not measured.
        below: Where it was not measured, what it is below: the probability of the last of the top
            tokens that were kept, `[site, patch]`; NaN elsewhere.
    """

    token_id: int
    values: NDArray[np.float64]
    below: NDArray[np.float64]


def token_at_patches(
    single: LensArrays, what: str | int, sites: list[int], patches: NDArray[np.intp]
) -> TokenAtPatches:
    """Return the probability of a token at some sites and patches.

    It is known where the token is a target, followed at that position, the model's answer there,
    or among the top tokens that were kept.

    Args:
        single: A result of one prompt.
        what: The token, as text or id.
        sites: Indices into `single.sites`.
        patches: Indices into `single.tokens`.

    Raises:
        ValueError: it was measured at none of them, or the text is that of several tokens.
    """
    token_id = _find_token(single, what, patches)
    cells = np.ix_(np.array(sites), patches)
    logprobs = np.full((len(sites), len(patches)), np.nan)
    for ids, numbers in _followed(single, cells, patches):
        hit = np.broadcast_to(ids == token_id, numbers.shape)
        logprobs = np.where(hit & np.isnan(logprobs), numbers, logprobs)
    last_kept = single.top_logprobs[cells][..., -1]
    values = np.exp(logprobs)
    below = np.where(np.isnan(values), np.exp(last_kept.astype(np.float64)), np.nan)
    return TokenAtPatches(token_id, values, below)


def _followed(
    single: LensArrays, cells: tuple[NDArray[np.intp], ...], patches: NDArray[np.intp]
) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Return ids and log-probabilities, `[site, patch]`, of all tokens that have these."""
    found = []
    for column, token_id in enumerate(single.target_ids[0]):
        found.append((np.array(token_id), single.target_logprobs[cells][..., column]))
    for column in range(single.tracked_ids.shape[-1]):
        found.append(
            (single.tracked_ids[patches, column], single.tracked_logprobs[cells][..., column])
        )
    found.append((single.final_ids[patches], single.final_logprobs[cells]))
    for rank in range(single.top_ids.shape[-1]):
        found.append((single.top_ids[cells][..., rank], single.top_logprobs[cells][..., rank]))
    return found


def _find_token(single: LensArrays, what: str | int, patches: NDArray[np.intp]) -> int:
    """Return the id of a token that was measured at some patch.

    Raises:
        ValueError: there is none, or the text is that of several.
    """
    known = [
        single.target_ids[0],
        single.tracked_ids[patches].ravel(),
        single.final_ids[patches],
        single.top_ids[:, patches].ravel(),
    ]
    token_id = single.named(np.unique(np.concatenate(known)).tolist(), what)
    if token_id is None:
        raise ValueError(
            f"{what!r} was not measured at the patches: it is neither a target nor among their top "
            "tokens. "
            + say(
                python=f"Pass targets={what!r} to the recipe to follow it at each of them.",
                shell="Run it with --target to follow it at each of them.",
            )
        )
    return token_id


class Confidence(NamedTuple):
    """The largest probability of a token over patches and layers (Jiang et al. 2024).

    Attributes:
        value: It, of the cells that can be read; NaN where none can.
        site, patch: Where it is; −1 for nowhere.
        is_exact: Whether no cell where the token was not measured can be above it.
        unreadable: The largest where the lens cannot be read; NaN for none.
    """

    value: float
    site: int
    patch: int
    is_exact: bool
    unreadable: float


def object_confidence(found: TokenAtPatches, readable: NDArray[np.bool_]) -> Confidence:
    """Return the largest probability of a token over patches and layers, and where it is.

    Args:
        found: Its probabilities, `[site, patch]`.
        readable: Which cells can be read.
    """
    values = np.where(readable, found.values, np.nan)
    others = np.where(readable, np.nan, found.values)
    unreadable = float(np.nanmax(others)) if np.isfinite(others).any() else float("nan")
    if not np.isfinite(values).any():
        return Confidence(float("nan"), -1, -1, False, unreadable)
    site, patch = np.unravel_index(int(np.nanargmax(values)), values.shape)
    value = float(values[site, patch])
    below = np.where(readable, found.below, np.nan)
    is_exact = not np.isfinite(below).any() or bool(np.nanmax(below) <= value)
    return Confidence(value, int(site), int(patch), is_exact, unreadable)
