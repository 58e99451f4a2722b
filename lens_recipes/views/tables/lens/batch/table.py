"""What the one table of many prompts says, in whatever format: its columns and its notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lens_recipes.arrays.batch.outcomes import Outcome, default_of, outcomes
from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import main_component, site_label
from lens_recipes.caller import SHOW_ONE, say
from lens_recipes.views.summaries.trust import before_cannot, first_readable, unfitted_sentence
from lens_recipes.views.tables.lens.rows import UNREADABLE_MARK
from lens_recipes.views.tables.selection import Selection
from lens_recipes.views.words import ShowText, after_token, probability, prompt_end

ANSWER_P = "answer's probability"  # the name of a column

TOKEN_WIDTH = 12  # characters


class Show(NamedTuple):
    """How a format writes a token (cut to so many characters), and any other text on one line."""

    token: ShowText
    text: Callable[[str], str]


@dataclass(frozen=True)
class BatchColumn:
    """A column: its heading, whether it holds numbers, and a cell for each prompt.

    `name` is what the column is about, for those that give some columns less room than others.
    """

    name: str
    heading: str
    is_numeric: bool
    cells: list[str]


@dataclass(frozen=True)
class BatchTable:
    """The one table of many prompts.

    Attributes:
        rows: What became of the prompts that are shown.
        columns: Of the table, from left to right, with a cell for each row.
        notes: Sentences that belong below it.
    """

    rows: list[Outcome]
    columns: list[BatchColumn]
    notes: list[str]


def batch_table(
    result: LensArrays, selection: Selection, show: Show, prompt_width: int = 60
) -> BatchTable:
    """Return the table of many prompts.

    Args:
        result: A lens result for which `is_batch` holds.
        selection: Which prompts and which token.
        show: How the format writes texts.
        prompt_width: Characters of the end of a prompt.
    """
    all_rows = outcomes(result, position=selection.position)
    rows = all_rows[: selection.max_prompts]
    columns = list(_columns(result, rows, show, prompt_width))
    return BatchTable(rows, columns, list(_notes(result, all_rows, rows)))


# -- columns -----------------------------------------------------------


def _columns(
    result: LensArrays, rows: list[Outcome], show: Show, prompt_width: int
) -> Iterator[BatchColumn]:
    """Yield the columns from left to right."""
    yield BatchColumn("number", "#", True, [str(row.prompt) for row in rows])
    ends = [show.text(prompt_end(result.prompts[row.prompt], prompt_width)) for row in rows]
    yield BatchColumn("prompt", "prompt", False, ends)
    if any(result.tokens.next_id[row.token] >= 0 for row in rows):
        # Not the end of a prompt that is shown, but a token before it.
        places = [after_token(result, row.token, show.token) for row in rows]
        yield BatchColumn("place", "read", False, places)
    if default_of(result) == "target":
        yield from _target_columns(result, rows, show)
    else:
        answers = [show.token(row.answer, TOKEN_WIDTH) for row in rows]
        yield BatchColumn("answer", "answer", False, answers)
        numbers = [probability(row.answer_logprob) for row in rows]
        yield BatchColumn("probability", "p", True, numbers)
    yield from _first_readable_column(result, rows)
    heading = "top-1 from"
    if main_component(result.sites) == "resid_post":
        heading = "top-1 from layer"
    yield BatchColumn("start", heading, True, [start_words(result, row) for row in rows])
    if default_of(result) == "target":
        yield from _verdict_columns(rows, show)


def _target_columns(result: LensArrays, rows: list[Outcome], show: Show) -> Iterator[BatchColumn]:
    """Yield the columns about the targets: the first one of each prompt, then the others."""
    targets = [show.token(row.followed, TOKEN_WIDTH) for row in rows]
    yield BatchColumn("target", "target", False, targets)
    yield BatchColumn("rank", "rank", True, [f"{row.rank:,}" for row in rows])
    numbers = [probability(row.logprob) for row in rows]
    yield BatchColumn("probability", "p", True, numbers)
    last_site = settling(result)[-1]
    for column in range(1, result.target_ids.shape[1]):
        cells = []
        for row in rows:
            text = show.token(result.text(result.target_ids[row.prompt, column]), TOKEN_WIDTH)
            cells.append(f"{text} {result.target_ranks[last_site, row.token, column]:,}")
        yield BatchColumn("other", f"target {column + 1}, rank", False, cells)


def _first_readable_column(result: LensArrays, rows: list[Outcome]) -> Iterator[BatchColumn]:
    """Yield the rank at the first layer that can be read, where some cannot: "91 at 24".

    Many answers are top-1 at the last layer only, and near the top long before.
    """
    series = settling(result)
    _, ranks, _ = result.of(default_of(result))
    starts = [first_readable(result, series, row.token) for row in rows]
    if not any(starts):
        return
    cells = []
    for row, start in zip(rows, starts, strict=True):
        site_index = series[start]
        cells.append(f"{ranks[site_index, row.token]:,} at {result.sites[site_index]}")
    yield BatchColumn("first readable", "rank where first readable", True, cells)


def start_words(result: LensArrays, row: Outcome) -> str:
    """Return from which site on a token is top-1.

    Examples: "29", "25 ?" where the layers before cannot be read, "never".
    """
    if row.site < 0:
        return "never" if row.is_dated else "cannot be read"
    place = str(result.sites[row.site])
    return place if row.is_dated else f"{place} {UNREADABLE_MARK}"


def _verdict_columns(rows: list[Outcome], show: Show) -> Iterator[BatchColumn]:
    """Yield whether each model's answer is the target, or the answer instead and how likely."""
    verdicts, numbers = [], []
    for row in rows:
        verdicts.append("right" if row.right else show.token(row.answer, TOKEN_WIDTH))
        numbers.append("" if row.right else probability(row.answer_logprob))
    yield BatchColumn("verdict", "answer", False, verdicts)
    yield BatchColumn(ANSWER_P, "p", True, numbers)


# -- notes -------------------------------------------------------------


def _notes(result: LensArrays, all_rows: list[Outcome], rows: list[Outcome]) -> Iterator[str]:
    """Yield what a reader must know about the table."""
    last_site = settling(result)[-1]
    if default_of(result) == "target":
        n_right = sum(row.right for row in all_rows)
        yield f"{n_right} of {len(all_rows)} right ({n_right / len(all_rows):.0%})"
        if last_site != result.output_site:
            yield f"rank and p are those of {site_label(result.sites[last_site])}, the last read"
    if any(not row.is_dated for row in rows):
        yield f"{UNREADABLE_MARK}: first read there, {before_cannot(result)}"
    unfitted = unfitted_sentence(result, [row.token for row in rows])
    if unfitted:
        yield unfitted
    yield say(python="one prompt layer by layer: prompt=0", shell=SHOW_ONE)
