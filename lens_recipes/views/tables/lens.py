"""What the sites of a lens result predict after one token, as grids of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import UNORDERED
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.grids import empty_grid, fits, print_note, truncate
from lens_recipes.views.words import probability, prompt_end, side_by_side, stream_of

VECTORS_SHOWN = 40

WORDS = (
    24,
    12,
    9,
    7,
)  # columns that a token may take, tried in turn; the first cuts none that `visible` has cut

LABEL = 17  # columns that the name of a row may take where there is little room

Cell = tuple[str, int, int]  # a row's label, its site and its token


class Layout(NamedTuple):
    """How much a grid shows: predictions, columns of a word, which numbers, how many of the targets.

    In a `narrow` one labels are cut, and a target stands below "rank of".
    """

    tops: int
    word: int
    numbers: tuple[str, ...]
    targets: int
    narrow: bool = True


def one_token(
    one: LensArrays,
    console: Console,
    token: int,
    show_top: int,
    rows: list[int],
    merge: bool = False,
) -> None:
    """What some sites predict after one token; `merge` as in `_runs`."""
    beside, show_top = (
        side_by_side(one.sites[s] for s in rows),
        min(show_top, one.top_ids.shape[-1]),
    )
    if len(beside) > 1:
        apart = (
            ("head_out",) if stream_of(beside) else ("head_out", "embed")
        )  # these get rows of their own
        layered = [s for s in rows if one.sites[s].component not in apart]
        _side_by_side(one, console, token, show_top, layered, beside)
        rows = [s for s in rows if one.sites[s].component in apart]
        if rows:
            console.print()
    if rows:
        labelled = _runs if merge else _singly
        _print_grid(one, console, lambda tops: labelled(one, rows, token, tops), show_top)


def print_vectors(result: LensArrays, console: Console, show_top: int) -> None:
    """A row for each vector: there are no layers, and no answer of a model to compare with."""
    cells = vector_cells(result)
    _print_grid(result, console, lambda _: cells, show_top, first="vector", numbers=("entropy",))
    if more := more_vectors(result):
        console.print(Text(f"\n{more}"))


def vector_cells(result: LensArrays) -> list[Cell]:
    """The rows of `print_vectors`."""
    return [
        (prompt_end(name, 40), 0, t) for t, name in enumerate(result.tokens.text[:VECTORS_SHOWN])
    ]


def more_vectors(result: LensArrays) -> str:
    """What is to be said of the vectors that are left out; empty for none."""
    left = len(result.tokens) - VECTORS_SHOWN
    return (
        f"… and {left} more vector{'' if left == 1 else 's'}: result.to_frame()" if left > 0 else ""
    )


def _singly(one: LensArrays, rows: list[int], token: int, tops: int) -> list[Cell]:
    return [(str(one.sites[s]), s, token) for s in rows]


def _runs(one: LensArrays, rows: list[int], token: int, tops: int) -> list[Cell]:
    """Neighbours that say the same, one top-1 and the same others, as one row with the numbers of the last of them."""
    runs: list[list[int]] = []
    for s in rows:
        if runs and _says_the_same(one, runs[-1][-1], s, token, tops):
            runs[-1].append(s)
        else:
            runs.append([s])
    several = {run[-1]: f"{one.sites[run[0]].layer}–" for run in runs if len(run) > 1}
    return [(f"{several.get(run[-1], '')}{one.sites[run[-1]]}", run[-1], token) for run in runs]


def _says_the_same(one: LensArrays, a: int, b: int, token: int, tops: int) -> bool:
    this, that = one.top_ids[a, token, :tops], one.top_ids[b, token, :tops]
    ordered = one.sites[a].component == one.sites[b].component not in UNORDERED
    return ordered and this[0] == that[0] and set(this.tolist()) == set(that.tolist())


# -- one row for each site ---------------------------------------------


def _print_grid(
    one: LensArrays,
    console: Console,
    cells: Callable[[int], list[Cell]],
    show_top: int,
    first: str = "layer",
    numbers: tuple[str, ...] = ("entropy", "KL"),
) -> None:
    """Print as much as the width takes of the rows that `cells` gives for so many predictions, and what is missing."""
    n_targets = one.target_ids.shape[1]
    for layout in _layouts(show_top, numbers, n_targets):
        grid = _grid(one, cells(layout.tops), layout, first)
        if fits(console, grid):
            break
    console.print(grid)
    missing = [name for name in numbers if name not in layout.numbers]
    missing += [
        f"rank of {visible_token(one.text(i))}" for i in one.target_ids[0, layout.targets :]
    ]
    if missing:
        print_note(console, f"no room for {', '.join(missing)}")


def _layouts(show_top: int, numbers: tuple[str, ...], targets: int) -> Iterator[Layout]:
    """From the widest to the narrowest: what was asked for, the targets, goes last."""
    for tops in range(show_top, 0, -1):
        yield Layout(tops, WORDS[0], numbers, targets, narrow=False)
    kept = [(numbers[n:], targets) for n in range(len(numbers) + 1)]
    kept += [((), n) for n in range(targets - 1, -1, -1)]
    for some, n in kept:
        yield from (Layout(1, word, some, n) for word in WORDS[1:])


def _grid(one: LensArrays, cells: list[Cell], layout: Layout, first: str) -> Table:
    grid = empty_grid()
    grid.add_column(first, justify="right", no_wrap=True)
    for k in range(layout.tops):
        grid.add_column(f"top {k + 1}", no_wrap=True)
    names = [
        truncate(visible_token(one.text(i)), layout.word)
        for i in one.target_ids[0, : layout.targets]
    ]
    below = "\n" if layout.narrow else " "
    for name in (*layout.numbers, *(f"rank of{below}{name}" for name in names)):
        grid.add_column(Text(name), justify="right", no_wrap=True)
    for label, s, token in cells:
        tops = [
            Text(f"{truncate(visible_token(one.text(i)), layout.word)} {probability(p)}")
            for i, p in zip(
                one.top_ids[s, token, : layout.tops], one.top_logprobs[s, token], strict=False
            )
        ]
        if one.final_ranks[s, token] == 0:
            tops[0].stylize("bold green")  # what the model will answer
        elif one.tokens.generated[token]:
            for top, i in zip(tops, one.top_ids[s, token], strict=False):
                top.stylize("yellow" if i == one.tokens.next_id[token] else "")  # what it wrote
        values = {"entropy": one.entropy, "KL": one.kl_to_final}
        numbers = [f"{values[name][s, token]:.2f}" for name in layout.numbers]
        ranks = map(str, one.target_ranks[s, token, : layout.targets])
        grid.add_row(
            Text(truncate(label, LABEL) if layout.narrow else label), *tops, *numbers, *ranks
        )
    return grid


# -- components side by side -------------------------------------------


def _side_by_side(
    one: LensArrays, console: Console, token: int, show_top: int, rows: list[int], beside: list[str]
) -> None:
    """A row for each layer, a column for each component; in further tables below what the width does not take."""

    def grid(columns: list[str], word: int) -> Table:
        return _abreast(one, token, show_top, rows, beside, columns, word)

    def widest(groups: list[list[str]]) -> int:
        return next(
            (word for word in WORDS if all(fits(console, grid(group, word)) for group in groups)), 0
        )

    word = widest([beside]) or widest([[name] for name in beside]) or WORDS[-1]
    start = 0
    while start < len(beside):
        if start:
            console.print()
        stops = range(len(beside), start, -1)
        stop = next(
            (stop for stop in stops if fits(console, grid(beside[start:stop], word))), start + 1
        )
        console.print(grid(beside[start:stop], word))
        start = stop


def _abreast(
    one: LensArrays,
    token: int,
    show_top: int,
    rows: list[int],
    beside: list[str],
    columns: list[str],
    word: int,
) -> Table:
    """Some of the columns of the components that stand side by side, a token in at most `word` columns of text."""
    cells: dict[str, dict[str, list[tuple[str, str, str]]]] = {}
    for s in rows:
        site = one.sites[s]
        label, column = str(site.layer), site.component
        if column == "embed":  # what enters layer 0 stands above what leaves it
            label, column = "embed", stream_of(beside) or ""
        if column in columns:
            cells.setdefault(label, {})[column] = _lines(one, s, token, show_top, word)
    grid = empty_grid()
    grid.add_column("layer", justify="right", no_wrap=True)
    for column in columns:
        grid.add_column(column, no_wrap=True)
    for label, row in cells.items():
        grid.add_row(
            label, *(_aligned(row.get(column, []), _widest(cells, column)) for column in columns)
        )
    return grid


def _lines(
    one: LensArrays, s: int, token: int, show_top: int, word: int
) -> list[tuple[str, str, str]]:
    """What one cell says, line by line: word, number, style."""
    tops = zip(one.top_ids[s, token, :show_top], one.top_logprobs[s, token], strict=False)
    lines = [(truncate(visible_token(one.text(i)), word), probability(p), "") for i, p in tops]
    if one.final_ranks[s, token] == 0:
        lines[0] = (*lines[0][:2], "bold green")  # what the model will answer
    ranks = zip(one.target_ids[0], one.target_ranks[s, token], strict=True)
    return lines + [
        (truncate(visible_token(one.text(i)), word), f"rank {rank}", "dim") for i, rank in ranks
    ]


def _widest(cells: dict[str, Any], column: str) -> int:
    words = [word for row in cells.values() for word, _, _ in row.get(column, [])]
    return max(map(cell_len, words), default=0)


def _aligned(lines: list[tuple[str, str, str]], wide: int) -> Text:
    texts = [
        Text(word + " " * (wide - cell_len(word)) + f" {number}", style)
        for word, number, style in lines
    ]
    return Text("\n").join(texts)
