"""Print what a lens result predicts: after one token, or for each vector."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.views.groups import side_by_side, stream_of
from lens_recipes.views.summaries.trust import UNFITTED_MARK, unfitted_sentence, unreadable_sentence
from lens_recipes.views.tables.lens.grid import print_grid
from lens_recipes.views.tables.lens.rows import (
    UNREADABLE_MARK,
    Row,
    merged_rows,
    site_rows,
    vector_rows,
    vectors_note,
)
from lens_recipes.views.tables.lens.side_by_side import ComponentGrid


def print_predictions(
    result: LensArrays,
    console: Console,
    token_index: int,
    show_top: int,
    site_indices: list[int],
    *,
    merge: bool = False,
) -> None:
    """Print what some sites predict after one token.

    Several components stand side by side; heads, and an embedding that no stream continues, have
    rows of their own below.

    Args:
        result: A result of one prompt.
        console: Where the grids go.
        token_index: Which of `result.tokens`.
        show_top: Predictions of each site, as many as the width takes.
        site_indices: Which sites.
        merge: Whether neighbouring layers that predict the same share a row.
    """
    show_top = min(show_top, result.top_ids.shape[-1])
    sentence = unreadable_sentence(result, [token_index])
    if sentence:
        console.print(Text(f"{sentence} (marked {UNREADABLE_MARK})", style="bold"))
    unfitted = unfitted_sentence(result, [token_index])
    if unfitted:
        console.print(Text(f"{UNFITTED_MARK} {unfitted}", style="bold"))
    components = side_by_side(result.sites[site_index] for site_index in site_indices)
    with_own_row = site_indices
    if len(components) > 1:
        apart = _components_apart(components)
        abreast, with_own_row = [], []
        for site_index in site_indices:
            if result.sites[site_index].component in apart:
                with_own_row.append(site_index)
            else:
                abreast.append(site_index)
        ComponentGrid(result, token_index, show_top, abreast, components).print(console)
        if with_own_row:
            console.print()
    if not with_own_row:
        return

    def rows_for(show_top: int) -> list[Row]:
        """Return the rows of a grid with so many predictions in each."""
        if merge:
            return merged_rows(result, with_own_row, token_index, show_top)
        return site_rows(result, with_own_row, token_index)

    print_grid(result, console, rows_for, show_top)


def _components_apart(components: list[str]) -> tuple[str, ...]:
    """Return the components that do not stand among those that stand side by side.

    The embedding tops the column of the residual stream, if there is one.
    """
    if stream_of(components) is None:
        return ("head_out", "embed")
    return ("head_out",)


def print_vectors(result: LensArrays, console: Console, show_top: int) -> None:
    """Print a row for each vector of `decode_vectors`."""
    rows = vector_rows(result)
    print_grid(result, console, lambda _: rows, show_top, heading="vector")
    note = vectors_note(result)
    if note:
        console.print(Text(f"\n{note}"))
