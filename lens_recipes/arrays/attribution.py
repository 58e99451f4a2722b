"""`Attribution`: who wrote a logit, in plain numpy, and the certificate that the parts are the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Part, Tokens, one_prompt
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.text import visible_token

AXES: dict[str, tuple[str, ...]] = {
    "values": ("part", "token", "target"),
    "total": ("token", "target"),
    "logit": ("token", "target"),
    "capped_logit": ("token", "target"),
    "error": ("token", "target"),
    "target_ids": ("prompt", "target"),
    "against_ids": ("prompt", "target"),
}

UNITS = ("layer", "component", "head", "token")


@dataclass(frozen=True, repr=False, eq=False)
class AttributionArrays:
    """How much each part of a model adds to the logit of a target (direct logit attribution). Units: logits.

    The final norm, and any norm between a head and the stream, is held at its value of this run, so that the parts
    are linear and sum to the logit. Values are before the softcap. `result[i]` is the result of one prompt.

    Attributes:
        unit: "layer", "component", "head" or "token".
        at_layer: After which block the stream is explained; the last one for the model's own logit.
        parts: What the first axis is, `[part]`.
        tokens: The packed token axis, as in `LensResult`.
        prompts: Display text of every prompt, `[prompt]`.
        sources: Text of every token of every prompt, `[prompt][position]`, for `unit="token"`; else empty.
        values: `[part, token, target]`, minus the same for `against`.
        total: Their sum, `[token, target]`.
        logit: What the model (or the lens at `at_layer`) says before its softcap, minus that of `against`.
        capped_logit: The same after the softcap; equal to `logit` where there is none.
        error: |total − logit|, `[token, target]`.
        target_ids: `[prompt, target]`.
        against_ids: `[prompt, target]`; −1 where nothing, or the mean, is subtracted (see `against`).
        against: What was subtracted, in words; empty for nothing.
        texts: id → text.
        certificate: The proof.
        provenance: Model, versions, recipe, arguments, seconds.
    """

    unit: str
    at_layer: int
    parts: list[Part]
    tokens: Tokens
    prompts: list[str]
    sources: list[list[str]]
    values: NDArray[np.float32]
    total: NDArray[np.float32]
    logit: NDArray[np.float32]
    capped_logit: NDArray[np.float32]
    error: NDArray[np.float32]
    target_ids: NDArray[np.int32]
    against_ids: NDArray[np.int32]
    against: str
    texts: dict[int, str]
    certificate: Certificate | None
    provenance: dict[str, Any] = field(default_factory=dict)

    # -- prompts -------------------------------------------------------

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, prompt: int) -> Self:
        """One prompt's result: its tokens and targets, and no sources beyond its end. (`texts` stays whole.)"""
        number, cut = one_prompt(self, AXES, prompt)
        sources = self.sources[number : number + 1]
        length = len(sources[0]) if sources else 0
        kept = [
            p for p, part in enumerate(self.parts) if part.source is None or part.source < length
        ]
        cut["values"] = cut["values"][kept]
        return dataclasses.replace(
            self, **cut, parts=[self.parts[p] for p in kept], sources=sources
        )

    def text(self, token: int) -> str:
        """The text of an id in this result."""
        return self.texts.get(int(token), f"#{token}")

    def target_name(
        self, prompt: int = 0, target: int = 0, *, show: Callable[[str, int], str] = visible_token
    ) -> str:
        """What the values are about: "·Paris", "·Paris − ·London", or "·Paris − " and `against` in words.

        `show` makes a text legible, cut to a number of characters (`display.plotly_safe` for figures).
        """
        name, other = (
            show(self.text(self.target_ids[prompt, target]), 20),
            int(self.against_ids[prompt, target]),
        )
        if other >= 0:
            return f"{name} − {show(self.text(other), 20)}"
        return f"{name} − {show(self.against, 40).replace('·', ' ')}" if self.against else name

    # -- reading it ----------------------------------------------------

    @property
    def mark(self) -> str:
        """What every view must say beside the numbers; empty when nothing is wrong."""
        return "" if self.certificate is None or self.certificate.passed else "NOT CERTIFIED"

    def top(
        self,
        n: int | None = 10,
        *,
        component: str | None = None,
        sign: int | None = None,
        prompt: int = 0,
        position: int = -1,
        target: int = 0,
    ) -> list[tuple[Part, float]]:
        """The `n` largest parts by |value|, with their signed values; a NaN comes first, it spoils the total.

        Args:
            n: How many, at most; None for all.
            component: Only parts of this component, such as "head_out" or "mlp_out".
            sign: 1 for the parts that help the target, −1 for those that hurt it, None for both.
            prompt: Which prompt.
            position: Which of its selected tokens, an index into them; −1 is the last.
            target: Which target, an index.

        Raises:
            ValueError: `n` below 1, or no such component, prompt, position or target.
        """
        if n is not None and n < 1:
            raise ValueError(f"n={n} must be at least 1, or None for all.")
        if sign not in (None, 1, -1):
            raise ValueError(f"sign={sign!r} must be 1 (what helps), -1 (what hurts) or None.")
        self._check_component(component)
        one, t, k = locate(self, prompt, position, target)
        found = [(one.parts[p], float(one.values[p, t, k])) for p in by_size(one.values[:, t, k])]
        named = [(part, value) for part, value in found if component in (None, part.component)]
        return [(part, value) for part, value in named if sign is None or value * sign > 0][:n]

    def by_layer(
        self, component: str | None = None, *, prompt: int = 0, position: int = -1, target: int = 0
    ) -> tuple[list[int], NDArray[np.float32]]:
        """What each layer adds, `[layer]`, and which layers those are; with a component, only its share there.

        All layers, the embedding and the biases of the model's tail (`parts` "embed" and "bias") sum to the logit.

        Raises:
            ValueError: no such component, prompt, position or target.

        Example:
            >>> who = attribution(model, "The capital of France is", " Paris", unit="component")
            >>> layers, added = who.by_layer("mlp_out")
        """
        self._check_component(component)
        one, t, k = locate(self, prompt, position, target)
        sums: dict[int, float] = {}
        for part, value in zip(one.parts, one.values[:, t, k].tolist(), strict=True):
            asked = part.component == component or (component is None and part.component != "embed")
            if part.layer is not None and asked:
                sums[part.layer] = sums.get(part.layer, 0.0) + value
        return list(sums), np.array(list(sums.values()), dtype=np.float32)

    def by_source(
        self, layer: int, head: int, *, prompt: int = 0, position: int = -1, target: int = 0
    ) -> NDArray[np.float32]:
        """What one head adds by what it read from each token of the prompt, `[source]`, as in `sources[prompt]`.

        What the values' bias adds is of no token: a part of its own, "value_bias".

        Raises:
            ValueError: the unit is not "token", or there is no such head, prompt, position or target.
        """
        if self.unit != "token":
            raise ValueError(
                f'unit={self.unit!r} does not tell sources apart: run the recipe with unit="token".'
            )
        one, t, k = locate(self, prompt, position, target)
        heads = {(part.layer, part.head) for part in one.parts if part.component == "head_out"}
        if (layer, head) not in heads:
            raise ValueError(
                f"there is no head {head} in layer {layer} of this result; its last is {max(heads)}."
            )
        mine = [p for p, part in enumerate(one.parts) if part[:3] == (layer, "head_out", head)]
        return one.values[mine, t, k]

    def _check_component(self, component: str | None) -> None:
        there = list(dict.fromkeys(part.component for part in self.parts))
        if component is not None and component not in there:
            raise ValueError(
                f"component={component!r} is not in this result; its parts are {', '.join(there)}."
            )

    @np.errstate(invalid="ignore")  # ∞ − ∞
    def grid(
        self, prompt: int = 0, position: int = -1, target: int = 0
    ) -> tuple[list[int], NDArray[np.float32]]:
        """What each head adds, `[layer, head]`, and the layers that the rows are; NaN where a layer has no such head.

        With `unit="token"` a head's sum over all that it read from, and the bias of its values.

        Raises:
            ValueError: the unit has no heads, or no such prompt, token or target.
        """
        if self.unit not in ("head", "token"):
            raise ValueError(
                f'unit={self.unit!r} does not tell heads apart: run the recipe with unit="head" or unit="token".'
            )
        one, t, k = locate(self, prompt, position, target)
        layers = sorted({part.layer for part in one.parts if part.layer is not None})
        row = {layer: number for number, layer in enumerate(layers)}
        heads = [
            (p, row[part.layer], part.head) for p, part in enumerate(one.parts) if part.layer in row
        ]
        width = 1 + max((head for _, _, head in heads if head is not None), default=-1)
        if not width:
            raise ValueError(
                "no layer of this result has heads that could be told apart: see its `parts`."
            )
        sums, held = np.zeros((len(layers), width)), np.zeros((len(layers), width), dtype=bool)
        for p, layer, head in heads:
            if head is not None:
                sums[layer, head] += one.values[p, t, k]
                held[layer, head] = True
        return layers, np.where(held, sums, np.nan).astype(np.float32)

    @property
    def size(self) -> str:
        """In words: prompts, tokens, parts, targets."""
        counts = {"prompt": len(self), "token": len(self.tokens), "part": len(self.parts)}
        counts["target"] = self.target_ids.shape[1]
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())

    def __repr__(self) -> str:
        mark = f"; {self.mark}" if self.mark else ""
        return (
            f"Attribution({self.provenance.get('model', '?')}, by {self.unit}: {self.size}{mark})"
        )


def locate(
    result: AttributionArrays, prompt: int, position: int, target: int
) -> tuple[AttributionArrays, int, int]:
    """One prompt's result, and `token` and `target` as indices into its axes.

    Raises:
        ValueError: one of them is not there; the message says what is.
    """
    for name, value in (("prompt", prompt), ("position", position), ("target", target)):
        if not isinstance(value, int | np.integer):
            raise ValueError(
                f"{name}={value!r} must be a whole number, an index into the {name}s of the result."
            )
    if not -len(result) <= prompt < len(result):
        raise ValueError(f"prompt={prompt} is out of range: {_accepted(len(result), 'prompts')}.")
    one = result[prompt]
    n_tokens, n_targets = one.total.shape
    if not -n_tokens <= position < n_tokens:
        what = f"tokens of prompt {prompt} (an index into those that were read, not a position)"
        raise ValueError(f"position={position} is out of range: {_accepted(n_tokens, what)}.")
    if not -n_targets <= target < n_targets:
        names = ", ".join(one.target_name(0, k) for k in range(n_targets))
        raise ValueError(
            f"target={target} is out of range: {_accepted(n_targets, 'targets')} ({names}); it is an index, not a text."
        )
    return one, range(n_tokens)[position], range(n_targets)[target]


def _accepted(n: int, what: str) -> str:
    return f"there are {n} {what}; accepted is {-n} to {n - 1}" if n else f"there are no {what}"


def by_size(values: NDArray[np.float32]) -> list[int]:
    """Indices `[part]` from the largest |value| to the smallest, NaN before all, equal ones as they stand."""
    size = np.nan_to_num(np.abs(values.astype(np.float64)), nan=np.inf, posinf=np.inf)
    return np.argsort(-size, kind="stable").tolist()
