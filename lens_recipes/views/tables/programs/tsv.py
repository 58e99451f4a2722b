"""A table for other programs: tab-separated values under a header, a row for each site or part.

A field is a number, or a text that no spreadsheet computes: see `text_field`.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import legible_line
from lens_recipes.views.tables.programs.columns import TokenText, columns
from lens_recipes.views.tables.selection import Selection
from lens_recipes.views.words import whole_text

# What a spreadsheet takes for a formula, also in the wide letters of East Asia; and what
# `text_field` makes of it.
FORMULA = re.compile("'*[=+@＝＋－＠-]")


@np.errstate(over="ignore")  # a probability that overflows is shown as inf
def tsv_table(result: LensArrays | AttributionArrays, selection: Selection) -> str:
    """Return a table as tab-separated values, with numbers in six digits and with whole texts.

    A field with a quotation mark is quoted, as spreadsheets and pandas expect it.
    """
    header, rows = columns(result, selection)
    file = io.StringIO()
    writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    return file.getvalue().removesuffix("\n")


def _field(value: Any) -> str:
    """Return a value as text: fractions in six digits, an empty field for None.

    Yes and no are 1 and 0.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, TokenText):
        return text_field(whole_text(value))
    if isinstance(value, str):
        return text_field(value)
    return str(value)


def text_field(text: str) -> str:
    """Return a text as a field of one line, without effect in a spreadsheet.

    A text that begins with = + - or @ has an apostrophe before it, and so has one that begins with
    apostrophes and then with one of them: to take one off gives the text again.

    >>> text_field("=1+1"), text_field("'=1+1"), text_field("'s"), text_field("a=b")
    ("'=1+1", "''=1+1", "'s", 'a=b')
    """
    line = legible_line(text)
    if FORMULA.match(line):
        return f"'{line}"
    return line
