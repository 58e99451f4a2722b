"""What every view says of a run that was edited."""

from __future__ import annotations

from collections.abc import Sequence

from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.text import legible_line

EDITS_NAMED = 2  # in a title; of more, how many there are
EDIT_LETTERS = 160  # of one edit
LETTERS_OF_END = 30  # of an edit that is cut: its end says where it was made


def edits_in_words(edits: Sequence[Edit]) -> str:
    """Return what was done to the model while it ran; empty where nothing was.

    Examples: "edited: ablate (to zero) L23H4 at position 4", "edited: …; …; and 3 more".
    """
    if not edits:
        return ""
    names = [edit_in_words(edit) for edit in edits[:EDITS_NAMED]]
    left_out = len(edits) - EDITS_NAMED
    if left_out > 0:
        names.append(f"and {left_out} more")
    return f"edited: {'; '.join(names)}"


def edit_in_words(edit: Edit, width: int = EDIT_LETTERS) -> str:
    """Return one edit on one line, legible, and cut in its middle where it is long."""
    line = legible_line(str(edit))
    if len(line) <= width:
        return line
    return f"{line[: width - LETTERS_OF_END - 1]}…{line[-LETTERS_OF_END:]}"
