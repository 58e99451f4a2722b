"""The table and the summary of a confirmation: what a finding may claim of each part."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lens_recipes.arrays.edits.confirmation import ConfirmationArrays
from lens_recipes.arrays.text import counted
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.summaries.edits.dose import aligned
from lens_recipes.views.words import signed


def confirmation_table(confirmation: ConfirmationArrays) -> str:
    """Return a row for each part and method, and below what was left out."""
    lines = [confirmation_heading(confirmation), *aligned(confirmation_rows(confirmation))]
    lines += left_out_lines(confirmation)
    return escape_terminal("\n".join(lines))


def confirmation_summary(confirmation: ConfirmationArrays) -> str:
    """Return the sentence that a finding may claim of each part."""
    lines = [confirmation_heading(confirmation)]
    for number, _ in confirmation.rows():
        lines.append(f"  {claim(confirmation, number)}")
    lines += left_out_lines(confirmation)
    if len(confirmation.prompts) == 1:
        lines.append("distrust: one prompt is one observation: run several before you generalise")
    return "\n".join(lines)


def claim(confirmation: ConfirmationArrays, part: int) -> str:
    """Return what may be claimed of a part.

    Example: "L23H4: direct +1.20, total +2.00 (mean), +1.90 (resample); controls +0.10 ± 0.20:
    beyond the control".
    """
    totals = []
    not_beyond = []
    for number, method in enumerate(confirmation.methods):
        verdict = confirmation.verdict(part, number)
        interval = ""
        if verdict.n_prompts > 1:
            low, high = verdict.effect_interval
            interval = f" [{signed(low)}, {signed(high)}]"
        totals.append(f"{signed(verdict.effect)}{interval} ({method})")
        if verdict.beyond is False:
            not_beyond.append(method)
    words = (
        f"{confirmation.parts[part]}: direct {signed(confirmation.mean_direct(part))}, total "
        f"{', '.join(totals)}"
    )
    confirmed = confirmation.is_confirmed(part)
    if confirmed is None:
        return f"{words}; no control"
    words += f"; controls {controls_in_words(confirmation, part)}: "
    if confirmed:
        return f"{words}beyond the control"
    which = "" if len(not_beyond) == len(confirmation.methods) else f" ({', '.join(not_beyond)})"
    return f"{words}not beyond the control{which}"


def controls_in_words(confirmation: ConfirmationArrays, part: int) -> str:
    """Return mean and standard deviation of the controls: "+0.10 ± 0.20"."""
    mean, deviation = confirmation.control_spread(part)
    if math.isnan(deviation):
        return signed(mean)
    return f"{signed(mean)} ± {deviation:.2g}"


def confirmation_heading(confirmation: ConfirmationArrays) -> str:
    """Return what the effects are of, and on how many prompts."""
    base = confirmation.base.mean()
    return (
        f"{confirmation.target}, {signed(base)} without edits, on "
        f"{counted(len(confirmation.prompts), 'prompt')}; parts ablated {confirmation.where}"
    )


def confirmation_rows(confirmation: ConfirmationArrays) -> Iterator[list[str]]:
    """Yield the cells of each part and method, below a heading."""
    yield ["part", "direct", "in its place", "total", "95 % over prompts", "controls", "verdict"]
    for part, name in confirmation.rows():
        for number, method in enumerate(confirmation.methods):
            verdict = confirmation.verdict(part, number)
            interval, controls = "–", "–"
            if verdict.n_prompts > 1:
                low, high = verdict.effect_interval
                interval = f"{signed(low)} to {signed(high)}"
            if verdict.n_controls:
                controls = f"{signed(verdict.control_low)} to {signed(verdict.control_high)}"
            direct = signed(confirmation.mean_direct(part))
            total = signed(verdict.effect)
            yield [name, direct, method, total, interval, controls, verdict.words]


def left_out_lines(confirmation: ConfirmationArrays) -> Iterator[str]:
    """Yield which parts of the attribution were not ablated, and why."""
    for reason in confirmation.left_out:
        yield f"not ablated: {reason}"
