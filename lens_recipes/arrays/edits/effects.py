"""`EditEffects`: what edits did to a model's own output, beside controls that should do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.edits.verdict import Verdict, judge
from lens_recipes.arrays.text import counted
from lens_recipes.errors import LensError

# The arrays by their names in a run and in a file, and the axes of each.
EFFECT_AXES: Axes = {
    "effect_kl": ("run", "token"),
    "effect_target_logits": ("run", "token", "target"),
    "effect_answer_logits": ("run", "token"),
    "effect_logsumexp": ("run", "token"),
    "effect_top_ids": ("run", "token"),
    "effect_outside": ("token",),
}
BASE, EDITED, FIRST_CONTROL = 0, 1, 2  # along the axis of the runs


class Effect(NamedTuple):
    """What an edit did after one token of each prompt.

    Attributes:
        before, after: Of the unedited and of the edited run, `[prompt]`: log-probabilities; of KL,
            zeros and the KL.
        change: `after − before`, `[prompt]`, in nats.
        control_changes: The same of each control, `[control, prompt]`.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    change: NDArray[np.float64]
    control_changes: NDArray[np.float64]

    @property
    def verdict(self) -> Verdict:
        """Whether it is beyond the controls, by the rule of `judge`."""
        return judge(self.change, self.control_changes)


@dataclass(frozen=True, eq=False, repr=False)
class EditEffects:
    """What edits did to the model's own output: the unedited run, the edited one, and controls.

    The first axis is that of the runs: without edits, with them, and one run for each control. All
    are of the same batch, and of the model's own logits.

    Attributes:
        kl: KL(unedited ‖ run) in nats, `[run, token]`; 0 for the unedited run.
        target_logits: `[run, token, target]`.
        answer_logits: Of the unedited model's own answer, its top-1, `[run, token]`.
        logsumexp: log Σ exp of the logits, `[run, token]`: logprob = logit − logsumexp.
        top_ids: The top-1 of each run, `[run, token]`.
        outside: How far the edited run's logits are from the unedited ones, at most, at tokens
            before all that was edited in their prompt, `[token]`: 0, as the model is causal. NaN at
            the others.
        token_prompts: The prompt of each token.
        controls: What stood in place of the edits in each control.
        n_sites: From how many sites random ones were drawn; None for random directions.
        missing: Why there are no controls; empty where there are.

    Example:
        >>> result = logit_lens(model, prompts, targets=" Paris", edits=edit)
        >>> result.effects.of(0).verdict.words
    """

    kl: NDArray[np.float32]
    target_logits: NDArray[np.float32]
    answer_logits: NDArray[np.float32]
    logsumexp: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    outside: NDArray[np.float32]
    token_prompts: NDArray[np.int32]
    controls: list[str]
    n_sites: int | None = None
    missing: str = ""

    def __repr__(self) -> str:
        controls = ", ".join(self.controls) or self.missing
        n_prompts = len(np.unique(self.token_prompts))
        size = f"{counted(n_prompts, 'prompt')}, {counted(len(self.token_prompts), 'token')}"
        return f"EditEffects({size}; controls: {controls})"

    def __str__(self) -> str:
        lines = [repr(self)]
        names: list[int | str] = ["kl", "answer", *range(self.target_logits.shape[-1])]
        for name in names:
            verdict = self.of(name).verdict
            label = f"target {name}" if isinstance(name, int) else name
            band = ""
            if verdict.n_controls:
                band = f" (controls {verdict.control_low:+.2g} to {verdict.control_high:+.2g})"
            lines.append(f"  {label}: {verdict.effect:+.3g} nats{band}: {verdict.words}")
        return "\n".join(lines)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], token_prompts: Any, about: Mapping[str, Any]
    ) -> EditEffects:
        """Return the effects of a run, of its arrays by the names of `EFFECT_AXES`.

        Args:
            arrays: Those, and perhaps others.
            token_prompts: The prompt of each token.
            about: `provenance["controls"]`.
        """
        fields = {name: arrays[f"effect_{name}"] for name in ARRAY_FIELDS}
        return cls(
            **fields,
            token_prompts=token_prompts,
            controls=list(about["names"]),
            n_sites=about["sites"],
            missing=about["missing"],
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names of `EFFECT_AXES`."""
        return {f"effect_{name}": getattr(self, name) for name in ARRAY_FIELDS}

    def of_prompt(self, number: int) -> EditEffects:
        """Return the effects on one prompt."""
        tokens = np.flatnonzero(self.token_prompts == number)
        fields: dict[str, Any] = {}
        for name in ARRAY_FIELDS:
            axis = EFFECT_AXES[f"effect_{name}"].index("token")
            fields[name] = getattr(self, name).take(tokens, axis)
        return replace(self, token_prompts=np.zeros(len(tokens), dtype=np.int32), **fields)

    # -- reading the numbers -------------------------------------------

    @property
    def target_logprobs(self) -> NDArray[np.float32]:
        """The log-probability of each target, `[run, token, target]`."""
        return self.target_logits - self.logsumexp[..., None]

    @property
    def answer_logprobs(self) -> NDArray[np.float32]:
        """The log-probability of the unedited model's own answer, `[run, token]`."""
        return self.answer_logits - self.logsumexp

    @property
    def top1_changed(self) -> NDArray[np.bool_]:
        """Whether the edits changed the model's top-1, `[token]`."""
        return self.top_ids[EDITED] != self.top_ids[BASE]

    def of(self, what: int | str = "kl", *, position: int = -1) -> Effect:
        """Return what the edits did after one token of each prompt, beside the controls.

        Args:
            what: The number of a target: the change of its log-probability. "answer": that of the
                unedited model's own top-1. "kl": KL(unedited ‖ edited).
            position: Which of the tokens that were read of each prompt; −1 is the last.

        Raises:
            ValueError: no such target, or a prompt of which no such token was read.
        """
        return self._effect(self._values(what), position)

    def of_difference(self, target: int, against: int, *, position: int = -1) -> Effect:
        """Return the change of the difference of two targets' logits.

        Raises:
            ValueError: as `of`.
        """
        values = self.target_logits[..., target].astype(np.float64)
        return self._effect(values - self.target_logits[..., against], position)

    def _values(self, what: int | str) -> NDArray[Any]:
        """Return what is compared, `[run, token]`."""
        if what == "kl":
            return self.kl
        if what == "answer":
            return self.answer_logprobs
        n_targets = self.target_logits.shape[-1]
        if isinstance(what, int | np.integer) and not isinstance(what, bool) and what < n_targets:
            return self.target_logprobs[..., int(what)]
        known = f"targets 0 to {n_targets - 1}" if n_targets else "no targets"
        raise ValueError(
            f'what={what!r} is unknown: accepted are "kl", "answer"; there are {known}.'
        )

    def _effect(self, values: NDArray[Any], position: int) -> Effect:
        """Return the values at one token of each prompt, as an effect."""
        at_tokens = values[:, self.last_tokens(position)].astype(np.float64)
        # Equal infinities do not differ: a token that cannot be said in either run.
        with np.errstate(invalid="ignore"):
            changes = at_tokens - at_tokens[BASE]
        changes = np.where(at_tokens == at_tokens[BASE], 0.0, changes)
        return Effect(
            before=at_tokens[BASE],
            after=at_tokens[EDITED],
            change=changes[EDITED],
            control_changes=changes[FIRST_CONTROL:],
        )

    def last_tokens(self, position: int = -1) -> NDArray[np.intp]:
        """Return the index of one token of each prompt; −1 is the last that was read.

        Raises:
            ValueError: a prompt of which no such token was read.
        """
        chosen = []
        for number in np.unique(self.token_prompts):
            tokens = np.flatnonzero(self.token_prompts == number)
            if not -len(tokens) <= position < len(tokens):
                raise ValueError(
                    f"position={position}: {len(tokens)} tokens were read of prompt {number}."
                )
            chosen.append(tokens[position])
        return np.array(chosen, dtype=np.intp)

    # -- the causal cone -----------------------------------------------

    @property
    def n_outside(self) -> int:
        """How many of the tokens stand before all that was edited in their prompt."""
        return int((~np.isnan(self.outside)).sum())

    @property
    def max_outside(self) -> float:
        """How far the logits moved there, at most; 0 where there is no such token."""
        return float(np.nanmax(self.outside)) if self.n_outside else 0.0

    def check_cone(self, certificate: Certificate) -> None:
        """Raise a LensError where an edit has changed what it cannot reach.

        Rounding is let pass: in a mixture of experts, which tokens share a product depends on the
        edited ones.
        """
        if self.max_outside <= certificate.tolerance:
            return
        raise LensError(
            f"the edits changed logits by {self.max_outside:.2g} at tokens before the first that "
            "was edited. What this model says after a token depends on later ones (it is not "
            "causal, or something mixes the tokens of a batch), so effects cannot be told apart."
        )


ARRAY_FIELDS = tuple(name.removeprefix("effect_") for name in EFFECT_AXES)
