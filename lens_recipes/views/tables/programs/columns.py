"""The columns of a table for other programs, and its rows: of each selected site, or each part.

The order of the columns never changes, and a new one comes last: scripts may count them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import measured_metrics
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import shown_edits

TOKEN_HEADER = ["prompt", "position", "input"]  # of every table

SITE_HEADER = ["site", "sites", "layer", "component", "head"]

PART_HEADER = ["part", "parts", "layer", "component", "head", "source", "source_text"]

VALUE_HEADER = ["value", "total", "logit", "capped_logit", "error"]

PART_ID_HEADER = ["input_id", "target_id", "against_id"]

EDITS_HEADER = "edits"  # what was done to the model while it ran; empty for a plain run

LENS_HEADER = ["lens", "lens_source", "lens_digest"]  # with which a result was read


class TokenText(str):
    """The text of a token or of several, as it is: each format writes it in its own way."""


class Columns(NamedTuple):
    """The names of the columns, and the rows; a field is a number, a text, or None for nothing."""

    header: list[str]
    rows: Iterator[list[Any]]


def columns(result: LensArrays | AttributionArrays, selection: Selection) -> Columns:
    """Return the table of a result."""
    if isinstance(result, LensArrays):
        header = _site_header(selection.show_top, result.target_ids.shape[1])
        return Columns(header, _site_rows(result, selection))
    header = [*TOKEN_HEADER, "target", "against", *PART_HEADER, *VALUE_HEADER, "mark"]
    names = [*header, *PART_ID_HEADER, *LENS_HEADER, EDITS_HEADER]
    return Columns(names, _part_rows(result, selection))


def _token_fields(result: LensArrays | AttributionArrays, token_index: int) -> list[Any]:
    """Return after which token of a prompt a row is: its position and its text."""
    text = TokenText(result.tokens.text[token_index])
    return [result.tokens.position[token_index], text]


def _input_id(result: LensArrays | AttributionArrays, token_index: int) -> int | None:
    """Return the id of the token that a row is after; None for a vector, which has none."""
    token_id = int(result.tokens.id[token_index])
    return token_id if token_id >= 0 else None


def _lens_fields(result: LensArrays | AttributionArrays) -> list[str]:
    """Return the lens that a result was read with: its kind, where it came from, its digest."""
    lens = result.lens
    return [lens.kind, lens.source, lens.digest]


def _edits_field(result: LensArrays | AttributionArrays) -> str:
    """Return all edits of a run, in words."""
    return "; ".join(map(str, shown_edits(result)))


# -- lens results ------------------------------------------------------


def _site_header(show_top: int, target_count: int) -> list[str]:
    """Return the names of the columns of a lens result."""
    header = [*TOKEN_HEADER, *SITE_HEADER]
    for number in range(1, show_top + 1):
        header += [f"top{number}", f"p{number}"]
    header += [metric.name for metric in measured_metrics()]
    for number in range(1, target_count + 1):
        header += [f"target{number}", f"target{number}_rank", f"target{number}_p"]
    header += ["mark", "input_id"]
    header += [f"top{number}_id" for number in range(1, show_top + 1)]
    header += [f"target{number}_id" for number in range(1, target_count + 1)]
    return [*header, "readable", "fitted", *LENS_HEADER, EDITS_HEADER]


def _site_rows(result: LensArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each selected site, after the selected token of each prompt."""
    edits = _edits_field(result)
    for number in selection.prompts:
        prompt_result = result[number]
        fitted = prompt_result.fitted
        for token_index in _token_indices(prompt_result, selection):
            token_fields = _token_fields(prompt_result, token_index)
            for site_index in selection.site_indices:
                reading = SiteReading(prompt_result, site_index, token_index)
                site_fields = _site_fields(reading, selection.show_top)
                id_fields = _site_id_fields(reading, selection.show_top)
                yield [
                    number,
                    *token_fields,
                    *site_fields,
                    result.mark,
                    *id_fields,
                    bool(fitted[token_index]),
                    *_lens_fields(result),
                    edits,
                ]


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
        yield TokenText(prediction.text)
        yield np.exp(prediction.logprob)
    for metric in measured_metrics():
        yield reading.value(metric)
    for target in reading.targets():
        yield TokenText(target.text)
        yield target.rank
        yield np.exp(target.logprob)


def _site_id_fields(reading: SiteReading, show_top: int) -> Iterator[Any]:
    """Yield the ids of the tokens of a row, and whether its site can be read after its token."""
    result = reading.result
    yield _input_id(result, reading.token_index)
    for prediction in reading.predictions(show_top):
        yield prediction.token_id
    yield from result.target_ids[0].tolist()
    yield bool(result.readable[reading.site_index, reading.token_index])


# -- attributions ------------------------------------------------------


def _part_rows(result: AttributionArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each of the largest parts of each target, prompt after prompt."""
    edits = _edits_field(result)
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
                against_id = int(prompt_result.against_ids[0, target_index])
                id_fields = [
                    _input_id(prompt_result, token_index),
                    int(prompt_result.target_ids[0, target_index]),
                    against_id if against_id >= 0 else None,
                ]
                yield [
                    number,
                    *token_fields,
                    *part_fields,
                    result.mark,
                    *id_fields,
                    *_lens_fields(result),
                    edits,
                ]


def _part_fields(
    result: AttributionArrays, part_index: int, token_index: int, target_index: int
) -> Iterator[Any]:
    """Yield which target and which part a row is about, and the values of both in logits."""
    part = result.parts[part_index]
    yield TokenText(result.text(result.target_ids[0, target_index]))
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
        return TokenText(result.text(contrast_id))
    if result.against:
        return result.against
    return ""


def _source_text(result: AttributionArrays, source: int | None) -> str | None:
    """Return the token that a head read from; None for a part that is not of one source."""
    if source is None or not result.sources:
        return None
    return TokenText(result.sources[0][source])
