"""`Confirmation`: direct effects beside total ones, with methods that show and save them."""

from __future__ import annotations

from lens_recipes.arrays.edits.confirmation import ConfirmationArrays
from lens_recipes.results.saved import MeasuredResult
from lens_recipes.terminal import PrintedSentences, PrintedText, escape_terminal
from lens_recipes.views.summaries.edits.confirmation import confirmation_summary, confirmation_table


class Confirmation(MeasuredResult, ConfirmationArrays):
    """Direct effects that an attribution found, beside total effects, and beside random parts.

    The direct effect is what a part adds to the logit by itself, counted from zero. The total
    effect is what the logit loses where something else stands in the part's place: what the part
    does through later parts is in it. They are not the same quantity, and may differ in sign.
    `ConfirmationArrays` names the arrays.

    Example:
        >>> who = attribution(model, prompts, targets, against=rivals, unit="head")
        >>> print(confirm(model, who).summary())
    """

    def __str__(self) -> str:
        return confirmation_table(self)

    def __repr__(self) -> str:
        return f"Confirmation({self.target}: {', '.join(self.parts)})"

    def table(self) -> str:
        """Return a row for each part and method."""
        return PrintedText(confirmation_table(self))

    def summary(self) -> str:
        """Return the sentence that a finding may claim of each part."""
        return PrintedSentences(escape_terminal(confirmation_summary(self)))
