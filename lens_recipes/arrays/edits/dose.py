"""`DoseArrays`: what an edit does over its scale, beside controls, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.effects import Effect
from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.arrays.edits.verdict import Verdict
from lens_recipes.arrays.text import EACH_TARGET

DOSE_AXES: Axes = {
    "base_logprobs": ("prompt", "target"),
    "logprobs": ("scale", "prompt", "target"),
    "control_logprobs": ("scale", "control", "prompt", "target"),
    "kl": ("scale", "prompt"),
    "control_kl": ("scale", "control", "prompt"),
}


@dataclass(frozen=True, repr=False, eq=False)
class DoseArrays:
    """The numbers of a dose: `Dose` without the methods that show and save it.

    Attributes:
        edit_fields: The edit, as `Edit.to_json` gives it.
        scales: `[scale]`, ascending.
        unit: What a scale is: "scale" of a steering, or "share" of the way to what is put there.
        prompts: Display text of every prompt.
        target_ids: `[prompt][target]`.
        texts: Text of each target's id.
        base_logprobs: Log-probability of each target in the unedited run, `[prompt, target]`, in
            nats, after the last token.
        logprobs: In the edited run, `[scale, prompt, target]`.
        control_logprobs: With a control in place of the edit, `[scale, control, prompt, target]`.
        kl: KL(unedited ‖ edited) in nats, `[scale, prompt]`.
        control_kl: The same of the controls, `[scale, control, prompt]`.
        controls: What stood in place of the edit.
        n_sites: From how many sites random ones were drawn; None for random directions.
        missing: Why there are no controls; empty where there are.
        provenance: Model, versions, arguments.
    """

    edit_fields: dict[str, Any]
    scales: list[float]
    unit: str
    prompts: list[str]
    target_ids: list[list[int]]
    texts: dict[int, str]
    base_logprobs: NDArray[np.float64]
    logprobs: NDArray[np.float64]
    control_logprobs: NDArray[np.float64]
    kl: NDArray[np.float64]
    control_kl: NDArray[np.float64]
    controls: list[str]
    n_sites: int | None
    missing: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def edit(self) -> Edit:
        """The edit whose scale was changed (without its lens)."""
        return edit_from_json(self.edit_fields)

    @property
    def n_targets(self) -> int:
        """How many targets were followed of each prompt."""
        return int(self.logprobs.shape[-1])

    def target_name(self, target: int = 0) -> str:
        """Return the text of a target, or what it is called where the prompts have others."""
        texts = {self.texts.get(ids[target], f"#{ids[target]}") for ids in self.target_ids}
        return texts.pop() if len(texts) == 1 else EACH_TARGET

    def effects(self, what: int | str = 0) -> list[Effect]:
        """Return the effect at each scale.

        Args:
            what: The number of a target, whose log-probability changes; or "kl".

        Raises:
            ValueError: no such target.
        """
        if what == "kl":
            nothing = np.zeros(len(self.prompts))
            return [
                Effect(nothing, edited, edited, controls)
                for edited, controls in zip(self.kl, self.control_kl, strict=True)
            ]
        is_target = isinstance(what, int) and 0 <= what < self.n_targets
        if not is_target:
            raise ValueError(
                f'what={what!r} is unknown: accepted are "kl" and the number of a target; there '
                f"are {self.n_targets}."
            )
        before = self.base_logprobs[:, what]  # type: ignore[index]
        effects = []
        for edited, controls in zip(self.logprobs, self.control_logprobs, strict=True):
            after = edited[:, what]
            effects.append(Effect(before, after, after - before, controls[..., what] - before))
        return effects

    def verdicts(self, what: int | str = 0) -> list[Verdict]:
        """Return, for each scale, the mean effect beside the controls, by the rule of `judge`."""
        return [effect.verdict for effect in self.effects(what)]
