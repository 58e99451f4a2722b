"""A table for other programs: tab-separated values under a header, a row for each site or part.

A field is a number, or a text that no spreadsheet computes: see `text_field`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import measured_metrics
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.arrays.text import legible_line
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import whole_text

TOKEN_HEADER = ["prompt", "position", "input"]  # of every table

SITE_HEADER = ["site", "sites", "layer", "component", "head"]

PART_HEADER = ["part", "parts", "layer", "component", "head", "source", "source_text"]

VALUE_HEADER = ["value", "total", "logit", "capped_logit", "error"]


# What a spreadsheet takes for a formula, also in the wide letters of East Asia; and what
# `text_field` makes of it.
FORMULA = re.compile("'*[=+@＝＋－＠-]")


@np.errstate(over="ignore")  # a probability that overflows is shown as inf
def tsv_table(result: LensArrays | AttributionArrays, selection: Selection) -> str:
    """Return a table as tab-separated values, with numbers in six digits and with whole texts.

    A field with a quotation mark is quoted, as spreadsheets and pandas expect it.
    """
    if isinstance(result, LensArrays):
        header = _site_header(selection.show_top, result.target_ids.shape[1])
        rows = _site_rows(result, selection)
    else:
        header = [*TOKEN_HEADER, "target", "against", *PART_HEADER, *VALUE_HEADER, "mark"]
        rows = _part_rows(result, selection)
    file = io.StringIO()
    writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    return file.getvalue().removesuffix("\n")


def _field(value: Any) -> str:
    """Return a value as text: fractions in six digits, an empty field for None."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, str):
        return text_field(value)
    return str(value)


def text_field(text: str) -> str:
    """Return a text as a field of one line, without effect in a spreadsheet.

    A text that begins with = + - or @ has an apostrophe before it, and so has one that begins with
    apostrophes and then with one of them: to take one off gives the text again.

    >>> text_field("=1+1"), text_field("'=1+1"), text_field("'s"), text_field("a=b")
    ("'=1+1", "''=1+1", "'s", 'a=b')
    """
    line = legible_line(text)
    if FORMULA.match(line):
        return f"'{line}"
    return line


def _token_fields(result: LensArrays | AttributionArrays, token_index: int) -> list[Any]:
    """Return after which token of a prompt a row is: its position and its text."""
    text = whole_text(result.tokens.text[token_index])
    return [result.tokens.position[token_index], text]


# -- lens results ------------------------------------------------------


def _site_header(show_top: int, target_count: int) -> list[str]:
    """Return the names of the columns of a lens result."""
    header = [*TOKEN_HEADER, *SITE_HEADER]
    for number in range(1, show_top + 1):
        header += [f"top{number}", f"p{number}"]
    header += [metric.name for metric in measured_metrics()]
    for number in range(1, target_count + 1):
        header += [f"target{number}", f"target{number}_rank", f"target{number}_p"]
    header.append("mark")
    return header


def _site_rows(result: LensArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each selected site, after the selected token of each prompt."""
    for number in selection.prompts:
        prompt_result = result[number]
        for token_index in _token_indices(prompt_result, selection):
            token_fields = _token_fields(prompt_result, token_index)
            for site_index in selection.site_indices:
                reading = SiteReading(prompt_result, site_index, token_index)
                site_fields = _site_fields(reading, selection.show_top)
                yield [number, *token_fields, *site_fields, result.mark]


def _token_indices(result: LensArrays, selection: Selection) -> list[int]:
    """Return which tokens of one prompt have rows: the selected one, or all vectors."""
    if are_vectors(result.sites):
        return list(range(len(result.tokens)))
    token_index = selected_token(result, selection)
    return [] if token_index is None else [token_index]


def _site_fields(reading: SiteReading, show_top: int) -> Iterator[Any]:
    """Yield which site a row is about, and what it says after the row's token."""
    sites = reading.result.sites
    yield reading.site_index
    yield len(sites)
    yield from sites[reading.site_index]  # layer, component, head
    for prediction in reading.predictions(show_top):
        yield whole_text(prediction.text)
        yield np.exp(prediction.logprob)
    for metric in measured_metrics():
        yield reading.value(metric)
    for target in reading.targets():
        yield whole_text(target.text)
        yield target.rank
        yield np.exp(target.logprob)


# -- attributions ------------------------------------------------------


def _part_rows(result: AttributionArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each of the largest parts of each target, prompt after prompt."""
    for number in selection.prompts:
        prompt_result = result[number]
        token_index = selected_token(prompt_result, selection)
        if token_index is None:
            continue
        token_fields = _token_fields(prompt_result, token_index)
        for target_index in range(prompt_result.target_ids.shape[1]):
            order = by_size(prompt_result.values[:, token_index, target_index])
            for part_index in order[: selection.show_top]:
                part_fields = _part_fields(prompt_result, part_index, token_index, target_index)
                yield [number, *token_fields, *part_fields, result.mark]


def _part_fields(
    result: AttributionArrays, part_index: int, token_index: int, target_index: int
) -> Iterator[Any]:
    """Yield which target and which part a row is about, and the values of both in logits."""
    part = result.parts[part_index]
    yield whole_text(result.text(result.target_ids[0, target_index]))
    yield _contrast_text(result, target_index)
    yield str(part)
    yield len(result.parts)
    yield from part  # layer, component, head, source
    yield _source_text(result, part.source)
    yield result.values[part_index, token_index, target_index]
    yield result.total[token_index, target_index]
    yield result.logit[token_index, target_index]
    yield result.capped_logit[token_index, target_index]
    yield result.error[token_index, target_index]


def _contrast_text(result: AttributionArrays, target_index: int) -> str:
    """Return what was subtracted from a target, a token or "mean"; empty for nothing."""
    contrast_id = result.against_ids[0, target_index]
    if contrast_id >= 0:
        return whole_text(result.text(contrast_id))
    if result.against:
        return whole_text(result.against).replace("·", " ")
    return ""


def _source_text(result: AttributionArrays, source: int | None) -> str | None:
    """Return the token that a head read from; None for a part that is not of one source."""
    if source is None or not result.sources:
        return None
    return whole_text(result.sources[0][source])
