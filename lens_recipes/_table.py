"""A result as text: `table()`, what each site would say next."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .components import UNORDERED, Important, are_vectors, chosen, components, token_index
from .display import visible
from .result import LensResult, Site

PROMPTS_SHOWN = 3  # by str(result); `table(result[i])` shows any other
VECTORS_SHOWN = 40
NARROWER = (12, 9, 7)  # characters of a token, tried in turn where components stand side by side


def table(
    result: LensResult,
    *,
    position: int = -1,
    show_top: int = 5,
    width: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
) -> str:
    """What each layer predicts after one token of each prompt, as plain text.

    Where several components were read they stand side by side, a layer's predictions one below the other. Vectors
    (`decode_vectors`) have a row each.

    Args:
        result: Any lens result; its first three prompts are shown. `table(result[7])` shows another.
        position: Which of the prompt's selected tokens, an index into them; −1 is the last. (Vectors are all shown.)
        show_top: Predictions per layer, with their probabilities.
        width: Columns of the text; None for as wide as it needs.
        sites: None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the sites of this one, with entropy and KL.

    Raises:
        ValueError: a position, site or component that was not read.
    """
    if show_top < 1:
        raise ValueError(f"show_top={show_top} must be at least 1.")
    console = Console(file=io.StringIO(), width=width or 250, color_system=None, legacy_windows=False)
    render(result, console, position=position, show_top=show_top, sites=sites, component=component)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def render(
    result: LensResult,
    console: Console,
    *,
    position: int = -1,
    show_top: int = 5,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
) -> None:
    """`table` on a rich console, with colours where it has them."""
    rows = chosen(result.sites, sites, component)
    if result.mark:
        console.print(Text(result.mark, style="bold red"))
    if are_vectors(result.sites):
        _vectors(result, console, show_top)
    else:
        for number, one in zip(range(PROMPTS_SHOWN), result, strict=False):
            if number:
                console.print()
            _one_prompt(one, console, position, show_top, rows)
        if len(result) > PROMPTS_SHOWN:
            console.print(Text(f"\n… and {len(result) - PROMPTS_SHOWN} more prompts: table(result[i])"))
    proof(result, console)


def proof(result: LensResult, console: Console) -> None:
    """The certificate, below the numbers that it is about."""
    if result.certificate is not None:
        wiring = "" if result.normed else "the wiring, not the numbers above, is "
        style = "dim" if result.certificate.passed else "bold red"
        console.print(Text(f"{wiring}{result.certificate}", style=style))


def _one_prompt(one: LensResult, console: Console, position: int, show_top: int, rows: list[int]) -> None:
    token = token_index(len(one.tokens), position, "position")
    at = f"after token {one.tokens.position[token]}, {visible(one.tokens.text[token])}"
    console.print(Text(f"{prompt_end(one.prompts[0])}    {at}"), soft_wrap=True)
    one_token(one, console, token, show_top, rows)


def one_token(
    one: LensResult, console: Console, token: int, show_top: int, rows: list[int], merge: bool = False
) -> None:
    """What some sites predict after one token; `merge` as in `_runs`."""
    beside = abreast(one.sites[s] for s in rows)
    if len(beside) > 1:
        apart = ("head_out",) if stream_of(beside) else ("head_out", "embed")  # these get rows of their own
        layered = [s for s in rows if one.sites[s].component not in apart]
        _side_by_side(one, console, token, show_top, layered, beside)
        rows = [s for s in rows if one.sites[s].component in apart]
        if rows:
            console.print()
    if rows:
        labelled, most = _runs if merge else _singly, min(show_top, one.top_ids.shape[-1])
        _print_grid(console, lambda shown: _grid(one, labelled(one, rows, token, shown), shown), most)


def abreast(sites: Iterable[Site]) -> list[str]:
    """The components that stand side by side, if they are several; others have rows of their own."""
    return [name for name in components(sites) if name not in ("embed", "head_out")]


def _singly(one: LensResult, rows: list[int], token: int, shown: int) -> list[tuple[str, int, int]]:
    return [(str(one.sites[s]), s, token) for s in rows]


def _runs(one: LensResult, rows: list[int], token: int, shown: int) -> list[tuple[str, int, int]]:
    """Neighbours that say the same, one top-1 and the same others, as one row with the numbers of the last of them."""
    runs: list[list[int]] = []
    for s in rows:
        if runs and _says_the_same(one, runs[-1][-1], s, token, shown):
            runs[-1].append(s)
        else:
            runs.append([s])
    names = [[str(one.sites[s]) for s in (run[0], run[-1])] for run in runs]
    return [
        (first if first == last else f"{first}–{last}", run[-1], token)
        for run, (first, last) in zip(runs, names, strict=True)
    ]


def _says_the_same(one: LensResult, a: int, b: int, token: int, shown: int) -> bool:
    this, that = one.top_ids[a, token, :shown], one.top_ids[b, token, :shown]
    ordered = one.sites[a].component == one.sites[b].component not in UNORDERED
    return ordered and this[0] == that[0] and set(this.tolist()) == set(that.tolist())


def _print_grid(console: Console, grid: Callable[[int], Table], shown: int) -> None:
    """Print with as many predictions per row as the width takes."""
    while shown > 1 and not _fits(console, grid(shown)):
        shown -= 1
    console.print(grid(shown))


def _fits(console: Console, grid: Table) -> bool:
    return console.measure(grid, options=console.options.update(max_width=10_000)).maximum <= console.width


def _grid(
    one: LensResult, cells: Sequence[tuple[str, int, int]], shown: int, first: str = "layer", kl: bool = True
) -> Table:
    """One row for each (label, site, token)."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column(first, justify="right", no_wrap=True)
    for k in range(shown):
        grid.add_column(f"top {k + 1}", no_wrap=True)
    targets = [f"rank of {visible(one.text(i))}" for i in one.target_ids[0]]
    for name in ("entropy", *(("KL",) if kl else ()), *targets):
        grid.add_column(Text(name), justify="right", no_wrap=True)
    for label, s, token in cells:
        tops = [
            Text(f"{visible(one.text(i))} {probability(p)}")
            for i, p in zip(one.top_ids[s, token, :shown], one.top_logprobs[s, token], strict=False)
        ]
        if one.final_ranks[s, token] == 0:
            tops[0].stylize("bold green")  # what the model will answer
        elif one.tokens.generated[token]:
            for top, i in zip(tops, one.top_ids[s, token], strict=False):
                top.stylize("yellow" if i == one.tokens.next_id[token] else "")  # what it wrote
        numbers = [f"{one.entropy[s, token]:.2f}", *([f"{one.kl_to_final[s, token]:.2f}"] if kl else [])]
        grid.add_row(Text(label), *tops, *numbers, *map(str, one.target_ranks[s, token]))
    return grid


# -- vectors -------------------------------------------------------------------------------------------------


def _vectors(result: LensResult, console: Console, show_top: int) -> None:
    """A row for each vector: there are no layers, and no answer of a model to compare with."""
    names = [prompt_end(name, 40) for name in result.tokens.text[:VECTORS_SHOWN]]
    cells = [(name, 0, t) for t, name in enumerate(names)]
    shown = min(show_top, result.top_ids.shape[-1])
    _print_grid(console, lambda k: _grid(result, cells, k, first="vector", kl=False), shown)
    if len(result.tokens) > VECTORS_SHOWN:
        console.print(Text(f"\n… and {len(result.tokens) - VECTORS_SHOWN} more vectors: result.to_frame()"))


# -- components side by side ---------------------------------------------------------------------------------


def _side_by_side(
    one: LensResult, console: Console, token: int, show_top: int, rows: list[int], beside: list[str]
) -> None:
    """A row for each layer, a column for each component; in further tables below what the width does not take."""
    shown = min(show_top, one.top_ids.shape[-1])
    chars = next(
        (n for n in NARROWER if _fits(console, _abreast(one, token, shown, rows, beside, beside, n))), NARROWER[0]
    )
    start = 0
    while start < len(beside):
        stop = len(beside)
        while stop > start + 1 and not _fits(
            console, _abreast(one, token, shown, rows, beside, beside[start:stop], chars)
        ):
            stop -= 1
        if start:
            console.print()
        console.print(_abreast(one, token, shown, rows, beside, beside[start:stop], chars))
        start = stop


def _abreast(
    one: LensResult, token: int, shown: int, rows: list[int], beside: list[str], columns: list[str], chars: int
) -> Table:
    """Some of the columns of the components that stand side by side, tokens cut to `chars` characters."""
    cells: dict[str, dict[str, list[tuple[str, str, str]]]] = {}
    for s in rows:
        site = one.sites[s]
        label, column = str(site.layer), site.component
        if column == "embed":  # what enters layer 0 stands above what leaves it
            label, column = "embed", stream_of(beside) or ""
        if column in columns:
            cells.setdefault(label, {})[column] = _lines(one, s, token, shown, chars)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("layer", justify="right", no_wrap=True)
    for column in columns:
        grid.add_column(column, no_wrap=True)
    for label, row in cells.items():
        grid.add_row(label, *(_aligned(row.get(column, []), _widest(cells, column)) for column in columns))
    return grid


def stream_of(beside: list[str]) -> str | None:
    return next((name for name in ("resid_post", "resid_pre", "resid_mid") if name in beside), None)


def _lines(one: LensResult, s: int, token: int, shown: int, chars: int) -> list[tuple[str, str, str]]:
    """What one cell says, line by line: word, number, style."""
    tops = zip(one.top_ids[s, token, :shown], one.top_logprobs[s, token], strict=False)
    lines = [(visible(one.text(i), chars), probability(p), "") for i, p in tops]
    if one.final_ranks[s, token] == 0:
        lines[0] = (*lines[0][:2], "bold green")  # what the model will answer
    ranks = zip(one.target_ids[0], one.target_ranks[s, token], strict=True)
    return lines + [(visible(one.text(i), chars), f"rank {rank}", "dim") for i, rank in ranks]


def _widest(cells: dict[str, Any], column: str) -> int:
    words = [word for row in cells.values() for word, _, _ in row.get(column, [])]
    return max(map(cell_len, words), default=0)


def _aligned(lines: list[tuple[str, str, str]], wide: int) -> Text:
    texts = [Text(word + " " * (wide - cell_len(word)) + f" {number}", style) for word, number, style in lines]
    return Text("\n").join(texts)


def probability(logprob: float) -> str:
    """A probability in three figures, however small.

    >>> probability(math.log(0.7725)), probability(math.log(0.00012))
    ('0.772', '1.2e-04')
    """
    p = math.exp(logprob) if not math.isnan(logprob) else math.nan
    return f"{p:.3f}" if math.isnan(p) or p >= 0.001 else f"{p:.1e}"


def prompt_end(prompt: str, width: int = 60) -> str:
    """The end of a prompt: what was read last is what matters."""
    shown = visible(prompt, len(prompt) * 10 + 1).replace("·", " ")
    return shown if len(shown) <= width else "…" + shown[1 - width :]
