"""The table and the summary of a dose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lens_recipes.arrays.edits.dose import DoseArrays
from lens_recipes.arrays.edits.kinds import Steering, direction_name
from lens_recipes.arrays.edits.verdict import Verdict
from lens_recipes.arrays.text import EACH_TARGET, counted
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.summaries.edits.effects import beside_controls, unsigned
from lens_recipes.views.words import signed


def dose_table(dose: DoseArrays) -> str:
    """Return a row for each scale, of each target and of KL."""
    blocks = [dose_heading(dose)]
    for what in measured(dose):
        blocks.append("\n".join([what_in_words(dose, what), *aligned(dose_rows(dose, what))]))
    return escape_terminal("\n\n".join(blocks))


def dose_summary(dose: DoseArrays) -> str:
    """Return the text of `Dose.summary`."""
    return "\n".join([dose_heading(dose), *dose_lines(dose)])


def dose_lines(dose: DoseArrays) -> Iterator[str]:
    """Yield where each effect is beyond the control, and the largest."""
    for what in measured(dose):
        verdicts = dose.verdicts(what)
        sizes = [abs(verdict.effect) for verdict in verdicts]
        largest = sizes.index(max(sizes))
        told = beside_controls(verdicts[largest], is_change=what != "kl")
        yield (
            f"  {what_in_words(dose, what)}: {beyond_in_words(dose, verdicts)}; largest at "
            f"{dose.unit} {dose.scales[largest]:g}: {told}"
        )


def beyond_in_words(dose: DoseArrays, verdicts: Sequence[Verdict]) -> str:
    """Return at which scales an effect is beyond the control."""
    if all(verdict.beyond is None for verdict in verdicts):
        return "no control"
    beyond = []
    for scale, verdict in zip(dose.scales, verdicts, strict=True):
        if verdict.beyond:
            beyond.append(f"{scale:g}")
    if not beyond:
        return f"not beyond the control at any {dose.unit}"
    return f"beyond the control at {dose.unit} {', '.join(beyond)}"


def dose_heading(dose: DoseArrays) -> str:
    """Return what was done, on how many prompts, and what the controls are."""
    prompts, scales = counted(len(dose.prompts), "prompt"), counted(len(dose.scales), dose.unit)
    return f"{edit_in_words(dose)} on {prompts}, {scales}; {controls_in_words(dose)}"


def edit_in_words(dose: DoseArrays) -> str:
    """Return what was done to the prompts, without the scale."""
    edit = replace(dose.edit, when="prompt")
    if not isinstance(edit, Steering):
        return str(edit)
    return f"steer by {direction_name(edit.direction)} at {edit.where}{edit.at}"


def controls_in_words(dose: DoseArrays) -> str:
    """Return what the controls are: "5 controls: random directions of the same size"."""
    if not dose.controls:
        return dose.missing or "no controls"
    n_controls = counted(len(dose.controls), "control")
    if dose.n_sites is None:
        return f"{n_controls}: random directions of the same size"
    return f"{n_controls}: the same at random sites of {dose.n_sites}: {', '.join(dose.controls)}"


def measured(dose: DoseArrays) -> list[int | str]:
    """Return what was measured: the targets, and KL."""
    return [*range(dose.n_targets), "kl"]


def what_in_words(dose: DoseArrays, what: int | str) -> str:
    """Return what an effect is of."""
    if what == "kl":
        return "KL to the unedited output (nats)"
    name = dose.target_name(int(what))
    shown = name if name == EACH_TARGET else repr(name)
    return f"log-probability of {shown} (change in nats)"


def dose_rows(dose: DoseArrays, what: int | str) -> Iterator[list[str]]:
    """Yield the cells of each scale, below a heading."""
    show = unsigned if what == "kl" else signed
    yield [dose.unit, "effect", "95 % over prompts", "controls", "verdict"]
    for scale, verdict in zip(dose.scales, dose.verdicts(what), strict=True):
        interval, controls = "–", "–"
        if verdict.n_prompts > 1:
            interval = (
                f"{show(verdict.effect_interval.low)} to {show(verdict.effect_interval.high)}"
            )
        if verdict.n_controls:
            controls = f"{show(verdict.control_low)} to {show(verdict.control_high)}"
        yield [f"{scale:g}", show(verdict.effect), interval, controls, verdict.words]


def aligned(rows: Iterator[list[str]]) -> Iterator[str]:
    """Yield rows of cells as lines, all but the last column flush right."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    for cells in listed:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        yield "  ".join([*padded[:-1], cells[-1]])
