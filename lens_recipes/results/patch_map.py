"""`PatchMap`: what each cell of a run brings along, with methods that show and save it."""

from __future__ import annotations

import os
from typing import Any

from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.terminal import PrintedSentences, PrintedText, escape_terminal
from lens_recipes.views import files, frames
from lens_recipes.views.summaries.patch_map import patch_summary
from lens_recipes.views.tables.patch_map import patch_table


class PatchMap(PatchMapArrays):
    """What each cell of one run brings along when it is copied into another (`patch_map`).

    The axes are `[pair, row, column]`: rows are layers; columns are positions, spans, heads or
    components. Log-probabilities are natural logs.

    Attributes:
        unit, metric, direction, method: As `patch_map` takes them.
        layers: Of the rows, `[row]`.
        columns: The names of the columns, `[column]`.
        column_tokens: Clean and corrupt text of each column that is a position; empty texts where
            pairs differ.
        values: The metric with one cell patched, `[pair, row, column]`; NaN where there is no cell.
        logit_diffs: Target − against in the same run; NaN where it is not known.
        clean, corrupt: The metric of both runs as they are, `[pair]`.
        clean_diffs, corrupt_diffs: Target − against in them, `[pair]`.
        recoveries: 0 for no effect, 1 for the whole, `[pair, row, column]`.
        mean, standard_error: Of the recoveries over pairs, `[row, column]`.
        interval: `low` and `high`: the 95 % bootstrap interval of the mean, `[row, column]`.
        flipped: The share of pairs whose answer a cell turns, `[row, column]`.
        is_causal: Which cells can do anything, `[row, column]`.
        pairs: The number of each pair among those that were passed, `[pair]`.
        left_out: The pairs that are not in the map, with the reason.
        clean_prompts, corrupt_prompts, targets, againsts: Texts, `[pair]`.
        proof: What the map's own runs prove; None for an approximation.
        verified: Cells of an approximation that were run exactly, or None.
        provenance: Model, versions, arguments, seconds.
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small), whole or not at all, no pickle.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file cannot be written.
        """
        files.save_patch_map(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PatchMap:
        """Read what `save` wrote, exactly.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load_patch_map(path, cls)

    def table(self, *, show_top: int = 10, format: str = "text") -> str:
        """Return the cells of the largest mean recovery as a table.

        Args:
            show_top: How many; in "tsv" all, one row for each cell.
            format: "text", "markdown" or "tsv".

        Raises:
            ValueError: an unknown format, or no number of cells.
        """
        return PrintedText(patch_table(self, show_top=show_top, format=format))

    def __str__(self) -> str:
        return patch_table(self)

    def _repr_html_(self) -> str:
        sentences = PrintedSentences(escape_terminal(patch_summary(self)))
        return sentences._repr_html_() + PrintedText(patch_table(self))._repr_html_()

    def summary(self) -> str:
        """Return a few lines: both baselines, the largest cells, what may be said of them.

        They are for an assistant that reads on.
        """
        return PrintedSentences(escape_terminal(patch_summary(self)))

    def to_frame(self) -> Any:
        """Return long-form pandas: a row per pair and cell.

        Raises:
            LensError: pandas is not installed.
        """
        return frames.patch_frame(self)
