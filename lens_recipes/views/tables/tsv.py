"""A table for other programs: one rectangle of tab-separated values, a row for each site or part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors, token_index
from lens_recipes.views.tables.selection import Selection, selected_token
from lens_recipes.views.words import whole_text


@np.errstate(over="ignore")
def tsv(result: LensArrays | AttributionArrays, shown: Selection) -> str:
    """See `_table.table`. A field with a quotation mark is quoted, as spreadsheets and pandas expect it."""
    rows = _sites(result, shown) if isinstance(result, LensArrays) else _parts(result, shown)
    file = io.StringIO()
    csv.writer(file, dialect="excel-tab", lineterminator="\n").writerows(
        [_field(value) for value in row] for row in rows
    )
    return file.getvalue().removesuffix("\n")


def _field(value: Any) -> str:
    """Fractions in six figures, nothing where there is nothing."""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _sites(result: LensArrays, shown: Selection) -> Iterator[list[Any]]:
    ks, js = range(1, shown.show_top + 1), range(1, result.target_ids.shape[1] + 1)
    yield [
        "prompt", "position", "input", "site", "sites", "layer", "component", "head",
        *(name for k in ks for name in (f"top{k}", f"p{k}")), "entropy", "kl",
        *(name for j in js for name in (f"target{j}", f"target{j}_rank", f"target{j}_p")), "mark",
    ]  # fmt: skip
    for number in shown.prompts:
        one = result[number]
        n = len(one.tokens)
        for t in (
            range(n) if are_vectors(one.sites) else [token_index(n, shown.position, "position")]
        ):
            for s in shown.rows:
                row: list[Any] = [
                    number,
                    one.tokens.position[t],
                    whole_text(one.tokens.text[t]),
                    s,
                    len(one.sites),
                    *one.sites[s],
                ]
                for i, logprob in zip(
                    one.top_ids[s, t, : len(ks)], one.top_logprobs[s, t], strict=False
                ):
                    row += [whole_text(one.text(i)), np.exp(float(logprob))]
                row += [one.entropy[s, t], one.kl_to_final[s, t]]
                targets = zip(
                    one.target_ids[0],
                    one.target_ranks[s, t],
                    one.target_logprobs[s, t],
                    strict=True,
                )
                for i, rank, logprob in targets:
                    row += [whole_text(one.text(i)), rank, np.exp(float(logprob))]
                yield [*row, result.mark]


def _parts(result: AttributionArrays, shown: Selection) -> Iterator[list[Any]]:
    yield [
        "prompt", "position", "input", "target", "against", "part", "parts", "layer", "component", "head", "source",
        "source_text", "value", "total", "logit", "capped_logit", "error", "mark",
    ]  # fmt: skip
    for number in shown.prompts:
        one = result[number]
        t = selected_token(one, shown)
        if t is None:
            continue
        for k, target in enumerate(one.target_ids[0]):
            other = one.against_ids[0, k]
            against = (
                whole_text(one.text(other))
                if other >= 0
                else whole_text(one.against).replace("·", " ") * bool(one.against)
            )
            sums = [array[t, k] for array in (one.total, one.logit, one.capped_logit, one.error)]
            for p in by_size(one.values[:, t, k])[: shown.show_top]:
                part = one.parts[p]
                source = (
                    whole_text(one.sources[0][part.source])
                    if one.sources and part.source is not None
                    else None
                )
                yield [
                    number, one.tokens.position[t], whole_text(one.tokens.text[t]), whole_text(one.text(target)), against,
                    str(part), len(one.parts), *part, source, one.values[p, t, k], *sums, result.mark,
                ]  # fmt: skip
