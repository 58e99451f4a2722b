"""Write a survey as one page: curves, the table, and the items, each open at a click."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import DEFAULT_DRAWS, Draws
from lens_recipes.arrays.survey.findings import usable_control
from lens_recipes.arrays.survey.metrics import emergence
from lens_recipes.arrays.survey.pass_at_k import DEFAULT_KS, pass_at_k
from lens_recipes.arrays.survey.pass_table import cell_text
from lens_recipes.arrays.text import counted, visible_token
from lens_recipes.views.figures.survey.curves import accuracy_curve, emergence_curve, rank_curve
from lens_recipes.views.files.atomic import write_text
from lens_recipes.views.pages.html import (
    Fact,
    Fragment,
    embedded_figure,
    page_text,
    script_page,
    web_file,
)
from lens_recipes.views.policy import script_hash
from lens_recipes.views.summaries.survey.summary import survey_summary
from lens_recipes.views.summaries.survey.words import (
    group_names,
    model_words,
    passes_line,
    shortened,
    size_words,
)
from lens_recipes.views.tables.survey.content import SurveyTable, asked_of, survey_content
from lens_recipes.views.words import whole_text

MAX_ITEMS = 500  # on the page
MAX_LEFT_OUT = 200  # whose reasons are listed
PROMPT_LETTERS = 2000
TOKEN_LETTERS = 40
NAME_LETTERS = 80


def survey_page(
    survey: SurveyArrays,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    draws: Draws = DEFAULT_DRAWS,
) -> None:
    """Write one HTML file that needs no network: curves, the table, and the items to click on.

    The list of items can be filtered by group and sorted by rank. A click on an item opens its
    prompt, and what the lens says at every layer. A page has at most 500 items, spread evenly over
    all of them; it says so.

    Args:
        survey: What `survey()` returns.
        path: Where to, a name in .html.
        title: Replaces the page's own.
        draws: How intervals are made.

    Raises:
        ValueError: another suffix, or components of which none follows the layers.
        LensError: the path cannot be written.

    Example:
        >>> survey_page(survey, "survey.html")
    """
    if not str(path).lower().endswith((".html", ".htm")):
        raise ValueError(f"a page of a survey is an .html file; received {str(path)!r}.")
    _ = survey.layer_sites  # the page follows them
    figures = [
        embedded_figure(accuracy_curve(survey, draws=draws), "accuracy"),
        embedded_figure(emergence_curve(survey, draws=draws), "emergence"),
        embedded_figure(rank_curve(survey, draws=draws), "rank"),
    ]
    own_script = web_file("figures.js")
    painter = Fragment(f"<script>{own_script}</script>", (script_hash(own_script),))
    table = survey_content(survey, asked_of(survey, None, None, None, "auto", None, None, draws))
    shown = items_shown(survey)
    if title is None:
        title = f"Survey: {size_words(survey)}"
    page = script_page(
        "survey.html.j2",
        "survey.js",
        fragments=[*figures, painter],
        title=page_text(title),
        model=page_text(model_words(survey)),
        verdict=verdict(survey),
        mark=survey.mark,
        summary=page_text(survey_summary(survey, draws)),
        figures=[Markup(figure.html) for figure in figures],
        painter=Markup(painter.html),
        table=table_html(table),
        passes=passes_html(survey, draws),
        items_note=items_note(survey, shown),
        facts=[(page_text(fact.name), page_text(fact.text)) for fact in _facts(survey)],
        data=Markup(htmlsafe_json_dumps(item_data(survey, shown))),
    )
    write_text(path, page)


# -- items -------------------------------------------------------------


def items_shown(survey: SurveyArrays) -> list[int]:
    """Return the items that are on the page: all, or `MAX_ITEMS` spread evenly over them."""
    if len(survey) <= MAX_ITEMS:
        return list(range(len(survey)))
    return np.linspace(0, len(survey) - 1, MAX_ITEMS).round().astype(int).tolist()


def items_note(survey: SurveyArrays, shown: list[int]) -> str:
    """Return how many of the items the page has."""
    if len(shown) == len(survey):
        return f"all {counted(len(survey), 'item')}"
    return f"{len(shown)} of {counted(len(survey), 'item')}, spread evenly over all of them"


def item_data(survey: SurveyArrays, shown: list[int]) -> dict[str, Any]:
    """Return what the page's script shows of the items; all texts are legible on one line."""
    series = survey.layer_sites
    first = emergence(survey)
    readable = survey.readable
    texts: dict[int, int] = {}
    words: list[str] = []

    def word(token: int) -> int:
        """Return the number of a token's text."""
        if token not in texts:
            texts[token] = len(words)
            words.append(visible_token(survey.texts.get(token, f"⟨{token}⟩"), TOKEN_LETTERS))
        return texts[token]

    items = []
    groups = {group: number for number, group in enumerate(survey.groups)}
    for index in shown:
        name = survey.names[index]
        emerged = int(first[index])
        items.append(
            {
                "id": shortened(name.id, NAME_LETTERS),
                "group": groups[name.group],
                "cluster": shortened(name.cluster, NAME_LETTERS),
                "prompt": _prompt(name.prompt),
                "targets": [word(int(t)) for t in survey.target_ids[index] if t >= 0],
                "answer": word(int(survey.answer_ids[index])),
                "emerges": str(survey.sites[series[emerged]]) if emerged >= 0 else "never",
                "ranks": survey.ranks[index, series].tolist(),
                "logprobs": _numbers(survey.logprobs[index, series]),
                "kl": _numbers(survey.kl_to_final[index, series]),
                "tops": [word(int(token)) for token in survey.top_ids[index, series]],
                "readable": readable[index, series].astype(int).tolist(),
            }
        )
    return {
        "layers": [str(survey.sites[site]) for site in series],
        "groups": group_names(survey.groups, NAME_LETTERS) if len(groups) > 1 else [],
        "texts": words,
        "items": items,
    }


def _prompt(text: str) -> str:
    """Return a prompt with all that has no look of its own visible; the end of a long one."""
    shown = whole_text(text[-PROMPT_LETTERS - 1 :]).replace("·", " ")
    return shown if len(text) <= PROMPT_LETTERS else f"…{shown[1:]}"


def _numbers(values: Any) -> list[float | None]:
    """Return numbers in few digits; None for what JSON does not have."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


# -- table and facts ---------------------------------------------------


def table_html(table: SurveyTable) -> dict[str, Any]:
    """Return a table whose texts are safe as HTML."""
    rows = []
    for number, name in enumerate(table.rows):
        cells = [page_text(str(column.cells[number])) for column in table.columns]
        rows.append((page_text(name), cells))
    return {
        "headings": [
            page_text(table.row_heading),
            *(page_text(column.heading + column.n) for column in table.columns),
        ],
        "rows": rows,
        "notes": [page_text(note) for note in table.notes],
    }


def passes_html(survey: SurveyArrays, draws: Draws) -> dict[str, Any] | None:
    """Return pass@k of all items and of each group beside the control; None for one layer."""
    if len(survey.layer_sites) < 2:
        return None
    control = usable_control(survey)
    columns: list[tuple[str, int, str | None]] = []
    for place, k in enumerate(DEFAULT_KS):
        columns.append((f"pass@{k}", place, None))
        if control is not None:
            columns.append(("control", place, control))
    groups: list[str | None] = [None, *(survey.groups if len(survey.groups) > 1 else [])]
    names = ["all", *group_names([group for group in groups if group is not None])]
    rows = []
    for name, group in zip(names, groups, strict=True):
        found = {
            each: pass_at_k(survey, group=group, control=each, draws=draws)
            for each in (None, control)
        }
        cells = [cell_text(found[each], place) for _, place, each in columns]
        rows.append((page_text(name), [page_text(cell) for cell in cells]))
    noun = "items" if survey.clusters_of(survey.items_of(None)) is None else "clusters"
    note = (
        f"{passes_line(survey)}; each of the {noun} counts the same. The more layers, the more "
        "chances: compare on the same layers."
    )
    headings = [page_text(heading) for heading in ["group", *(name for name, _, _ in columns)]]
    return {"headings": headings, "rows": rows, "note": page_text(note)}


def _facts(survey: SurveyArrays) -> Iterator[Fact]:
    """Yield the items that were left out, and where the numbers come from."""
    for number, id_, reason, detail in survey.left_out[:MAX_LEFT_OUT]:
        yield Fact(f"left out: item {number}", f"{id_}: {reason}: {detail}")
    if len(survey.left_out) > MAX_LEFT_OUT:
        yield Fact("left out", f"and {len(survey.left_out) - MAX_LEFT_OUT} more")
    for key in ("model", "revision", "dtype", "recipe", "seconds", "remote"):
        if survey.provenance.get(key) is not None:
            yield Fact(key, str(survey.provenance[key]))
    versions = survey.provenance.get("versions")
    if isinstance(versions, dict):
        yield Fact("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
