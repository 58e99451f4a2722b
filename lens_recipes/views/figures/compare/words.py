"""The words of a comparison: the lines below its title, and the hovers of its cells."""

from __future__ import annotations

import numpy as np

from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.sites import site_label
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.cells import MAX_FULL_HOVERS, hover_prediction, hover_token
from lens_recipes.views.figures.base.style import edited_lines, provenance_line, quoted
from lens_recipes.views.figures.compare.pairs import Comparison, Side, describe_sites
from lens_recipes.views.summaries.trust import UNFITTED_MARK, unfitted_sentence, unreadable_sentence
from lens_recipes.views.words import edited, format_value, minus, prompt_end


def difference_title(comparison: Comparison) -> str:
    """Return a title for the colour bar of the difference, which says what its colours mean."""
    label = METRICS[comparison.metric].label
    if comparison.metric == "rank":
        label = "log10(rank + 1)"
    return f"{label}: {comparison.difference_label}<br>blue: {_meaning_of_blue(comparison)}"


def _meaning_of_blue(comparison: Comparison) -> str:
    """Return what is so of the first side where the difference is blue."""
    first = comparison.first.label
    if comparison.metric == "rank":
        return f"{first} has it nearer the top"
    if METRICS[comparison.metric].better == "low":
        return f"lower in {first}"
    return f"higher in {first}"


def source_lines(comparison: Comparison, rows: list[int], component: str | None) -> list[str]:
    """Return the lines below the title: the source of each side, and the sites without a row.

    Args:
        comparison: The two sides.
        rows: The common sites that have a row.
        component: The component that the caller chose; None for all.
    """
    lines = []
    for side in comparison.sides:
        lines.append(_source_line(comparison, side))
        own = "" if side.label == "edited" else f"{side.label}: "
        lines += [own + line for line in edited_lines(side.single)]
    prompts = [side.single.prompts[0] for side in comparison.sides]
    if prompts[0] == prompts[1]:
        lines.insert(0, quoted(prompt_end(prompts[0], 100)))
    if comparison.first.single.lens != comparison.second.single.lens:
        lines.append(_agreement_line(comparison))
    for side in comparison.sides:
        line = _only_here_line(comparison, side, component)
        if line:
            lines.append(line)
    for side in comparison.sides:
        if not side.readable.all():
            lines.append(f"<b>grey in {side.label}: {unreadable_sentence(side.single)}</b>")
    for side in comparison.sides:
        unfitted = unfitted_sentence(side.single)
        if unfitted:
            lines.append(f"<b>{UNFITTED_MARK} {side.label}: {unfitted}</b>")
    n_sites = len(comparison.sites)
    if len(rows) < n_sites:
        lines.append(f"{len(rows)} of {n_sites} common sites")
    return lines


def _source_line(comparison: Comparison, side: Side) -> str:
    """Return where a side's numbers come from, with the prompt where the two sides differ in it."""
    notes = []
    if side.single.certificate is None:
        notes.append("no certificate")
    edits = edited(side.single)
    if edits and edits not in side.name:  # there was no room for them
        notes.append(escape_plotly(prompt_end(edits, 100)))
    prompt = side.single.prompts[0]
    if any(other.single.prompts[0] != prompt for other in comparison.sides):
        notes.append(quoted(prompt_end(prompt, 50)))
    return f"{side.label}: {provenance_line(side.single, *notes)}"


def _agreement_line(comparison: Comparison) -> str:
    """Return in how many cells two lenses have the same top-1, and how often it is the answer.

    Example: "same top-1 in 41 of 150 cells; it is the model's answer in 32 (logit lens), 78 (linear
    lens)".
    """
    tops = []
    answers = []
    for side in comparison.sides:
        top_ids = side.single.top_ids[side.site_indices, :, 0]
        is_answer = (top_ids == side.single.final_ids) & side.single.readable[side.site_indices]
        tops.append(top_ids)
        answers.append(f"{is_answer.sum():,} ({side.label})")
    same = int((tops[0] == tops[1]).sum())
    return (
        f"same top-1 in {same:,} of {tops[0].size:,} cells; readable, and the model's answer, in "
        f"{', '.join(answers)}"
    )


def _only_here_line(comparison: Comparison, side: Side, component: str | None) -> str:
    """Return the sites that only one side has; empty where there are none."""
    common = set(comparison.sites)
    only_here = []
    for site in side.single.sites:
        if site not in common and component in (None, site.component):
            only_here.append(site)
    if not only_here:
        return ""
    return f"only in {side.label}, not drawn: {escape_plotly(describe_sites(only_here))}"


def hover_texts(comparison: Comparison, rows: list[int]) -> list[list[str]]:
    """Return what each cell says, `[row, token]`: both numbers, both top tokens, the difference.

    It is the same in all three panels.
    """
    full = len(rows) * comparison.n_tokens <= MAX_FULL_HOVERS
    inputs = [_input_tokens(comparison, token) for token in range(comparison.n_tokens)]
    positions = comparison.first.single.tokens.position
    sites = comparison.sites
    hover = []
    for row in rows:
        row_texts = []
        for token in range(comparison.n_tokens):
            lines = [
                f"<b>{escape_plotly(site_label(sites[row]))}</b>, position {positions[token]}",
                f"input {inputs[token]}",
                escape_plotly(comparison.value_label),
            ]
            for side in comparison.sides:
                lines.append(_describe_side(side, comparison.metric, row, token, full))
            lines.append(_describe_difference(comparison, row, token))
            row_texts.append("<br>".join(lines))
        hover.append(row_texts)
    return hover


def _input_tokens(comparison: Comparison, token: int) -> str:
    """Return the token that both sides read, or both tokens where they differ."""
    shown = [hover_token(side.single.tokens.text[token]) for side in comparison.sides]
    return " | ".join(dict.fromkeys(shown))


def _describe_side(side: Side, metric: str, row: int, token: int, full: bool) -> str:
    """Return one side's number in a cell and, in a full hover, its top token."""
    value = side.values[row, token]
    shown_value = "none" if np.isnan(value) else minus(format_value(value, metric))
    line = f"{side.label}: {shown_value}"
    if not full:
        return line
    site_index = side.site_indices[row]
    token_id = side.single.top_ids[site_index, token, 0]
    logprob = side.single.top_logprobs[site_index, token, 0]
    return f"{line}, top-1 {hover_prediction(side.single, token_id, logprob)}"


def _describe_difference(comparison: Comparison, row: int, token: int) -> str:
    """Return the difference in a cell, with its sign; of ranks, that of their logarithms."""
    difference = comparison.difference[row, token]
    if np.isnan(difference):
        return f"{comparison.difference_label}: none"
    number = minus(f"{difference:+.4g}")
    if comparison.metric == "rank":
        number += " in log10(rank + 1)"
    return f"{comparison.difference_label}: {number}"
