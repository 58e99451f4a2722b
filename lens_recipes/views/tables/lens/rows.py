"""The rows of a lens table: the label of each, and what a site says after a token."""

from __future__ import annotations

from typing import NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import UNORDERED
from lens_recipes.caller import say
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.words import prompt_end, quantity

UNREADABLE_MARK = "?"  # behind the label of a site that cannot be read

VECTORS_SHOWN = 40

VECTOR_NAME_WIDTH = 40  # characters of the name of a vector


class Row(NamedTuple):
    """A row of a table: the name of a layer, a site or a vector, and what was read there."""

    label: str
    reading: SiteReading


def site_rows(result: LensArrays, site_indices: list[int], token_index: int) -> list[Row]:
    """Return a row for each of some sites after one token."""
    rows = []
    for site_index in site_indices:
        reading = SiteReading(result, site_index, token_index)
        rows.append(Row(marked(str(result.sites[site_index]), reading), reading))
    return rows


def marked(label: str, reading: SiteReading) -> str:
    """Return the label of a row with a mark where the lens cannot be read."""
    return label if reading.is_readable else f"{label} {UNREADABLE_MARK}"


def merged_rows(
    result: LensArrays, site_indices: list[int], token_index: int, show_top: int
) -> list[Row]:
    """Return a row for each run of neighbouring sites that predict the same after one token.

    The row shows the last site of its run, and its label names the first layer too: "3–7".

    Args:
        result: A result of one prompt.
        site_indices: Which sites, in the order of the model.
        token_index: Which of `result.tokens`.
        show_top: How many predictions have to agree.
    """
    runs: list[list[SiteReading]] = []
    for site_index in site_indices:
        reading = SiteReading(result, site_index, token_index)
        if runs and _predict_the_same(runs[-1][-1], reading, show_top):
            runs[-1].append(reading)
        else:
            runs.append([reading])
    return [_run_row(run) for run in runs]


def _run_row(run: list[SiteReading]) -> Row:
    """Return the row of a run: the numbers of its last site, and a label for all of them."""
    first, last = run[0], run[-1]
    sites = last.result.sites
    label = str(sites[last.site_index])
    if len(run) > 1:
        label = f"{sites[first.site_index].layer}–{label}"
    return Row(marked(label, last), last)


def _predict_the_same(reading: SiteReading, next_reading: SiteReading, show_top: int) -> bool:
    """Check whether two sites of one series have the same top-1, and the same others after it."""
    component = reading.result.sites[reading.site_index].component
    next_component = next_reading.result.sites[next_reading.site_index].component
    if component != next_component or component in UNORDERED:
        return False
    if reading.is_readable != next_reading.is_readable:
        return False
    token_ids = [prediction.token_id for prediction in reading.predictions(show_top)]
    next_ids = [prediction.token_id for prediction in next_reading.predictions(show_top)]
    same_first = token_ids[0] == next_ids[0]
    same_others = set(token_ids) == set(next_ids)
    return same_first and same_others


def vector_rows(result: LensArrays) -> list[Row]:
    """Return a row for each of the first vectors of `decode_vectors`."""
    rows = []
    names = result.tokens.text[:VECTORS_SHOWN]
    for token_index, name in enumerate(names):
        label = prompt_end(name, VECTOR_NAME_WIDTH)
        reading = SiteReading(result, 0, token_index)
        rows.append(Row(label, reading))
    return rows


def vectors_note(result: LensArrays) -> str:
    """Say how many vectors have no row; empty for none.

    Example: "… and 5 more vectors: result.to_frame()".
    """
    left_out = len(result.tokens) - VECTORS_SHOWN
    if left_out <= 0:
        return ""
    rest = say(python="result.to_frame()", shell="--format tsv has all")
    return f"… and {quantity(left_out, 'more vector')}: {rest}"
