"""`Dose`: what an edit does over its scale, with methods that show and save it."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.edits.dose import DoseArrays
from lens_recipes.results.saved import MeasuredResult
from lens_recipes.terminal import PrintedSentences, PrintedText, escape_terminal
from lens_recipes.views.frames import dose_frame
from lens_recipes.views.summaries.edits.dose import dose_summary, dose_table


class Dose(MeasuredResult, DoseArrays):
    """What an edit does over its scale: the effect at each, and the band of the controls.

    `verdicts()` gives, for each scale, the mean effect with its interval over prompts and the
    smallest and largest effect of a control; `DoseArrays` names the arrays.

    Example:
        >>> result = dose(model, prompts, steer(" Rome", layer=20), [0, 0.1, 0.3], targets=" Rome")
        >>> print(result)
    """

    def __str__(self) -> str:
        return dose_table(self)

    def __repr__(self) -> str:
        return f"Dose({self.edit}: {len(self.scales)} scales, {len(self.prompts)} prompts)"

    def table(self) -> str:
        """Return a row for each scale: the effect, its interval, the controls, the verdict."""
        return PrintedText(dose_table(self))

    def summary(self) -> str:
        """Return a few lines: from which scale on the effect is beyond the control."""
        return PrintedSentences(escape_terminal(dose_summary(self)))

    def to_frame(self) -> Any:
        """Return long-form pandas: a row per scale, run, prompt and target.

        `run` is "edit", or the name of a control.

        Raises:
            LensError: pandas is not installed.
        """
        return dose_frame(self)
