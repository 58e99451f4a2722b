"""A result as Markdown: a heading and pipe tables for each prompt, whatever stands in a token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.batch.parts import common_target_name
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.views.readings import SiteReading, shown_metrics
from lens_recipes.views.summaries.edits.effects import effect_line
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.tables.attribution.over_prompts import (
    HEADINGS,
    batch_heading,
    batch_notes,
    mean_rows,
)
from lens_recipes.views.tables.attribution.parts import target_rows
from lens_recipes.views.tables.lens.batch.table import Show, batch_table
from lens_recipes.views.tables.lens.lenses import LensRow, lens_rows, seen_table, trust_lines
from lens_recipes.views.tables.lens.rows import (
    UNREADABLE_MARK,
    Row,
    site_rows,
    vector_rows,
    vectors_note,
)
from lens_recipes.views.tables.markdown.syntax import (
    Column,
    escape_sentence,
    label_code,
    pipe_table,
    text_code,
    token_code,
)
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import (
    about_token,
    certificate_line,
    edited,
    lens_names,
    probability,
    prompt_end,
)


def markdown_table(result: LensArrays | AttributionArrays, selection: Selection) -> str:
    """Return a result as Markdown; its blocks are parted by blank lines."""
    return "\n\n".join(block for block in _blocks(result, selection) if block)


def _blocks(result: LensArrays | AttributionArrays, selection: Selection) -> Iterator[str]:
    """Yield headings, tables and paragraphs; an empty one where there is nothing to say."""
    for each in (result, *selection.beside):
        if each.mark:
            yield f"**{escape_sentence(each.mark)}**"
        if each.edits:
            yield f"**{escape_sentence(edited(each))}**"
    if isinstance(result, LensArrays) and are_vectors(result.sites):
        yield _vector_table(result, selection.show_top)
        yield vectors_note(result)
    elif not selection.is_batch:
        for number in selection.shown_prompts:
            yield from _prompt_blocks(result, number, selection)
    elif isinstance(result, AttributionArrays):
        yield from _mean_blocks(result, selection)
    else:
        yield from _batch_blocks(result, selection)
    yield selection.prompts_note
    yield escape_sentence(certificate_line(result))
    for each in (result, *selection.beside):
        if isinstance(each, LensArrays):
            yield escape_sentence(effect_line(each))
        yield escape_sentence(lens_line(each))


def _batch_blocks(result: LensArrays, selection: Selection) -> Iterator[str]:
    """Yield the table of many prompts, a row for each, and what must be said about it."""
    table = batch_table(result, selection, Show(token_code, text_code))
    columns = [Column(column.heading, column.is_numeric) for column in table.columns]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    yield pipe_table(columns, rows)
    for note in table.notes:
        yield escape_sentence(note)


def _mean_blocks(result: AttributionArrays, selection: Selection) -> Iterator[str]:
    """Yield the parts of each target on average over the prompts."""
    yield batch_heading(result, selection)
    columns = [Column(HEADINGS[0], numeric=False)]
    columns += [Column(heading, numeric=True) for heading in HEADINGS[1:]]
    for target_index in range(result.target_ids.shape[1]):
        yield f"### {common_target_name(result, target_index, token_code)}"
        yield pipe_table(columns, mean_rows(result, selection, target_index, token_code))
    for note in batch_notes(result, selection):
        yield escape_sentence(note)


def _prompt_blocks(
    whole: LensArrays | AttributionArrays, number: int, selection: Selection
) -> Iterator[str]:
    """Yield the heading and the tables of one prompt."""
    result = whole[number]
    token_index = selected_token(result, selection)
    prompt = text_code(prompt_end(result.prompts[0]))
    subject = about_token(result, token_index, token_code, with_lens=not selection.beside)
    yield f"### {prompt}, {subject}"
    if token_index is None:
        return
    results: list[LensArrays] = []
    if selection.beside and isinstance(result, LensArrays):
        results = [result, *(other[number] for other in selection.beside)]
        yield from _lens_blocks(results, lens_rows(results, selection.site_indices, token_index))
    elif isinstance(result, LensArrays):
        yield _site_table(result, token_index, selection)
    else:
        for target_index in range(result.target_ids.shape[1]):
            yield _part_table(result, token_index, target_index, selection.show_top)
    yield selection.sites_note
    if results:
        yield from _seen_blocks(results, token_index)


def _lens_blocks(results: list[LensArrays], rows: list[LensRow]) -> Iterator[str]:
    """Yield what several lenses read after one token, and which of them sees a token earlier."""
    names = lens_names(results)
    token_index = rows[0].readings[0].token_index
    for line in trust_lines(results, token_index):
        yield f"**{escape_sentence(line)}**"
    columns = [Column("layer", numeric=True)]
    for name in names:
        columns += [Column(escape_sentence(name), numeric=False), Column("p", numeric=True)]
        columns += _target_columns(results[0])
    lines = []
    for row in rows:
        cells = [label_code(row.label)]
        for reading in row.readings:
            token, number = _prediction_cells(reading, 1)
            mark = "" if reading.is_readable else f" {UNREADABLE_MARK}"
            cells += [token, f"{number}{mark}", *_rank_cells(reading)]
        lines.append(cells)
    yield pipe_table(columns, lines)


def _seen_blocks(results: list[LensArrays], token_index: int) -> Iterator[str]:
    """Yield from which layer on each lens has a token as its top-1, where the lenses differ."""
    seen = seen_table(results, token_index, token_code)
    if seen is None:
        return
    seen_columns = [Column(seen.headings[0], numeric=False)]
    seen_columns += [Column(escape_sentence(name), numeric=True) for name in seen.headings[1:]]
    yield pipe_table(seen_columns, seen.rows)
    yield escape_sentence(seen.note)


def _site_table(result: LensArrays, token_index: int, selection: Selection) -> str:
    """Return a table with a row for each site after one token of one prompt."""
    label_column = Column("layer", numeric=True)
    rows = []
    for label, reading in site_rows(result, selection.site_indices, token_index):
        rows.append(Row(label_code(label), reading))
    return _lens_table(result, label_column, rows, selection.show_top)


def _vector_table(result: LensArrays, show_top: int) -> str:
    """Return a table with a row for each of the first vectors."""
    label_column = Column("vector", numeric=False)
    rows = []
    for name, reading in vector_rows(result):
        rows.append(Row(text_code(name), reading))
    return _lens_table(result, label_column, rows, show_top)


def _lens_table(result: LensArrays, label_column: Column, rows: list[Row], show_top: int) -> str:
    """Return a table with predictions, metrics and ranks. The labels are Markdown already."""
    metrics = shown_metrics(result)
    columns = [
        label_column,
        *_prediction_columns(show_top),
        *(Column(metric.heading, numeric=True) for metric in metrics),
        *_target_columns(result),
    ]
    lines = []
    for label, reading in rows:
        cells = [
            label,
            *_prediction_cells(reading, show_top),
            *(f"{reading.value(metric):.2f}" for metric in metrics),
            *_rank_cells(reading),
        ]
        lines.append(cells)
    return pipe_table(columns, lines)


def _prediction_columns(show_top: int) -> Iterator[Column]:
    """Yield a column for each prediction, and one for its probability."""
    for number in range(1, show_top + 1):
        yield Column(f"top {number}", numeric=False)
        yield Column("p", numeric=True)


def _target_columns(result: LensArrays) -> Iterator[Column]:
    """Yield a column for the rank of each target."""
    for target_id in result.target_ids[0]:
        target_text = token_code(result.text(target_id))
        yield Column(f"rank of {target_text}", numeric=True)


def _prediction_cells(reading: SiteReading, show_top: int) -> Iterator[str]:
    """Yield each prediction of a site, and its probability."""
    for prediction in reading.predictions(show_top):
        yield token_code(prediction.text)
        yield probability(prediction.logprob)


def _rank_cells(reading: SiteReading) -> Iterator[str]:
    """Yield the rank of each target at a site."""
    for target in reading.targets():
        yield str(target.rank)


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def _part_table(
    result: AttributionArrays, token_index: int, target_index: int, show_top: int
) -> str:
    """Return a table of the largest parts of one target, in logits."""
    target_name = result.target_name(0, target_index, show=token_code)
    part_column = Column("part", numeric=False)
    value_column = Column(target_name, numeric=True)
    rows = target_rows(result, token_index, target_index, show_top, token_code)
    return pipe_table([part_column, value_column], rows)
