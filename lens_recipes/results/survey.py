"""`Survey`: what thousands of items said, with methods that show, compare and save it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.survey.compare import compare_surveys
from lens_recipes.arrays.survey.curves import Curve, Draws, curve, draws_of
from lens_recipes.arrays.survey.merge import merge_surveys
from lens_recipes.arrays.survey.pass_at_k import DEFAULT_KS, PassAtK, pass_at_k
from lens_recipes.results.survey_difference import SurveyDifference
from lens_recipes.terminal import PrintedSentences, PrintedText, escape_terminal
from lens_recipes.views import files
from lens_recipes.views.pages.survey import survey_page
from lens_recipes.views.summaries.survey.summary import survey_summary, survey_without_items
from lens_recipes.views.summaries.survey.words import run_words
from lens_recipes.views.tables.survey.frames import curve_frame, survey_frame
from lens_recipes.views.tables.survey.table import survey_table


class Survey(SurveyArrays):
    """What each of many items said of its answer, at each site (`survey`).

    The axes are `[item, site]`. Log-probabilities are natural, entropy and KL in nats, ranks 0 for
    the top: the best of an answer's spellings, whose probabilities are summed. NaN, or −1 for a
    rank, stands where an item has nothing of the kind.

    Attributes:
        sites: What the site axis is.
        names: Id, group, cluster and prompt of each item, `[item]`.
        number: Which of all items each is.
        target_ids, against_ids: The spellings of the answer, and of what it is held against; −1
            pads.
        answer_ids: The model's own answer.
        position: At which token the answer was looked for.
        ranks, logprobs, against_logprobs: Of the answer, and of what it is held against.
        entropy, kl_to_final: Of the lens.
        top_ids: Its top token.
        shuffled_ranks, shuffled_logprobs: Of another item's answer, of the same group.
        random_ranks, random_logprobs: Of a random token that is about as frequent.
        left_out: Number, id, reason and detail of the items that are not among these.
        texts: id → text.
        certificate: The proof, over all items.
        provenance: Model, versions, arguments, seconds.
    """

    @property
    def draws(self) -> Draws:
        """How its intervals are made: what `survey` was asked for."""
        return draws_of(self)

    # -- statistics ----------------------------------------------------

    def curve(self, metric: str, *, group: str | None = None, control: str | None = None) -> Curve:
        """Return a metric over the sites with its interval: medians of ranks, means of all else.

        Args:
            metric: "accuracy@1", "accuracy@5", "accuracy@10", "rank", "reciprocal_rank",
                "logprob", "prob", "logit_diff", "entropy", "kl", "agreement", "emerged" or
                "decided".
            group: Of which items; None for all.
            control: What stands in the answer's place: None, "shuffle" or "random".

        Raises:
            ValueError: no such metric, group or control.

        Example:
            >>> survey(model, "capitals").curve("accuracy@1").interval.low
        """
        return curve(self, metric, group=group, control=control, draws=self.draws)

    def pass_at_k(
        self,
        ks: Sequence[int] = DEFAULT_KS,
        *,
        group: str | None = None,
        control: str | None = None,
        layers: Sequence[int] | None = None,
    ) -> PassAtK:
        """Return how often an answer is among the first k tokens at one layer or another.

        Args:
            ks: 1 for the top token alone.
            group, control: As for `curve`.
            layers: Which of the layers that were read count; None for all.

        Raises:
            ValueError: a k below 1, or no such group, control or layer.

        Example:
            >>> survey(model, "two-hop", fields={"target": "bridge"}).pass_at_k([10])
        """
        return pass_at_k(self, ks, group=group, control=control, layers=layers, draws=self.draws)

    def compare(self, other: SurveyArrays, metric: str = "accuracy@1") -> SurveyDifference:
        """Return the differences to another survey of the same items, pair by pair: other − this.

        Each site has an interval and a permutation p-value, corrected over the sites. Where the
        models have another number of layers, they are paired by relative depth. Layers that only
        one of the two read are left out, and pairs of another prompt or target are counted.

        Raises:
            ValueError: the two share no items, component or layer, or there is no such metric.

        Example:
            >>> print(survey(model, "capitals").compare(survey(model, "capitals", lens=lens)))
        """
        self.check_has_items()
        found = compare_surveys(self, other, metric, draws=self.draws)
        return SurveyDifference(*found._replace(runs=(run_words(self), run_words(other))))

    @classmethod
    def merge(cls, parts: Iterable[SurveyArrays]) -> Survey:
        """Return the whole survey out of its shards: the same as if it had been made at once.

        Raises:
            LensError: they are of different models or sites, or share items.
        """
        return as_survey(merge_surveys(parts))

    # -- views ---------------------------------------------------------

    def __str__(self) -> str:
        if not len(self):
            return survey_without_items(self)
        return survey_table(self, draws=self.draws)

    def _repr_html_(self) -> str:
        sentences = PrintedSentences(self.summary())
        return sentences._repr_html_() + PrintedText(str(self))._repr_html_()

    def table(self, **options: Any) -> str:
        """Return the metrics layer by layer, each with its interval, as a table.

        Args:
            **options: `metric` (one or several), `by` ("group"), `group`, `control`, `component`,
                `stride`, `format` ("text", "markdown", "latex", "tsv", "json") and `width`.

        Raises:
            ValueError: an option that is unknown, or does not fit.
        """
        return survey_table(self, draws=self.draws, **options)

    def summary(self) -> str:
        """Return a few lines: findings with interval, control and n, and what to distrust.

        They are for an assistant that reads on.
        """
        if not len(self):
            return PrintedSentences(escape_terminal(survey_without_items(self)))
        return PrintedSentences(escape_terminal(survey_summary(self, self.draws)))

    def to_frame(self) -> Any:
        """Return long-form pandas: a row per item and site.

        Raises:
            LensError: pandas is not installed.
        """
        self.check_has_items()
        return survey_frame(self)

    def curve_frame(self, metric: str | Sequence[str] | None = None) -> Any:
        """Return tidy pandas: a row per metric, group, control and site, with its interval.

        Raises:
            LensError: pandas is not installed.
        """
        return curve_frame(self, metric=metric, draws=self.draws)

    def page(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML file that needs no network: curves, table, and the items to click on.

        Raises:
            ValueError: another suffix than .html.
            LensError: the path cannot be written.
        """
        self.check_has_items()
        survey_page(self, path, draws=self.draws)

    # -- files ---------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small), whole or not at all, no pickle.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file cannot be written.
        """
        files.save_survey(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Survey:
        """Read what `save` wrote, exactly.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load_survey(path, cls)


def as_survey(arrays: SurveyArrays) -> Survey:
    """Return the arrays of a survey with the methods that show and save it."""
    fields = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
    return Survey(**fields)
