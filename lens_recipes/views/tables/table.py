"""Show a result as a table: `table()` and `render()`, for every kind of result and format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import Important
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.caller import advised, argument
from lens_recipes.terminal import PrintedText
from lens_recipes.views.tables.grids import NARROWEST
from lens_recipes.views.tables.markdown.document import markdown_table
from lens_recipes.views.tables.patch_map import patch_table
from lens_recipes.views.tables.programs.json_rows import json_table
from lens_recipes.views.tables.programs.tsv import tsv_table
from lens_recipes.views.tables.selection import Selection, select
from lens_recipes.views.tables.terminal import print_table, text_table

FORMATS: dict[str, Callable[[LensArrays | AttributionArrays, Selection], str]] = {
    "text": text_table,
    "markdown": markdown_table,
    "tsv": tsv_table,
    "json": json_table,
}


def table(
    result: LensArrays | AttributionArrays | PatchMapArrays,
    *,
    prompt: int | Iterable[int] | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
    max_prompts: int | None = None,
    beside: LensArrays | Iterable[LensArrays] | None = None,
    format: str = "text",
    width: int | None = None,
) -> str:
    """Return what each layer predicts after one token of each prompt, as a table.

    Of several prompts it is one table with a row for each: its target, the target's rank at the
    last layer, the layer from which the target is top-1, and what the model answers; without
    targets, the model's answer and the layer from which it is top-1. Layer by layer it is where
    `prompt`, or which layers, are named.

    Of an attribution, the table has the parts that matter most after that token; of four prompts or
    more their means, with standard errors and the number of prompts in which they help. Of a patch
    map, the cells that recover most (`show_top`, `format` but "json"). Vectors
    (`decode_vectors`) have a row each. In a text, several components stand side by side, a layer's
    predictions one below the other; "tsv" has a row for each prompt and site.

    Args:
        result: Any lens result, attribution or patch map.
        prompt: One prompt layer by layer (part by part), by its number, or several, such as
            [0, 1, 2]. None for the table of all; layer by layer the first three, in "tsv" and
            "json" all.
        position: Which of the prompt's selected tokens, an index into them; −1 is the last.
            Vectors are all shown.
        show_top: Predictions per layer, with their probabilities: None for 5, or for 1 of each of
            several components. Of an attribution, parts per target: None for 10.
        sites: None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the sites of this one.
        stride: Show every n-th layer, counted from the last, which is always shown. None for about
            40 layers, or for all of the `sites` that are named. A table that leaves layers out says
            so; "tsv" and "json" have the columns `site` and `sites`: which one of how many.
        max_prompts: How many of the prompts a text shows at most; None for 40 rows of the table of
            all, or for three layer by layer. "tsv" and "json" have all.
        beside: One result or several of the same tokens, read with other lenses or of edited runs:
            the table then has a column for each, with its top-1 at each layer, KL and the ranks of
            the targets. Below it stands which sees which token earlier. For "text" and "markdown".
        format: "text"; "markdown", pipe tables for GitHub; "tsv", one table with a header, in
            full precision; or "json", a list of its rows as objects. In "tsv", a text that a
            spreadsheet would compute, as it begins with = + - or @, has an apostrophe before it.
        width: Columns of a text, at least 40; no line is wider. A narrow text has fewer
            predictions, then shorter tokens, then fewer columns, and says which are missing. None
            for 250.

    Returns:
        The table, without a line break at its end. At the end of a notebook's cell it is shown as
        `print` shows it.

    Raises:
        ValueError: An unknown format, or an argument that does not go with the format or the
            result.

    Example:
        >>> print(table(result, width=80))
        >>> print(table(result, beside=logit_lens(model, prompt, lens=lens)))
        >>> Path("lens.md").write_text(table(result, format="markdown", stride=4))
    """
    if isinstance(result, PatchMapArrays):
        return PrintedText(patch_table(result, show_top=show_top or 10, format=format))
    if isinstance(result, SurveyArrays):
        raise ValueError("received a survey: its table is made by its own method, survey.table().")
    _check_format(format, width)
    if beside is not None and format not in ("text", "markdown"):
        raise ValueError(
            f"beside= goes with text and markdown, not with {argument('format', format)}: there, "
            "make a table of each result; the column `lens` tells their rows apart."
        )
    selection = select(
        result, prompt, position, show_top, sites, component, stride, max_prompts, beside
    )
    if width is not None:  # only a text has one
        return PrintedText(text_table(result, selection, width))
    return PrintedText(FORMATS[format](result, selection))


def render(result: LensArrays | AttributionArrays, console: Console, **options: Any) -> None:
    """Print `table` as text on a rich console, as wide as that is, with colours where it has them.

    Args:
        result: Any lens result or attribution.
        console: Where the table goes.
        options: Arguments of `table`, without `format` and `width`.
    """
    print_table(result, console, select(result, **options))


def _check_format(format: str, width: int | None) -> None:
    """Raise a ValueError unless the format is known and the width goes with it."""
    if format not in FORMATS:
        accepted = ", ".join(map(repr, FORMATS))
        raise ValueError(f"{argument('format', format)} is unknown: accepted are {accepted}.")
    if width is None:
        return
    if format != "text":
        raise ValueError(
            f"{argument('width', width)} goes with {advised('format', 'text')} only: leave it out "
            f"for {format!r}."
        )
    if width < NARROWEST:
        raise ValueError(
            f"{argument('width', width)} is too narrow for a table: it takes at least {NARROWEST} "
            "columns."
        )
