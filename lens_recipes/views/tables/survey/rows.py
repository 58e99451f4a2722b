"""The curves of a survey in rows for other programs, in full precision."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from lens_recipes.arrays.certificate import is_certified
from lens_recipes.arrays.survey.arrays import CONTROLS, SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, MEDIAN, Draws
from lens_recipes.arrays.survey.findings import usable_control
from lens_recipes.arrays.survey.joint import Wanted, joint_intervals, sites_of
from lens_recipes.arrays.survey.metrics import ranked
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.views.summaries.survey.words import edited_line, n_clusters
from lens_recipes.views.tables.programs.tsv import text_field

Row = dict[str, Any]


def curve_rows(
    survey: SurveyArrays,
    metrics: Sequence[str],
    groups: Sequence[str | None],
    site_indices: list[int] | None,
    draws: Draws = DEFAULT_DRAWS,
) -> Iterator[Row]:
    """Yield a row for each metric, group, control and site.

    Args:
        survey: The survey.
        metrics: Which.
        groups: Which; None for all items together.
        site_indices: Which sites; None for all that a metric has.
        draws: How intervals are made.
    """
    common = {
        "model": str(survey.provenance.get("model", "")),
        "lens": survey.lens.name,
        "edited": edited_line(survey).removeprefix("edited: "),
        "certified": is_certified(survey),
        "items": len(survey),
        "left_out": len(survey.left_out),
    }
    for metric in metrics:
        controls: list[str | None] = [None]
        if find_name(metric).has_control and usable_control(survey) is not None:
            controls += [each for each in CONTROLS if (ranked(survey, each) >= 0).any()]
        indices = sites_of(survey, metric) if site_indices is None else site_indices
        wanted = [Wanted(metric, control) for control in controls]
        for group in groups:
            n_items, n_drawn = len(survey.items_of(group)), n_clusters(survey, group)
            found = joint_intervals(survey, wanted, indices, group=group, draws=draws)
            for each in wanted:
                estimate, low, high, n = found[each]
                is_median = metric in MEDIAN and bool((n == n_items).all())
                for row, index in enumerate(indices):
                    site = survey.sites[index]
                    yield {
                        "metric": metric,
                        "group": group,
                        "control": each.control,
                        "statistic": "median" if is_median else "mean",
                        "layer": site.layer,
                        "component": site.component,
                        "head": site.head,
                        "estimate": float(estimate[row]),
                        "low": float(low[row]),
                        "high": float(high[row]),
                        "n": int(n[row]),
                        "clusters": n_drawn,
                        **common,
                    }


def tsv_of(rows: Iterator[Row]) -> str:
    """Return rows as tab-separated values under a header; an empty field for nothing."""
    file = io.StringIO()
    writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(row)
        writer.writerow([_field(value) for value in row.values()])
    return file.getvalue().removesuffix("\n")


def json_of(rows: Iterator[Row]) -> str:
    """Return rows as a JSON list of objects; null for what is no number."""
    entries = []
    for row in rows:
        entries.append({key: _or_null(value) for key, value in row.items()})
    return json.dumps(entries, ensure_ascii=False, indent=1)


def _or_null(value: Any) -> Any:
    """Return a value as JSON has it; it has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _field(value: Any) -> str:
    """Return a value as a field; yes and no are 1 and 0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return text_field(value) if isinstance(value, str) else str(value)
