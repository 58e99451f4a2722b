"""`SurveyDifference`: how two surveys of the same items differ, with a table."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.survey.compare import SurveyComparison
from lens_recipes.terminal import PrintedText
from lens_recipes.views.tables.survey.comparison import comparison_table


class SurveyDifference(SurveyComparison):
    """How two surveys of the same items differ over the sites of the first (`Survey.compare`).

    Attributes:
        metric: What was compared.
        sites: Of the first survey.
        other_sites: The site of the other that each is held against.
        difference: Other minus first, over the pairs of items: estimate, low, high, n.
        test: Sign-flip p-values, `p` of each site by itself and `corrected_p` over all of them
            (max-T).
        n_pairs: How many items both have.
        n_unpaired: How many only one of them has.
        n_without: How many both have, of which one or both have no such metric.
        n_changed: How many pairs have another prompt or another target in each, of one model.
        n_sites_alone: How many sites of the first have no partner, as the other did not read them.
        draws: How the intervals were made.
        runs: What the two surveys are of: model, lens, edits, and whether each is certified.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return comparison_table(self)

    def _repr_html_(self) -> str:
        return PrintedText(str(self))._repr_html_()

    def table(self, **options: Any) -> str:
        """Return the differences layer by layer, with intervals and p-values, as a table.

        Args:
            **options: `names` (what the two surveys are called), `stride`, `format` ("text",
                "markdown", "latex", "tsv", "json") and `width`.

        Raises:
            ValueError: an option that is unknown, or does not fit.
        """
        return comparison_table(self, **options)
