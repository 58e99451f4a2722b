r"""LaTeX in which no text has an effect: a table for the package booktabs.

Any text may hold what TeX acts on. `latex_text` writes it so that it is seen as it is, with the
commands of LaTeX alone. Letters of all languages stay as they are: pdfLaTeX sets the Latin ones,
LuaLaTeX and XeLaTeX those that their font has.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

from lens_recipes.arrays.text import legible_line

LETTERS = ("L", "M", "N")  # categories of Unicode: letters, their marks, numbers

# What TeX acts on, or joins into another sign, and signs that not every engine sets.
SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": r"\textquoteleft{}",
    "'": r"\textquoteright{}",
    # After the end of a row these would be its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # Two of them would be joined.
    "-": "{-}",
    "?": "{?}",
    "!": "{!}",
    ",": "{,}",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
    "°": r"$^\circ$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "−": "$-$",
    "‖": r"$\|$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "↵": r"$\hookleftarrow$",
    "⇥": r"$\mapsto$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
    "␣": r"\textvisiblespace{}",
    "⍽": r"\textvisiblespace{}",
    "∅": r"$\emptyset$",
}

PLAIN = set(" .:;()/=+@")


class TableCell(Protocol):
    """A number, its interval and its mark, as texts."""

    @property
    def number(self) -> str: ...

    @property
    def interval(self) -> str: ...

    @property
    def mark(self) -> str: ...


def latex_text(text: str) -> str:
    r"""Return any text for LaTeX, on one line and without effect there.

    >>> latex_text("50% of $x_1$"), latex_text("\\input{a}")
    ('50\\% of \\$x\\_1\\$', '\\textbackslash{}input\\{a\\}')
    """
    return "".join(_sign(character) for character in legible_line(text))


def _sign(character: str) -> str:
    """Return one character; one that engines do not know is written by its number."""
    if character in SIGNS:
        return SIGNS[character]
    if character in PLAIN or unicodedata.category(character)[0] in LETTERS:
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def latex_number(text: str) -> str:
    r"""Return a number of ours as LaTeX, with a minus sign that is as wide as a plus.

    >>> latex_number("-3.21"), latex_number("42%")
    ('$-3.21$', '$42\\%$')
    """
    if text in ("", "–"):
        return latex_text(text)
    return f"${text.replace('%', chr(92) + '%').replace(',', '{,}')}$"


def latex_cell(cell: TableCell) -> str:
    """Return a cell: the number, and its interval in smaller letters."""
    parts = [latex_number(cell.number) + latex_text(cell.mark)]
    if cell.interval:
        low, high = cell.interval.strip("[]").split(", ")
        ends = f"{latex_number(low)}, {latex_number(high)}"
        parts.append(rf"{{\scriptsize {{[}}{ends}{{]}}}}")
    return " ".join(parts)


def latex_document(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[TableCell]], notes: Sequence[str]
) -> str:
    r"""Return a table that stands in an article as it is, below `\usepackage{booktabs}`.

    Args:
        title: For the caption.
        headings: Of the columns; the first is that of the names of the rows.
        rows: Of each row its name, as a cell, and its cells.
        notes: What stands below the table.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{latex_text(title)}}}",
        rf"\begin{{tabular}}{{{'l' + 'r' * (len(headings) - 1)}}}",
        r"\toprule",
        _row(latex_text(heading) for heading in headings),
        r"\midrule",
    ]
    for name, *cells in rows:
        lines.append(_row([latex_text(name.number), *map(latex_cell, cells)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        lines += ["", r"\smallskip", r"{\footnotesize\raggedright"]
        lines += [rf"{latex_text(note)}\par" for note in notes]
        lines.append("}")
    lines.append(r"\end{table}")
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return " & ".join(cells) + r" \\"
