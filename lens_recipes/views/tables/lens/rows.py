"""The rows of a lens table: which site and which token each of them shows, and its label."""

from __future__ import annotations

from typing import NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import UNORDERED
from lens_recipes.views.words import prompt_end, quantity

VECTORS_SHOWN = 40

VECTOR_NAME_WIDTH = 40  # characters of the name of a vector


class Row(NamedTuple):
    """A row of a table: its label, and the site and the token whose numbers it shows (indices)."""

    label: str
    site: int
    token: int


def site_rows(result: LensArrays, sites: list[int], token: int) -> list[Row]:
    """Return a row for each of some sites."""
    return [Row(str(result.sites[site]), site, token) for site in sites]


def merged_rows(result: LensArrays, sites: list[int], token: int, show_top: int) -> list[Row]:
    """Return a row for each run of neighbouring sites that predict the same.

    The row shows the last site of its run, and its label names the first layer too: "3–7".

    Args:
        result: A result of one prompt.
        sites: Indices of the sites, in the order of the model.
        token: An index into `result.tokens`.
        show_top: How many predictions have to agree.
    """
    runs: list[list[int]] = []
    for site in sites:
        if runs and _predict_the_same(result, runs[-1][-1], site, token, show_top):
            runs[-1].append(site)
        else:
            runs.append([site])
    rows = []
    for run in runs:
        label = str(result.sites[run[-1]])
        if len(run) > 1:
            label = f"{result.sites[run[0]].layer}–{label}"
        rows.append(Row(label, run[-1], token))
    return rows


def _predict_the_same(
    result: LensArrays, site: int, other_site: int, token: int, show_top: int
) -> bool:
    """Check whether two sites of one series have the same top-1 and the same others after it."""
    component = result.sites[site].component
    other_component = result.sites[other_site].component
    if component != other_component or component in UNORDERED:
        return False
    ids = result.top_ids[site, token, :show_top].tolist()
    other_ids = result.top_ids[other_site, token, :show_top].tolist()
    return ids[0] == other_ids[0] and set(ids) == set(other_ids)


def vector_rows(result: LensArrays) -> list[Row]:
    """Return a row for each of the first vectors of `decode_vectors`."""
    names = result.tokens.text[:VECTORS_SHOWN]
    return [Row(prompt_end(name, VECTOR_NAME_WIDTH), 0, token) for token, name in enumerate(names)]


def vectors_note(result: LensArrays) -> str:
    """Say how many vectors have no row; empty for none.

    Example: "… and 5 more vectors: result.to_frame()".
    """
    left_out = len(result.tokens) - VECTORS_SHOWN
    if left_out <= 0:
        return ""
    return f"… and {quantity(left_out, 'more vector')}: result.to_frame()"
