"""`comparison_table()`: how two surveys of the same items differ, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lens_recipes.arrays.sites import thinned_sites
from lens_recipes.arrays.survey.compare import SurveyComparison
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.text import counted
from lens_recipes.caller import argument
from lens_recipes.terminal import PrintedText
from lens_recipes.views.summaries.survey.words import shortened
from lens_recipes.views.tables.grids import NARROWEST, WIDEST
from lens_recipes.views.tables.survey.content import TABLE_ROWS, Cell, SurveyColumn, SurveyTable
from lens_recipes.views.tables.survey.formats import latex_of, markdown_of, text_of
from lens_recipes.views.tables.survey.rows import json_of, tsv_of

LEVEL = 0.05  # of corrected p below which a difference is marked
SIGNIFICANT = "*"
FORMATS = ("text", "markdown", "latex", "tsv", "json")


def comparison_table(
    comparison: SurveyComparison,
    *,
    names: Sequence[str] = ("the first", "the other"),
    stride: int | None = None,
    format: str = "text",
    width: int | None = None,
) -> str:
    """Return the paired differences of two surveys with intervals and p-values, as a table.

    Args:
        comparison: What `compare_surveys` returns.
        names: What the two surveys are called, in the order in which they were compared.
        stride: Show every n-th layer, counted from the last; None for about 20, in "tsv" and "json"
            all.
        format: "text", "markdown", "latex", "tsv" or "json".
        width: Columns of a text; None for 250.

    Raises:
        ValueError: an unknown format, too narrow a width, or not two names.
    """
    if format not in FORMATS:
        accepted = ", ".join(map(repr, FORMATS))
        raise ValueError(f"{argument('format', format)} is unknown: accepted are {accepted}.")
    if width is not None and (not isinstance(width, int) or width < NARROWEST):
        raise ValueError(
            f"{argument('width', width)} must be a whole number of columns, at least {NARROWEST}."
        )
    if format == "tsv":
        return PrintedText(tsv_of(comparison_rows(comparison)))
    if format == "json":
        return PrintedText(json_of(comparison_rows(comparison)))
    table = comparison_content(comparison, names, stride)
    if format == "markdown":
        return PrintedText(markdown_of(table))
    if format == "latex":
        return PrintedText(latex_of(table))
    return PrintedText(text_of(table, WIDEST if width is None else width))


def comparison_content(
    comparison: SurveyComparison, names: Sequence[str], stride: int | None
) -> SurveyTable:
    """Return the table of a comparison."""
    sites = comparison.sites
    if stride is None:
        stride = max(1, math.ceil(len({site.layer for site in sites}) / TABLE_ROWS))
    rows = thinned_sites(sites, list(range(len(sites))), stride)
    differences, p_values, corrected, against = [], [], [], []
    estimate, low, high, _ = comparison.difference
    for row in rows:
        number, interval = difference_parts(
            comparison.metric, float(estimate[row]), float(low[row]), float(high[row])
        )
        is_significant = comparison.test.corrected_p[row] < LEVEL
        differences.append(Cell(number, interval, SIGNIFICANT if is_significant else ""))
        p_values.append(Cell(p_value(float(comparison.test.p[row]))))
        corrected.append(Cell(p_value(float(comparison.test.corrected_p[row]))))
        against.append(Cell(str(comparison.other_sites[row])))
    columns = [SurveyColumn("difference", "", "difference", differences, 0)]
    columns.append(SurveyColumn("corrected p", "", "corrected p", corrected, 1))
    columns.append(SurveyColumn("p", "", "p", p_values, 2))
    if comparison.sites != comparison.other_sites:
        columns.insert(0, SurveyColumn("against", "", "against", against, 1))
    notes = []
    if len(rows) < len(sites):
        shown = f"{len(rows)} of {counted(len(sites), 'site')}"
        notes.append(f"{shown}, counted from the last; {argument('stride', 1)} shows all")
    unit = {"share": "points of per cent", "nats": "nats"}.get(find_name(comparison.metric).unit)
    in_unit = f", in {unit}" if unit else ""
    notes.append(
        f"in brackets: {confidence_words(comparison)} intervals of the difference{in_unit}, "
        "resampled pair by pair"
    )
    notes.append(
        f"p: sign-flip permutation test; corrected over all layers (max-T); {SIGNIFICANT}: "
        f"corrected p < {LEVEL:g}"
    )
    about = [pairs_line(comparison), changed_line(comparison), aligned_line(comparison)]
    notes += filter(None, about)
    notes += run_lines(comparison, names)
    components = {site.component for site in sites}
    return SurveyTable(
        title=comparison_title(comparison, names),
        rows=[str(sites[row]) for row in rows],
        row_heading="layer" if components == {"resid_post"} else "site",
        columns=columns,
        notes=notes,
        mark="",
    )


# -- words -------------------------------------------------------------


def comparison_title(comparison: SurveyComparison, names: Sequence[str]) -> str:
    """Return what was subtracted from what.

    Raises:
        ValueError: not two names.
    """
    are_two = isinstance(names, Sequence) and not isinstance(names, str) and len(names) == 2
    if not are_two:
        raise ValueError(f"{argument('names', names)} must be two: of the first, and of the other.")
    first, other = (shortened(str(name)) for name in names)
    return f"Difference in {metric_words(comparison)}: {other} minus {first}"


def metric_words(comparison: SurveyComparison) -> str:
    """Return what the metric is called where its mean is taken: that of ranks, too."""
    name = find_name(comparison.metric)
    return "mean rank" if name.unit == "rank" else name.title


def confidence_words(comparison: SurveyComparison) -> str:
    """Return how sure the intervals are, such as "95%"."""
    return f"{100 * comparison.draws.confidence:g}%"


def pairs_line(comparison: SurveyComparison) -> str:
    """Return how many pairs there are, and how many items have no partner or no number."""
    words = counted(comparison.n_pairs, "pair of items", "pairs of items")
    left_out = []
    if comparison.n_unpaired:
        left_out.append(f"{counted(comparison.n_unpaired, 'item')} that only one of them has")
    if comparison.n_without:
        name = find_name(comparison.metric).title
        left_out.append(f"{counted(comparison.n_without, 'pair')} without a {name}")
    words += f"; left out: {', '.join(left_out) or 'none'}"
    if not any(math.isfinite(low) for low in comparison.difference.low.tolist()):
        words += "; no intervals: too few clusters"
    return words


def changed_line(comparison: SurveyComparison) -> str:
    """Return how many pairs are perhaps of other items; empty where all are of the same."""
    if not comparison.n_changed:
        return ""
    n_pairs = counted(comparison.n_pairs, "pair")
    return (
        f"{comparison.n_changed} of {n_pairs} have another prompt or target in each survey: they "
        "are paired by id alone"
    )


def run_lines(comparison: SurveyComparison, names: Sequence[str]) -> list[str]:
    """Return what each of the two surveys is of, with its proof: one line where both are alike."""
    first, other = comparison.runs
    if not first or not other:
        return []
    if first == other:
        return [f"both: {first}"]
    named = zip(names, comparison.runs, strict=True)
    return [f"{shortened(str(name))}: {run}" for name, run in named]


def aligned_line(comparison: SurveyComparison) -> str:
    """Return what there is to be said of the layers: that they stand against others, or alone."""
    words = []
    if comparison.sites != comparison.other_sites:
        words.append("layers are paired by relative depth")
    if comparison.n_sites_alone:
        n_sites = len(comparison.sites) + comparison.n_sites_alone
        words.append(f"{len(comparison.sites)} of {counted(n_sites, 'site')}: both read these")
    return "; ".join(words)


def difference_parts(metric: str, estimate: float, low: float, high: float) -> tuple[str, str]:
    """Return a difference with its sign, and its interval; shares are in points of per cent.

    >>> difference_parts("accuracy@1", 0.125, 0.05, 0.2)
    ('+12', '[+5, +20]')
    """
    if math.isnan(estimate):
        return "–", ""
    number = _signed(metric, estimate)
    if math.isnan(low):
        return number, ""
    return number, f"[{_signed(metric, low)}, {_signed(metric, high)}]"


def difference_number(metric: str, estimate: float, low: float, high: float) -> str:
    """Return a difference with its interval and its unit: "+12 [+5, +20] points"."""
    number, interval = difference_parts(metric, estimate, low, high)
    unit = {"nats": "nats", "share": "points"}.get(find_name(metric).unit, "")
    return " ".join(filter(None, (number, interval, unit)))


def _signed(metric: str, value: float) -> str:
    """Return a number with its sign."""
    unit = find_name(metric).unit
    if unit == "share":
        points = f"{100 * value:+.0f}"
        return "0" if points in ("+0", "-0") else points
    if unit == "rank" and abs(value) >= 10:
        return f"{value:+,.0f}"
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def p_value(p: float) -> str:
    """Return a p-value as text.

    >>> p_value(0.0004998), p_value(0.047), p_value(0.25)
    ('0.0005', '0.047', '0.25')
    """
    if p < 0.01:
        return f"{p:.1g}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def comparison_rows(comparison: SurveyComparison) -> Iterator[dict[str, object]]:
    """Yield a row for each site, for other programs."""
    estimate, low, high, n = comparison.difference
    for place, site in enumerate(comparison.sites):
        other = comparison.other_sites[place]
        yield {
            "metric": comparison.metric,
            "layer": site.layer,
            "component": site.component,
            "head": site.head,
            "other_layer": other.layer,
            "difference": float(estimate[place]),
            "low": float(low[place]),
            "high": float(high[place]),
            "p": float(comparison.test.p[place]),
            "corrected_p": float(comparison.test.corrected_p[place]),
            "n": int(n[place]),
            "unpaired": comparison.n_unpaired,
            "without": comparison.n_without,
            "changed": comparison.n_changed,
        }
