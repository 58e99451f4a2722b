"""`survey_table()`: a survey as a table, in each format."""

from __future__ import annotations

from collections.abc import Sequence

from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws
from lens_recipes.caller import advised, argument
from lens_recipes.terminal import PrintedText
from lens_recipes.views.tables.grids import NARROWEST, WIDEST
from lens_recipes.views.tables.survey.content import LATEX_METRICS, Asked, asked_of, survey_content
from lens_recipes.views.tables.survey.formats import latex_of, markdown_of, text_of
from lens_recipes.views.tables.survey.rows import curve_rows, json_of, tsv_of

FORMATS = ("text", "markdown", "latex", "tsv", "json")


def survey_table(
    survey: SurveyArrays,
    *,
    metric: str | Sequence[str] | None = None,
    by: str | None = None,
    group: str | None = None,
    control: str | None = "auto",
    component: str | None = None,
    stride: int | None = None,
    format: str = "text",
    width: int | None = None,
    draws: Draws = DEFAULT_DRAWS,
) -> str:
    """Return the metrics of a survey layer by layer, each with its interval, as a table.

    Beside a metric that looks at the answer stands its control. Below the table stand how many
    items were left out and why, and the certificate.

    Args:
        survey: What `survey()` returns.
        metric: One metric or several, of "accuracy@1", "accuracy@5", "accuracy@10", "rank",
            "reciprocal_rank", "logprob", "prob", "logit_diff", "entropy", "kl", "agreement",
            "emerged" and "decided"; None for all but "prob" and the last two,
            in "latex" for five.
        by: "group" for a column for each group, of one metric ("accuracy@1" where none is named).
        group: Only the items of this group; None for all.
        control: What stands in the answer's place beside it: "shuffle", "random", "auto" for the
            first that there is, or None for no control.
        component: None for all, or only the sites of this one.
        stride: Show every n-th layer, counted from the last; None for about 20 layers, in "tsv" and
            "json" all.
        format: "text", "markdown", "latex" (for the package booktabs), or for programs "tsv" and
            "json": a row for each metric, group, control and site, with both controls.
        width: Columns of a text, at least 40. A narrow text has fewer columns, and says which are
            missing. None for 250.
        draws: How intervals are made.

    Raises:
        ValueError: an unknown metric, group, control, component or format, or an argument that does
            not go with the format.
    """
    if format not in FORMATS:
        accepted = ", ".join(map(repr, FORMATS))
        raise ValueError(f"{argument('format', format)} is unknown: accepted are {accepted}.")
    if width is not None and format != "text":
        raise ValueError(
            f"{argument('width', width)} goes with {advised('format', 'text')} only: leave it out "
            f"for {format!r}."
        )
    if width is not None and not isinstance(width, int):
        raise ValueError(f"{argument('width', width)} must be a whole number of columns.")
    if width is not None and width < NARROWEST:
        raise ValueError(
            f"{argument('width', width)} is too narrow for a table: it takes at least {NARROWEST} "
            "columns."
        )
    for_programs = format in ("tsv", "json")
    if for_programs and stride is None:
        stride = 1
    if format == "latex" and metric is None and by is None and survey.shown.metrics is None:
        metric = LATEX_METRICS
    asked = asked_of(survey, metric, by, group, control, component, stride, draws)
    if for_programs:
        rows = curve_rows(survey, asked.metrics, _groups(survey, asked), asked.site_indices, draws)
        return PrintedText(tsv_of(rows) if format == "tsv" else json_of(rows))
    content = survey_content(survey, asked)
    if format == "markdown":
        return PrintedText(markdown_of(content))
    if format == "latex":
        return PrintedText(latex_of(content))
    return PrintedText(text_of(content, WIDEST if width is None else width))


def _groups(survey: SurveyArrays, asked: Asked) -> list[str | None]:
    """Return the groups that rows for a program are about; None is all items together."""
    if not asked.by_group:
        return [asked.group]
    if asked.group is not None:
        return [asked.group]
    return [None, *survey.groups] if len(survey.groups) > 1 else [None]
