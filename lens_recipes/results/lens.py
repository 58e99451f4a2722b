"""`LensResult`: what each site of a model predicts, with methods that show and save it."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.batch.outcomes import Outcome, outcomes
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.tracks import important
from lens_recipes.arrays.sites import Important
from lens_recipes.results.saved import SavedResult
from lens_recipes.terminal import PrintedSentences, escape_terminal
from lens_recipes.views import frames
from lens_recipes.views.pages import notebook
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.tables.generation.report import generation_text
from lens_recipes.views.tables.table import table


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
        pictures: The images of each prompt, `[prompt][image]`, as small PNG or JPEG copies; empty
            without images. `tokens` says where in them each image token is.
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
