"""An attribution as text: its largest parts in a table, and `summary()` for an assistant that reads on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._table import WIDEST, after
from .attribution_result import Attribution, Part, by_size
from .display import visible
from .table_text import cut, empty_grid, first_fit

TARGETS_ABREAST = 4  # more targets than this go into further grids below
NARROW = ((40, 20), (24, 14))  # columns that the names of part and target may take where one target is too wide
DIRECT_ONLY = "direct effects only: what a part does through later layers is not counted"


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def print_parts(one: Attribution, console: Console, token: int, show_top: int) -> None:
    """The largest parts of one prompt's targets, the targets side by side as far as the width takes them."""
    start, targets = 0, range(one.target_ids.shape[1])
    while start < len(targets):
        stops = range(min(start + TARGETS_ABREAST, len(targets)), start, -1)
        wide = (_grid(one, token, targets[start:stop], show_top) for stop in stops)
        narrow = (_grid(one, token, targets[start : start + 1], show_top, names) for names in NARROW)
        grid = first_fit(console, itertools.chain(wide, narrow))
        console.print(grid)
        start += len(grid.columns) // 2


def _grid(one: Attribution, token: int, targets: range, show_top: int, narrow: tuple[int, int] | None = None) -> Table:
    """Side by side for each target: its largest parts, the rest as one number, and what they sum to."""
    grid = empty_grid()
    part_width, target_width = narrow or (WIDEST, WIDEST)
    columns = []
    for k in targets:
        columns.append([(cut(part, part_width), value) for part, value in target_rows(one, token, k, show_top)])
        name = one.target_name(0, k).replace(" − ", "\n− " if narrow else " − ")
        grid.add_column("part", no_wrap=True)
        heading = "\n".join(cut(line, target_width) for line in name.split("\n"))
        grid.add_column(Text(heading), justify="right", no_wrap=True)
    for cells in zip(*columns, strict=True):  # every target has the same rows
        grid.add_row(*(Text(text) for cell in cells for text in cell))
    return grid


def target_rows(
    one: Attribution, token: int, k: int, show_top: int, show: Callable[[str, int], str] = visible
) -> list[tuple[str, str]]:
    """What a table has of one target, as names and numbers: the largest parts, all the others as one, and the sums."""
    values = one.values[:, token, k]
    order = by_size(values)
    rows = [(part_name(one, one.parts[p], show), signed(values[p])) for p in order[:show_top]]
    if rest := order[show_top:]:
        rows.append((f"all the others ({len(rest)})", signed(values[rest].sum())))
    logit, capped = one.logit[token, k], one.capped_logit[token, k]
    rows += [("total", signed(one.total[token, k])), ("the logit", signed(logit))]
    if not np.array_equal(one.logit, one.capped_logit, equal_nan=True):
        rows += [("after the softcap", signed(capped)), ("the softcap takes away", signed(logit - capped))]
    return [*rows, ("error: |total − logit|", f"{one.error[token, k]:.1e}")]


def part_name(one: Attribution, part: Part, show: Callable[[str, int], str] = visible) -> str:
    """A part of one prompt's result, with the text of the token that was read: "24.head_out.3←5 ·France"."""
    if part.component == "layer":
        return f"layer {part.layer}"
    known = part.source is not None and one.sources
    return f"{show(str(part), 40)} {show(one.sources[0][part.source], 12)}" if known else show(str(part), 40)  # type: ignore[index]


def by_source(one: Attribution, values: NDArray[np.float32], head: int | None = None) -> tuple[list[int], NDArray[Any]]:
    """What the heads read from each token of one prompt, `[layer, source]`, and the layers; NaN where none reads."""
    layers = sorted({part.layer for part in one.parts if part.layer is not None})
    row = {layer: number for number, layer in enumerate(layers)}
    sums, held = np.zeros((len(layers), len(one.sources[0]))), np.zeros(len(layers), dtype=bool)
    for part, value in zip(one.parts, values, strict=True):
        if part.layer is not None and part.source is not None and head in (None, part.head):
            sums[row[part.layer], part.source] += value
            held[row[part.layer]] = True
    return layers, np.where(held[:, None], sums, np.nan)


def signed(value: float | np.floating[Any]) -> str:
    """Logits with their sign, small and huge ones too.

    >>> signed(1.234), signed(-0.00123), signed(0), signed(1e9)
    ('+1.23', '-0.0012', '+0.00', '+1e+09')
    """
    value = float(value)
    if np.isnan(value):
        return "nan"
    return f"{value:+.2f}" if value == 0 or 0.095 <= abs(value) < 1e6 else f"{value:+.2g}"


# -- summary -----------------------------------------------------------


@np.errstate(invalid="ignore")
def summary(result: Attribution) -> str:
    """See `Attribution.summary`."""
    model = result.provenance.get("model", "model")
    lines = [f"{model}: logits by {result.unit} after layer {result.at_layer}; {result.size}"]
    for number, one in zip(range(5), result, strict=False):
        for k in range(one.target_ids.shape[1] if len(one.tokens) else 0):
            lines += _answer(one, number, k)
    if len(result) > 5:
        lines.append(f"… and {len(result) - 5} more prompts: result[i].summary()")
    return "\n".join([*lines, *(f"distrust: {reason}" for reason in _distrust(result))])


def _answer(one: Attribution, number: int, k: int) -> Iterator[str]:
    """After the last token read of one prompt: a target's logit, and which parts made it."""
    token = len(one.tokens) - 1
    values, total, logit = one.values[:, token, k], one.total[token, k], one.logit[token, k]
    capped = one.capped_logit[token, k]
    softcap = "" if signed(capped) == signed(logit) else f" ({signed(capped)} after the softcap)"
    against = "" if one.against_ids[0, k] >= 0 or one.against else ", against nothing (what all tokens share is in it)"
    name = one.target_name(0, k)
    yield f"prompt {number}, {after(one, token)}: the logit of {name} is {signed(logit)}{softcap}{against}"
    order = by_size(values)
    helping, hurting = [p for p in order if values[p] > 0][:3], [p for p in order if values[p] < 0][:3]
    for word, found in (("helping", helping), ("hurting", hurting)):
        yield f"  {word} most: {', '.join(f'{part_name(one, one.parts[p])} {signed(values[p])}' for p in found) or '–'}"
    if lost := int(np.isnan(values).sum()):
        yield f"  not a number: {lost} of {len(values)} parts"
    shown = [*helping, *hurting]
    share = np.abs(values[shown]).sum() / max(np.abs(values).sum(), 1e-30)
    yield (
        f"  these {len(shown)} sum to {signed(values[shown].sum())} of the total {signed(total)}, and hold {share:.0%} "
        "of all |values|"
    )
    yield f"  sum of each kind: {_listed(_by_kind(one, values))}"
    if one.unit == "token" and one.sources:
        sums = np.nansum(by_source(one, values)[1], axis=0)
        read = [(f"token {s} {visible(one.sources[0][s])}", sums[s]) for s in by_size(sums)[:3]]
        yield f"  read most from: {_listed(read)}"


def _by_kind(one: Attribution, values: NDArray[np.float32]) -> list[tuple[str, float]]:
    kinds = dict.fromkeys(part.component for part in one.parts)
    return [(kind, values[[part.component == kind for part in one.parts]].sum()) for kind in kinds]


def _listed(sums: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {signed(value)}" for name, value in sums)


def _distrust(result: Attribution) -> Iterator[str]:
    if result.certificate is None:
        yield f"no certificate: {result.provenance.get('certificate', 'nothing to compare with')}"
    elif not result.certificate.passed:
        yield str(result.certificate)
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
    yield DIRECT_ONLY
