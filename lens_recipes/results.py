"""Results as recipes return them: arrays with named axes, and methods that show and save them."""

from __future__ import annotations

import importlib
import os
from typing import Any, Self

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.batch.outcomes import Outcome, outcomes
from lens_recipes.arrays.batch.parts import PartOverPrompts, over_prompts
from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.tracks import important
from lens_recipes.arrays.sites import Important
from lens_recipes.terminal import PrintedSentences, PrintedText, escape_terminal
from lens_recipes.views import files, frames
from lens_recipes.views.pages import notebook
from lens_recipes.views.summaries.attribution import attribution_summary
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.summaries.patch_map import patch_summary
from lens_recipes.views.tables.generation.report import generation_text
from lens_recipes.views.tables.patch_map import patch_table
from lens_recipes.views.tables.table import table


class SavedResult:
    """What every result can do with its file."""

    def save(self: Any, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small), whole or not at all, no pickle.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file cannot be written.
        """
        files.save(self, path)

    def verify(self, model: Any, *, remote: bool | str | None = None, lens: Any = None) -> Self:
        """Run this again on a model, and return it with the certificate of that run.

        What a file holds is a claim: its certificate says "as saved". This proves it.

        Args:
            model: What `load()` returns: the model that the result is said to be of.
            remote: Where it runs, as for `logit_lens`.
            lens: The lens that it was read with, where it cannot be loaded from where it was then.

        Raises:
            LensError: the model says something else; the message names the first number that
                differs by more than rounding. Or the result keeps too little to run it again.
        """
        # The public function: it runs recipes, which are built upon results.
        return importlib.import_module("lens_recipes").verify(self, model, remote=remote, lens=lens)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, exactly.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load(path, cls)


class LensResult(SavedResult, LensArrays):
    """What each site of a model predicts after each token.

    The axes are `[site, token, …]`, and `tokens` names the tokens. Log-probabilities are natural
    logs, entropy and KL are in nats, rank 0 is the top. `final_*` is about the model's own answer,
    its top-1 after that token. `next_*` is about the token that really follows (NaN and rank −1
    where the prompt ends). `len(result)` is the number of prompts, and `result[i]` the result of
    one prompt, with the numbers it has alone.

    Attributes:
        sites: The places that were read, `[site]`.
        tokens: The packed token axis.
        prompts: Display text of every prompt, `[prompt]`.
        top_ids, top_logprobs: The k most likely tokens, `[site, token, k]`.
        entropy: Entropy of the lens distribution, `[site, token]`.
        kl_to_final: KL(model's own output ‖ lens), `[site, token]`.
        logsumexp: log Σ exp of the logits, `[site, token]`: logit = logprob + logsumexp.
        next_logprobs, next_ranks: About the prompt's next token, `[site, token]`.
        final_ids, model_logprobs: The model's answer and the log-probability that the model gave
            it, `[token]`.
        model_entropy: Entropy of the model's own output, `[token]`; NaN in a file of an earlier
            version.
        final_logprobs, final_ranks: What each site makes of that answer, `[site, token]`.
        target_ids: `[prompt, target]`.
        target_logits, target_logprobs, target_ranks: `[site, token, target]`.
        tracked_ids: Tokens followed through all sites of their position, `[token, m]`; −1 pads.
        tracked_logprobs: `[site, token, m]`.
        texts: id → text of every id above.
        certificate: The proof, or None with the reason in `provenance["certificate"]`.
        provenance: Model, versions, recipe, arguments, seconds.
        inputs: What the model was given of each prompt, `[prompt]`: "input_ids", and what else an
            encoding had. Empty for vectors, and in a file of an earlier version.
        responses: What the model wrote after each prompt, `[prompt]`; empty where it did not
            generate.
        effects: Of an edited run: what the edits did to the model's own output, beside controls (an
            `EditEffects`); None without edits, or with `controls=0`.
    """

    def important(
        self,
        metric: str = "prob",
        threshold: float | None = None,
        *,
        of: str | int | None = None,
        prompt: int = 0,
        position: int = -1,
    ) -> list[Important]:
        """Return the sites that stand out after one token, each with its number, in their order.

        This is a threshold on what the lens shows, not a test of what the model uses. A site can
        stand out although nothing later reads it, and a layer that works in another basis does not
        stand out. Where the lens cannot be read (`readable`), a high probability means nothing.
        What a block adds ("attn_out", "mlp_out" …) is read alone, so its numbers say nothing about
        how much it moves the stream.

        Args:
            metric: "prob": the probability of the token `of`, or of the site's own top-1 (default
                threshold 0.5). "kl_drop": by how many nats `kl_to_final` falls (0.5).
                "target_jump": by how many nats the log-probability of `of` rises (1.0). The last
                two compare with the site before it *in the stream*: a step to `resid_mid` is
                attention's, a step to `resid_post` the MLP's. The first site has no step, nor has
                what a block adds; where layers were left out, a step spans several.
            threshold: A site is important from this value on, the value itself included.
            of: As in `of()`. For "target_jump" None is "target", or "final" where the result has no
                targets.
            prompt: Which prompt.
            position: Which of its selected tokens; −1 is the last.

        Raises:
            ValueError: an argument that does not fit the result; the message says what would.

        Example:
            >>> heatmap(result, sites=result.important("kl_drop", 1.0))
        """
        return important(self, metric, threshold, of=of, prompt=prompt, position=position)

    def outcomes(
        self, of: str | int | None = None, *, position: int = -1, component: str | None = None
    ) -> list[Outcome]:
        """Return what became of each prompt's target, one entry for each prompt.

        An entry says which rank the target has at the last layer that was read, from which layer on
        it is known to be top-1, and what the model answers.

        Args:
            of: As in `of()`. None is "target", or "final" where the result has no targets.
            position: Which of the tokens that were read of each prompt; −1 is the last.
            component: Along which sites, as in `settled`.

        Raises:
            ValueError: a token, position or component that the result does not have.

        Example:
            >>> result = logit_lens(model, prompts, targets=[[" Paris"], [" Rome"]], positions=-1)
            >>> n_right = sum(outcome.right for outcome in result.outcomes())
        """
        return outcomes(self, of, position=position, component=component)

    def __str__(self) -> str:
        if self.tokens.generated.any():
            return generation_text(self)
        return table(self)

    def _repr_html_(self) -> str:
        return notebook.lens_html(self)

    def summary(self) -> str:
        """Return a few lines: where answers settle, how targets' ranks move, what to distrust.

        They are for an assistant that reads on.
        """
        return PrintedSentences(escape_terminal(lens_summary(self)))

    def to_frame(self) -> Any:
        """Return long-form pandas: a row per site, token and predicted token, with its role there.

        `role` is "top" (with `k`), "next", "final", "target" (with `k`) or "tracked". A generation
        also has the columns `generated`, `next_logprob` and `sampler_logprob`, which are about the
        token after which the row is, as in `tokens`.

        Raises:
            LensError: pandas is not installed.
        """
        return frames.to_frame(self)


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


def load_result(path: str | os.PathLike[str]) -> LensResult | Attribution | PatchMap:
    """Read what `save` wrote, whichever result it is.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    if files.is_patch_map(path):
        return PatchMap.load(path)
    return files.load_any(path, (LensResult, Attribution))
