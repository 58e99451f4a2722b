"""Show a result as a table: `table()` and `render()`, for every kind of result and format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import Important
from lens_recipes.views.tables.grids import NARROWEST, WIDEST, console_text, string_console
from lens_recipes.views.tables.markdown import markdown
from lens_recipes.views.tables.selection import FORMATS, select
from lens_recipes.views.tables.terminal import print_table
from lens_recipes.views.tables.tsv import tsv


def table(
    result: LensArrays | AttributionArrays,
    *,
    prompt: int | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
    format: str = "text",
    width: int | None = None,
) -> str:
    """What each layer predicts after one token of each prompt; of an attribution, the parts that matter most there.

    In a text, several components stand side by side, a layer's predictions one below the other; the other formats
    have a row for each site. Vectors (`decode_vectors`) have a row each.

    Args:
        result: Any lens result or attribution.
        prompt: One prompt, by its number. None for the first three, in "tsv" for all.
        position: Which of the prompt's selected tokens, an index into them; −1 is the last. (Vectors are all shown.)
        show_top: Predictions per layer, with their probabilities: None for 5, or for 1 of each of several components.
            Of an attribution, parts per target: None for 10.
        sites: None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the sites of this one.
        stride: Show every n-th layer, counted from the last, which is always there. None: about 40 layers, or all of
            the `sites` that were named. A table that leaves layers out says so; "tsv" has the columns `site` and
            `sites`, which one of how many.
        format: "text"; "markdown", pipe tables for GitHub; or "tsv", one table with a header, in full precision.
        width: Columns of a text, at least 40; no line is wider. It has fewer predictions, then shorter tokens, then
            fewer columns, and says which are missing. None for 250.

    Raises:
        ValueError: an unknown format, or an argument that does not go with the format or the result.

    Example:
        >>> print(table(result, width=80))
        >>> Path("lens.md").write_text(table(result, format="markdown", stride=4))
    """
    if format not in FORMATS:
        raise ValueError(
            f"format={format!r} is unknown: accepted are {', '.join(map(repr, FORMATS))}."
        )
    if width is not None and format != "text":
        raise ValueError(
            f'width={width} goes with format="text" only: leave it out for {format!r}.'
        )
    if width is not None and width < NARROWEST:
        raise ValueError(
            f"width={width} is too narrow for a table: it takes at least {NARROWEST} columns."
        )
    shown = select(result, prompt, position, show_top, sites, component, stride)
    if format == "markdown":
        return markdown(result, shown)
    if format == "tsv":
        return tsv(result, shown)
    console = string_console(width or WIDEST)
    print_table(result, console, shown)
    return console_text(console)


def render(result: LensArrays | AttributionArrays, console: Console, **options: Any) -> None:
    """`table` as text on a rich console, as wide as that is, with colours where it has them."""
    print_table(result, console, select(result, **options))
