"""`Attribution`: what each part of a model adds to a logit, with methods that show and save it."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.batch.parts import PartOverPrompts, over_prompts
from lens_recipes.results.saved import SavedResult
from lens_recipes.terminal import PrintedSentences, escape_terminal
from lens_recipes.views import frames
from lens_recipes.views.pages import notebook
from lens_recipes.views.summaries.attribution import attribution_summary
from lens_recipes.views.tables.table import table


class Attribution(SavedResult, AttributionArrays):
    """How much each part of a model adds to the logit of a target (direct logit attribution).

    The units are logits. The final norm, and any norm between a head and the stream, is held at its
    value in this run, so that the parts are linear and sum to the logit. Values are before the
    softcap. `result[i]` is the result of one prompt.

    Attributes:
        unit: "layer", "component", "head" or "token".
        at_layer: After which block the stream is explained; the last one for the model's own logit.
        parts: What the first axis is, `[part]`.
        tokens: The packed token axis, as in `LensResult`.
        prompts: Display text of every prompt, `[prompt]`.
        sources: Text of every token of every prompt, `[prompt][position]`, for `unit="token"`; else
            empty.
        values: `[part, token, target]`, minus the same for `against`.
        total: Their sum, `[token, target]`.
        logit: What the model (or the lens at `at_layer`) says before its softcap, minus the same
            for `against`.
        capped_logit: The same after the softcap; equal to `logit` where there is none.
        error: |total − logit|, `[token, target]`.
        target_ids: `[prompt, target]`.
        against_ids: `[prompt, target]`; −1 where nothing, or the mean, is subtracted (see
            `against`).
        against: What was subtracted, in words; empty for nothing.
        texts: id → text.
        certificate: The proof.
        provenance: Model, versions, recipe, arguments, seconds.
        inputs: As in `LensResult`.
        places: Where every token of a prompt is in its images (`ImagePlace`), `[prompt][position]`,
            so that `places[prompt][part.source]` is the patch that a head read; empty without
            images.
    """

    def over_prompts(self, *, position: int = -1, target: int = 0) -> list[PartOverPrompts]:
        """Return what each part adds on average over the prompts, the largest |mean| first.

        A part that helps in one prompt can hurt in the next: beside the mean are its standard error
        and the number of prompts in which it helps. Prompts of one template are not independent, so
        the standard error is too small for a claim about others.

        Args:
            position: Which of the tokens that were read of each prompt; −1 is the last.
            target: Which target of each prompt, an index.

        Raises:
            ValueError: `unit="token"`, whose parts differ from prompt to prompt, or no such
                position or target.

        Example:
            >>> who = attribution(model, prompts, [[" Paris"], [" Rome"]], unit="head")
            >>> for row in who.over_prompts()[:5]:
            ...     print(row.name, row.mean, row.standard_error, f"{row.positive} of {row.n}")
        """
        return over_prompts(self, position=position, target=target)

    def __str__(self) -> str:
        return table(self)

    def _repr_html_(self) -> str:
        return notebook.attribution_html(self)

    def summary(self) -> str:
        """Return a few lines: what helps and hurts each target, how much, what to distrust.

        They are for an assistant that reads on.
        """
        return PrintedSentences(escape_terminal(attribution_summary(self)))

    def to_frame(self) -> Any:
        """Return long-form pandas: one row per part, token and target.

        `value` is in logits; its sum over the rows of one `prompt`, `position` and `target_id` is
        the total. `source` is a position with the text `source_text`. `layer`, `head` and `source`
        are missing where they do not apply.

        Raises:
            LensError: pandas is not installed.
        """
        return frames.attribution_frame(self)
