"""pass@k of several surveys side by side: one for each lens, over the sets that were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.curves import Draws, draws_of
from lens_recipes.arrays.survey.pass_at_k import DEFAULT_KS, PassAtK, pass_at_k


class PassTable(NamedTuple):
    """pass@k of several surveys, such as one for each lens, over their groups.

    Attributes:
        ks: Each k.
        names: What the surveys are called.
        groups: The groups, such as the evaluation sets; rows of the table.
        cells: `[group][name]`; None where a survey has no such group.
        n_left_out: How many items each survey could not ask.
    """

    ks: tuple[int, ...]
    names: list[str]
    groups: list[str]
    cells: list[list[PassAtK | None]]
    n_left_out: list[int]

    def __str__(self) -> str:
        lines = ["  ".join(cells).rstrip() for cells in aligned(self.lines())]
        return "\n".join([*lines, self.note()])

    def note(self) -> str:
        """Return how many items are not among these, in words."""
        counts = zip(self.names, self.n_left_out, strict=True)
        return "items left out: " + ", ".join(f"{name} {count}" for name, count in counts)

    def rows(self) -> list[dict[str, object]]:
        """Return a row for each group, survey and k, for a data frame or a file."""
        rows: list[dict[str, object]] = []
        for group, line in zip(self.groups, self.cells, strict=True):
            for name, cell in zip(self.names, line, strict=True):
                if cell is not None:
                    rows.extend(cell_rows(group, name, cell))
        return rows

    def markdown(self) -> str:
        """Return a pipe table."""
        escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in self.lines()]
        marks = ["---", *("---:" for _ in escaped[0][1:])]
        escaped.insert(1, marks)
        lines = [f"| {' | '.join(cells)} |" for cells in escaped]
        return "\n".join([*lines, "", self.note()])

    def lines(self) -> list[list[str]]:
        """Return the cells as text: a heading, and a line for each group and k."""
        lines = [["set", "k", "clusters", *self.names]]
        for group, cells in zip(self.groups, self.cells, strict=True):
            present = [cell for cell in cells if cell is not None]
            n_clusters = max(int(cell.interval.n[0]) for cell in present)
            for place, k in enumerate(self.ks):
                shown = [cell_text(cell, place) for cell in cells]
                lines.append([group or "all", str(k), str(n_clusters), *shown])
        return lines


def pass_table(
    surveys: Mapping[str, SurveyArrays],
    ks: Sequence[int] = DEFAULT_KS,
    *,
    control: str | None = None,
    layers: Sequence[int] | None = None,
    draws: Draws | None = None,
) -> PassTable:
    """Return pass@k of several surveys of the same items, side by side, for each group.

    All are drawn alike, so that their differences are not those of the draws.

    Args:
        surveys: What each is called, such as its lens, and the survey.
        ks, control, layers, draws: As for `pass_at_k`.

    Raises:
        ValueError: there are none, or as for `pass_at_k`.

    Example:
        >>> items = lens_evals("evaluations")
        >>> lenses = {"logit": None, "linear": "linear.safetensors", "Jacobian": "lens.pt"}
        >>> print(pass_table({name: survey(model, items, lens=lenses[name]) for name in lenses}))
    """
    are_surveys = isinstance(surveys, Mapping) and all(
        isinstance(survey, SurveyArrays) for survey in surveys.values()
    )
    if not are_surveys or not surveys:
        raise ValueError(
            'surveys must be a dict of surveys by their names, such as {"logit": …, "linear": …}.'
        )
    drawn_alike = draws_of(next(iter(surveys.values())), draws)
    groups = list(dict.fromkeys(group for survey in surveys.values() for group in survey.groups))
    cells: list[list[PassAtK | None]] = []
    for group in groups:
        line: list[PassAtK | None] = []
        for survey in surveys.values():
            has_group = group in survey.groups
            found = None
            if has_group:
                found = pass_at_k(
                    survey, ks, group=group, control=control, layers=layers, draws=drawn_alike
                )
            line.append(found)
        cells.append(line)
    n_left_out = [len(survey.left_out) for survey in surveys.values()]
    return PassTable(tuple(ks), list(surveys), groups, cells, n_left_out)


def cell_rows(group: str, name: str, cell: PassAtK) -> list[dict[str, object]]:
    """Return a row for each k of one cell."""
    rows: list[dict[str, object]] = []
    for place, k in enumerate(cell.ks):
        rows.append(
            {
                "group": group,
                "survey": name,
                "k": k,
                "estimate": float(cell.interval.estimate[place]),
                "low": float(cell.interval.low[place]),
                "high": float(cell.interval.high[place]),
                "n_clusters": int(cell.interval.n[place]),
                "n_items": cell.n_items,
            }
        )
    return rows


def cell_text(cell: PassAtK | None, place: int) -> str:
    """Return one number with its interval.

    There is none where clusters are too few, or all the same: draws of them then never differ, and
    an interval of no width would claim a certainty that they do not give.
    """
    if cell is None or not cell.interval.n[place]:
        return "–"
    low, high = cell.interval.low[place], cell.interval.high[place]
    text = f"{cell.interval.estimate[place]:.3f}"
    if high > low:
        text += f" [{max(low, 0.0):.3f}, {min(high, 1.0):.3f}]"
    return text


def aligned(lines: list[list[str]]) -> list[list[str]]:
    """Return cells padded to the width of their columns, numbers to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        for cell, width in zip(line[1:], widths[1:], strict=True):
            cells.append(cell.rjust(width))
        padded.append(cells)
    return padded
