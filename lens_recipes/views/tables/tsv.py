"""A table for other programs: tab-separated values under a header, a row for each site or part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors, token_index
from lens_recipes.views.extract import top_predictions
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import whole_text

PART_HEADER = [
    "prompt",
    "position",
    "input",
    "target",
    "against",
    "part",
    "parts",
    "layer",
    "component",
    "head",
    "source",
    "source_text",
    "value",
    "total",
    "logit",
    "capped_logit",
    "error",
    "mark",
]


@np.errstate(over="ignore")
def tsv_table(result: LensArrays | AttributionArrays, selection: Selection) -> str:
    """Return a table as tab-separated values, in full precision and with whole texts.

    A field with a quotation mark is quoted, as spreadsheets and pandas expect it.
    """
    file = io.StringIO()
    writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
    if isinstance(result, LensArrays):
        writer.writerow(_site_header(selection.show_top, result.target_ids.shape[1]))
        rows = _site_rows(result, selection)
    else:
        writer.writerow(PART_HEADER)
        rows = _part_rows(result, selection)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    return file.getvalue().removesuffix("\n")


def _field(value: Any) -> str:
    """Return a value as text: fractions in six digits, an empty field for None."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


# -- lens results ------------------------------------------------------


def _site_header(show_top: int, target_count: int) -> list[str]:
    """Return the names of the columns of a lens result."""
    header = ["prompt", "position", "input", "site", "sites", "layer", "component", "head"]
    for rank in range(1, show_top + 1):
        header += [f"top{rank}", f"p{rank}"]
    header += ["entropy", "kl"]
    for target in range(1, target_count + 1):
        header += [f"target{target}", f"target{target}_rank", f"target{target}_p"]
    return [*header, "mark"]


def _site_rows(result: LensArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each selected site, after the selected token of each prompt."""
    for number in selection.prompts:
        single = result[number]
        for token in _tokens(single, selection):
            for site in selection.sites:
                row = _site_row(single, site, token, selection.show_top)
                yield [number, *row, result.mark]


def _tokens(result: LensArrays, selection: Selection) -> list[int]:
    """Return which tokens of one prompt have rows: the selected one, or all vectors."""
    token_count = len(result.tokens)
    if are_vectors(result.sites):
        return list(range(token_count))
    return [token_index(token_count, selection.position, "position")]


def _site_row(result: LensArrays, site: int, token: int, show_top: int) -> Iterator[Any]:
    """Yield the fields of a site after a token of one prompt, without the prompt and the mark."""
    yield result.tokens.position[token]
    yield whole_text(result.tokens.text[token])
    yield site
    yield len(result.sites)
    yield from result.sites[site]  # layer, component, head
    for prediction in top_predictions(result, site, token, show_top):
        yield whole_text(prediction.text)
        yield np.exp(prediction.logprob)
    yield result.entropy[site, token]
    yield result.kl_to_final[site, token]
    for target, target_id in enumerate(result.target_ids[0]):
        yield whole_text(result.text(target_id))
        yield result.target_ranks[site, token, target]
        yield np.exp(float(result.target_logprobs[site, token, target]))


# -- attributions ------------------------------------------------------


def _part_rows(result: AttributionArrays, selection: Selection) -> Iterator[list[Any]]:
    """Yield a row for each of the largest parts of each target, prompt after prompt."""
    for number in selection.prompts:
        single = result[number]
        token = selected_token(single, selection)
        if token is None:
            continue
        for target in range(single.target_ids.shape[1]):
            order = by_size(single.values[:, token, target])
            for part in order[: selection.show_top]:
                row = _part_row(single, part, token, target)
                yield [number, *row, result.mark]


def _part_row(result: AttributionArrays, part: int, token: int, target: int) -> Iterator[Any]:
    """Yield the fields of a part of one prompt's target, without the prompt and the mark."""
    yield result.tokens.position[token]
    yield whole_text(result.tokens.text[token])
    yield whole_text(result.text(result.target_ids[0, target]))
    yield _against(result, target)
    yield str(result.parts[part])
    yield len(result.parts)
    yield from result.parts[part]  # layer, component, head, source
    yield _source_text(result, result.parts[part].source)
    yield result.values[part, token, target]
    yield result.total[token, target]
    yield result.logit[token, target]
    yield result.capped_logit[token, target]
    yield result.error[token, target]


def _against(result: AttributionArrays, target: int) -> str:
    """Return what was subtracted from a target: a token, or "the mean …"; empty for nothing."""
    contrast_id = result.against_ids[0, target]
    if contrast_id >= 0:
        return whole_text(result.text(contrast_id))
    if result.against:
        return whole_text(result.against).replace("·", " ")
    return ""


def _source_text(result: AttributionArrays, source: int | None) -> str | None:
    """Return the token that a head read from; None where the parts are not told apart by source."""
    if source is None or not result.sources:
        return None
    return whole_text(result.sources[0][source])
