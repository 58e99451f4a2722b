"""The results that recipes return: arrays with named axes, and the methods that show and save them."""

from __future__ import annotations

import os
from typing import Any, Self

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import Important
from lens_recipes.arrays.tracks import important
from lens_recipes.views import files, frames
from lens_recipes.views.pages import notebook
from lens_recipes.views.summaries.attribution import attribution_summary
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.tables.generation.report import generation_text
from lens_recipes.views.tables.table import table


class LensResult(LensArrays):
    __doc__ = LensArrays.__doc__

    def important(
        self,
        metric: str = "prob",
        threshold: float | None = None,
        *,
        of: str | int | None = None,
        prompt: int = 0,
        position: int = -1,
    ) -> list[Important]:
        """The sites that stand out after one token, each with the number that says so, in the order of `sites`.

        It is a threshold on what the lens shows, not a test of what the model uses: a site can stand out although
        nothing later reads it, and a layer that works in another basis does not stand out. What a block adds
        ("attn_out", "mlp_out" …) is read alone, so its numbers say nothing of how much it moves the stream.

        Args:
            metric: "prob": the probability of the token `of`, or of the site's own top-1 (default threshold 0.5).
                "kl_drop": by how many nats `kl_to_final` falls (0.5). "target_jump": by how many nats the
                log-probability of `of` rises (1.0). Both compare with the site before it *in the stream*: a step to
                `resid_mid` is attention's, one to `resid_post` the MLP's. The first site has none, nor has what a block
                adds; where layers were left out a step spans several.
            threshold: A site is important from this value on, itself included.
            of: As in `of()`. For "target_jump" None is the first target, or "final" where there is none.
            prompt: Which prompt.
            position: Which of its selected tokens; −1 is the last.

        Raises:
            ValueError: an argument that does not fit the result; the message says what would.

        Example:
            >>> heatmap(result, sites=result.important("kl_drop", 1.0))
        """
        return important(self, metric, threshold, of=of, prompt=prompt, position=position)

    def __str__(self) -> str:
        if self.tokens.generated.any():
            return generation_text(self)
        return table(self)

    def _repr_html_(self) -> str:
        return notebook.lens_html(self)

    def summary(self) -> str:
        """A few lines for an assistant: where the answer settles, how the targets' ranks move, what to distrust."""
        return lens_summary(self)

    def to_frame(self) -> Any:
        """Long-form pandas: one row per site, token and predicted token, with the role it plays there.

        `role` is "top" (with `k`), "next", "final", "target" (with `k`) or "tracked". Of a generation also
        `generated`, `next_logprob` and `sampler_logprob` of the token after which the row is, as in `tokens`.

        Raises:
            LensError: pandas is not installed.
        """
        return frames.to_frame(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small): complete or not at all, and without pickle."""
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, exactly.

        Raises:
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load(path, cls)


class Attribution(AttributionArrays):
    __doc__ = AttributionArrays.__doc__

    def __str__(self) -> str:
        return table(self)

    def _repr_html_(self) -> str:
        return notebook.attribution_html(self)

    def summary(self) -> str:
        """A few lines for an assistant: what helps and hurts each target, how much of it that is, what to distrust."""
        return attribution_summary(self)

    def to_frame(self) -> Any:
        """Long-form pandas: one row per part, token and target.

        `value` is in logits; its sum over the rows of one `prompt`, `position` and `target_id` is the total. `source`
        is a position with the text `source_text`. `layer`, `head` and `source` are missing where they do not apply.

        Raises:
            LensError: pandas is not installed.
        """
        return frames.attribution_frame(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small): complete or not at all, and without pickle."""
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, exactly.

        Raises:
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load(path, cls)


def load_result(path: str | os.PathLike[str]) -> LensResult | Attribution:
    """Read what `save` wrote, whichever result it is.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    return files.load_any(path, (LensResult, Attribution))
