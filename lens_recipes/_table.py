"""A result as text: `table()` for people, `summary()` for an assistant that reads on."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .display import visible
from .result import LensResult

PROMPTS_SHOWN = 3  # by str(result); `table(result[i])` shows any other


def table(result: LensResult, *, position: int = -1, show_top: int = 5, width: int | None = None) -> str:
    """What each layer predicts after one token of each prompt, as plain text.

    Args:
        result: Any lens result; its first three prompts are shown. `table(result[7])` shows another.
        position: Which of the prompt's selected tokens, an index into them; −1 is the last.
        show_top: Predictions per layer, with their probabilities.
        width: Columns of the text; None for as wide as it needs.

    Raises:
        ValueError: a position that was not read.
    """
    if show_top < 1:
        raise ValueError(f"show_top={show_top} must be at least 1.")
    console = Console(file=io.StringIO(), width=width or 250, color_system=None, legacy_windows=False)
    render(result, console, position=position, show_top=show_top)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def render(result: LensResult, console: Console, *, position: int = -1, show_top: int = 5) -> None:
    """`table` on a rich console, with colours where it has them."""
    if result.mark:
        console.print(Text(result.mark, style="bold red"))
    for number, one in zip(range(PROMPTS_SHOWN), result, strict=False):
        if number:
            console.print()
        _one_prompt(one, console, position, show_top)
    if len(result) > PROMPTS_SHOWN:
        console.print(Text(f"\n… and {len(result) - PROMPTS_SHOWN} more prompts: table(result[i])"))
    if result.certificate is not None:
        wiring = "" if result.normed else "the wiring, not the numbers above, is "
        style = "dim" if result.certificate.passed else "bold red"
        console.print(Text(f"{wiring}{result.certificate}", style=style))


def _one_prompt(one: LensResult, console: Console, position: int, show_top: int) -> None:
    n = len(one.tokens)
    if not -n <= position < n:
        raise ValueError(f"position={position} is out of range: {n} positions of this prompt were read.")
    token = range(n)[position]
    at = f"after token {one.tokens.position[token]}, {visible(one.tokens.text[token])}"
    console.print(Text(f"{_tail(one.prompts[0])}    {at}"), soft_wrap=True)
    shown = min(show_top, one.top_ids.shape[-1])
    while True:  # as many predictions per layer as the width takes
        grid = _grid(one, token, shown)
        if (
            shown <= 1
            or console.measure(grid, options=console.options.update(max_width=10_000)).maximum <= console.width
        ):
            break
        shown -= 1
    console.print(grid)


def _grid(one: LensResult, token: int, shown: int) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("layer", justify="right", no_wrap=True)
    for k in range(shown):
        grid.add_column(f"top {k + 1}", no_wrap=True)
    targets = [f"rank of {visible(one.text(i))}" for i in one.target_ids[0]]
    for name in ("entropy", "KL", *targets):
        grid.add_column(Text(name), justify="right", no_wrap=True)
    for s, site in enumerate(one.sites):
        cells = [
            Text(f"{visible(one.text(i))} {probability(p)}")
            for i, p in zip(one.top_ids[s, token, :shown], one.top_logprobs[s, token], strict=False)
        ]
        if one.final_ranks[s, token] == 0:
            cells[0].stylize("bold green")  # what the model will answer
        numbers = [f"{one.entropy[s, token]:.2f}", f"{one.kl_to_final[s, token]:.2f}"]
        grid.add_row(str(site), *cells, *numbers, *map(str, one.target_ranks[s, token]))
    return grid


def probability(logprob: float) -> str:
    """A probability in three figures, however small.

    >>> probability(math.log(0.7725)), probability(math.log(0.00012))
    ('0.772', '1.2e-04')
    """
    p = math.exp(logprob) if not math.isnan(logprob) else math.nan
    return f"{p:.3f}" if math.isnan(p) or p >= 0.001 else f"{p:.1e}"


def _tail(prompt: str, width: int = 60) -> str:
    """The end of a prompt: what was read last is what matters."""
    shown = visible(prompt, len(prompt) * 10 + 1).replace("·", " ")
    return shown if len(shown) <= width else "…" + shown[1 - width :]


# -- summary -------------------------------------------------------------------------------------------------


def summary(result: LensResult) -> str:
    """See `LensResult.summary`."""
    lines = [f"{result.provenance.get('model', 'model')}: {result.size}"]
    for number, one in zip(range(5), result, strict=False):
        lines += _answer(one, number)
    if len(result) > 5:
        lines.append(f"… and {len(result) - 5} more prompts: result[i].summary()")
    return "\n".join([*lines, *(f"distrust: {reason}" for reason in _distrust(result))])


def _answer(one: LensResult, number: int) -> Iterator[str]:
    """The last token read of one prompt: where its answer settles, and how the targets' ranks move."""
    token = len(one.tokens) - 1
    answer, p = repr(one.text(one.final_ids[token])), probability(one.model_logprobs[token])
    settled = int(one.settled()[token])
    where = f"top-1 from layer {one.sites[settled]} on" if settled >= 0 else "not top-1 at the last layer read"
    if settled >= 0 and one.kl_to_final[-1, token] > 1e-3:
        where += ", of the layers read (the last was not)"
    yield f"prompt {number}, after {one.tokens.text[token]!r}: the model answers {answer} (p {p}), {where}"
    for j, target in enumerate(one.target_ids[0]):
        ranks = one.target_ranks[:, token, j]
        best = int(ranks.argmin())
        line = f"  target {one.text(target)!r}: rank {ranks[0]} at layer {one.sites[0]}"
        line += f", {ranks[-1]} at layer {one.sites[-1]} (p {probability(one.target_logprobs[-1, token, j])})"
        if (ranks < 10).any():
            line += f"; first in the top 10 at layer {one.sites[int((ranks < 10).argmax())]}"
        if ranks[best] < ranks[-1]:
            line += f"; best {ranks[best]} at layer {one.sites[best]}"
        yield line


def _distrust(result: LensResult) -> Iterator[str]:
    if result.certificate is None:
        yield f"no certificate: {result.provenance.get('certificate', 'nothing to compare with')}"
    else:
        yield from [str(result.certificate)] if not result.certificate.passed else []
    if not result.normed:
        yield result.mark
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
    last = [np.flatnonzero(result.tokens.prompt == p)[-1] for p in range(len(result))]
    middle = result.kl_to_final[len(result.sites) // 2, last].mean()
    if len(result.sites) > 2 and middle > 5:
        yield (
            f"halfway up the lens is {middle:.1f} nats from the final answer: early layers may hold what this basis "
            "does not show (a lens that does not transfer is not evidence of absence)"
        )
