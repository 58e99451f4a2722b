"""A survey as long-form pandas tables: each item at each site, or each point of each curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lens_recipes.arrays.certificate import is_certified
from lens_recipes.arrays.survey.arrays import CONTROLS, SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws
from lens_recipes.arrays.survey.metrics import item_values, ranked
from lens_recipes.views.frames import import_pandas
from lens_recipes.views.tables.survey.content import metrics_asked
from lens_recipes.views.tables.survey.rows import curve_rows

ALL_CURVES = ("emerged", "decided")  # beside the metrics of the table


def survey_frame(survey: SurveyArrays) -> Any:
    """Return what each item has at each site as a pandas frame: a row for each item and site.

    Columns: `number`, `id`, `group`, `cluster`, `position` and `prompt` of the item; `layer`,
    `component` and `head` of the site; `target`, `target_id` (the first spelling), `answer`, `top`
    and `top_id`; `rank`, `logprob`, `against_logprob`, `entropy`, `kl`, `correct`, `agrees`;
    `shuffled_rank`, `shuffled_logprob`, `random_rank` and `random_logprob` of the controls;
    `readable`; `model`, `lens`, `edited` and `certified`. Ranks are missing where an item has none.

    Raises:
        LensError: pandas is not installed.
    """
    pandas = import_pandas()
    n_items, n_sites = survey.ranks.shape
    of_item = np.repeat(np.arange(n_items), n_sites)
    of_site = np.tile(np.arange(n_sites), n_items)
    names = survey.names
    first_target = survey.target_ids[:, 0]
    columns: dict[str, Any] = {
        "number": survey.number[of_item],
        "id": _repeated(pandas, [name.id for name in names], of_item),
        "group": _repeated(pandas, [name.group for name in names], of_item),
        "cluster": _repeated(pandas, [name.cluster for name in names], of_item),
        "prompt": _repeated(pandas, [name.prompt for name in names], of_item),
        "position": survey.position[of_item],
        "layer": pandas.array([survey.sites[site].layer for site in of_site], dtype="Int64"),
        "component": _repeated(pandas, [site.component for site in survey.sites], of_site),
        "head": pandas.array([survey.sites[site].head for site in of_site], dtype="Int64"),
        "target": _repeated(pandas, _texts(survey, first_target), of_item),
        "target_id": first_target[of_item],
        "answer": _repeated(pandas, _texts(survey, survey.answer_ids), of_item),
        "top": _texts(survey, survey.top_ids.ravel()),
        "top_id": survey.top_ids.ravel(),
        "rank": _whole(pandas, survey.ranks),
        "logprob": survey.logprobs.ravel(),
        "against_logprob": survey.against_logprobs.ravel(),
        "entropy": survey.entropy.ravel(),
        "kl": survey.kl_to_final.ravel(),
        "correct": survey.ranks.ravel() == 0,
        "agrees": item_values(survey, "agreement").ravel() == 1,
        "readable": survey.readable.ravel(),
    }
    for control, name in CONTROLS.items():
        columns[f"{name}_rank"] = _whole(pandas, ranked(survey, control))
        columns[f"{name}_logprob"] = getattr(survey, f"{name}_logprobs").ravel()
    columns["model"] = str(survey.provenance.get("model", ""))
    columns["lens"] = survey.lens.name
    columns["edited"] = "; ".join(map(str, survey.edits))
    columns["certified"] = is_certified(survey)
    return pandas.DataFrame(columns)


def curve_frame(
    survey: SurveyArrays,
    *,
    metric: str | Sequence[str] | None = None,
    draws: Draws = DEFAULT_DRAWS,
) -> Any:
    """Return the curves of a survey as a pandas frame: a row for each point of each.

    Columns: `metric`, `group` (missing for all items together), `control` (missing for the answer
    itself), `statistic` ("mean" or "median"), `layer`, `component`, `head`, `estimate`, `low`,
    `high`, `n`, `clusters`, then `model`, `lens`, `edited`, `certified`, `items` and `left_out`.

    Args:
        survey: What `survey()` returns.
        metric: One metric or several; None for those that `survey` was told to show, or for all of
            the table, "emerged" and "decided".
        draws: How intervals are made.

    Raises:
        LensError: pandas is not installed.
        ValueError: no such metric.
    """
    pandas = import_pandas()
    metrics = metrics_asked(survey, metric, None)
    if metric is None and survey.shown.metrics is None and survey.has_line:
        metrics += ALL_CURVES
    groups: list[str | None] = [None]
    if len(survey.groups) > 1:
        groups += survey.groups
    rows = list(curve_rows(survey, metrics, groups, None, draws))
    frame = pandas.DataFrame(rows)
    for column in ("layer", "head", "clusters"):  # whole numbers, also where some are missing
        frame[column] = frame[column].astype("Int64")
    return frame


def _repeated(pandas: Any, values: list[str], index: Any) -> Any:
    """Return texts for each row, of which each is held once."""
    codes, texts = pandas.factorize(np.array(values, dtype=object))
    return pandas.Categorical.from_codes(codes[index], texts)


def _texts(survey: SurveyArrays, ids: Any) -> list[str]:
    """Return the texts of some tokens."""
    return [survey.texts.get(token, f"⟨{token}⟩") for token in np.asarray(ids).tolist()]


def _whole(pandas: Any, ranks: Any) -> Any:
    """Return ranks as whole numbers, missing where there is none."""
    flat = ranks.ravel()
    return pandas.arrays.IntegerArray(flat.astype(np.int64), flat < 0)
