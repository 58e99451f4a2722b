"""`AttributionArrays`: who wrote a logit, in plain numpy, and the certificate that it adds up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes, Inputs, Part, Tokens, fields_of_prompt, prompt_number
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.edits.words import edits_in_words
from lens_recipes.arrays.images import ImagePlace
from lens_recipes.arrays.run_record import RunRecord
from lens_recipes.arrays.text import counted, visible_token
from lens_recipes.terminal import one_line

# The arrays of an attribution and their axes, for views of one prompt and for files.
AXES: Axes = {
    "values": ("part", "token", "target"),
    "total": ("token", "target"),
    "logit": ("token", "target"),
    "capped_logit": ("token", "target"),
    "error": ("token", "target"),
    "target_ids": ("prompt", "target"),
    "against_ids": ("prompt", "target"),
}

# What a logit can be split into.
UNITS = ("layer", "component", "head", "token")


@dataclass(frozen=True, repr=False, eq=False)
class AttributionArrays(RunRecord):
    """The numbers of an attribution: `Attribution` without the methods that show and save it.

    `Attribution` says what each field holds; `AXES` says which axes each array has.
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
    inputs: list[Inputs] = field(default_factory=list)
    places: list[list[ImagePlace]] = field(default_factory=list)

    # -- prompts -------------------------------------------------------

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Self]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, prompt: int) -> Self:
        """Return one prompt's result: its tokens and targets, and no sources beyond its end.

        (`texts` stays whole.)
        """
        number = prompt_number(prompt, len(self))
        fields = fields_of_prompt(self, AXES, number)
        sources = self.sources[number : number + 1]
        n_sources = len(sources[0]) if sources else 0
        rows = [
            row
            for row, part in enumerate(self.parts)
            if part.source is None or part.source < n_sources
        ]
        fields["sources"] = sources
        fields["places"] = self.places[number : number + 1]
        fields["parts"] = [self.parts[row] for row in rows]
        fields["values"] = fields["values"][rows]
        return dataclasses.replace(self, **fields)

    # -- names ---------------------------------------------------------

    def text(self, token: int) -> str:
        """Return the text of an id in this result."""
        return self.texts.get(int(token), f"#{token}")

    def target_name(
        self, prompt: int = 0, target: int = 0, *, show: Callable[[str, int], str] = visible_token
    ) -> str:
        """Name what the values are about: "·Paris", "·Paris − ·London", or "·Paris − the mean".

        `show` makes a text legible, cut to a number of characters. (Figures pass `plotly_safe`.)
        """
        target_name = show(self.text(self.target_ids[prompt, target]), 20)
        against_id = int(self.against_ids[prompt, target])
        if against_id >= 0:
            return f"{target_name} − {show(self.text(against_id), 20)}"
        if self.against:
            return f"{target_name} − {show(self.against, 40).replace('·', ' ')}"
        return target_name

    # -- reading the numbers -------------------------------------------

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
        """Return the `n` largest parts by |value|, with their signed values.

        A NaN comes first: it spoils the total.

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
        location = locate(self, prompt, position, target)
        values = location.values
        largest = []
        for row in by_size(values):
            part = location.result.parts[row]
            value = float(values[row])
            has_component = component in (None, part.component)
            has_sign = sign is None or value * sign > 0
            if has_component and has_sign:
                largest.append((part, value))
        return largest[:n]

    def by_layer(
        self, component: str | None = None, *, prompt: int = 0, position: int = -1, target: int = 0
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Return what each layer adds, `[layer]`, and which layers those are.

        With a component it is only that component's share of each layer. All layers, the embedding
        and the biases of the model's head (the `parts` "embed" and "bias") sum to the logit. What
        edits have added to the stream is no layer's: it is `by_layer("edit")`.

        Raises:
            ValueError: no such component, prompt, position or target.

        Example:
            >>> who = attribution(model, "The capital of France is", " Paris", unit="component")
            >>> layers, added = who.by_layer("mlp_out")
        """
        self._check_component(component)
        location = locate(self, prompt, position, target)
        sums: dict[int, float] = {}
        for part, value in zip(location.result.parts, location.values.tolist(), strict=True):
            if part.layer is None:
                continue
            if component is None:
                is_counted = part.component not in ("embed", "edit")
            else:
                is_counted = part.component == component
            if is_counted:
                sums[part.layer] = sums.get(part.layer, 0.0) + value
        return list(sums), np.array(list(sums.values()), dtype=np.float32)

    def by_source(
        self, layer: int, head: int, *, prompt: int = 0, position: int = -1, target: int = 0
    ) -> NDArray[np.float32]:
        """Return what one head adds by what it read from each token of the prompt, `[source]`.

        The sources are those of `sources[prompt]`; of a prompt with images, `places[prompt]` says
        which patch each of them is. What the bias of the values adds belongs to no
        token: it is a part of its own, "value_bias".

        Raises:
            ValueError: the unit is not "token", or there is no such head, prompt, position or
                target.
        """
        if self.unit != "token":
            raise ValueError(
                f'unit={self.unit!r} does not tell sources apart: run the recipe with unit="token".'
            )
        location = locate(self, prompt, position, target)
        head_parts = [
            (row, part)
            for row, part in enumerate(location.result.parts)
            if part.component == "head_out"
        ]
        rows = [row for row, part in head_parts if (part.layer, part.head) == (layer, head)]
        if not rows:
            last_head = max((part.layer, part.head) for _, part in head_parts)
            raise ValueError(
                f"there is no head {head} in layer {layer} of this result; its last is {last_head}."
            )
        return location.values[rows]

    def _check_component(self, component: str | None) -> None:
        """Raise a ValueError if no part is of this component."""
        names = list(dict.fromkeys(part.component for part in self.parts))
        if component is not None and component not in names:
            raise ValueError(
                f"component={component!r} is not in this result; its parts are {', '.join(names)}."
            )

    @np.errstate(invalid="ignore")  # ∞ − ∞
    def grid(
        self, prompt: int = 0, position: int = -1, target: int = 0
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Return what each head adds, `[layer, head]`, and the layers that the rows are.

        It is NaN where a layer has no such head. With `unit="token"` it is a head's sum over all
        that it read from, and the bias of its values.

        Raises:
            ValueError: the unit has no heads, or no such prompt, token or target.
        """
        if self.unit not in ("head", "token"):
            raise ValueError(
                f"unit={self.unit!r} does not tell heads apart: run the recipe with "
                'unit="head" or unit="token".'
            )
        location = locate(self, prompt, position, target)
        parts = location.result.parts
        layers = sorted({part.layer for part in parts if part.layer is not None})
        row_of_layer = {layer: row for row, layer in enumerate(layers)}
        n_heads = 1 + max((part.head for part in parts if part.head is not None), default=-1)
        if n_heads == 0:
            raise ValueError(
                "no layer of this result has heads that could be told apart: see its `parts`."
            )
        sums = np.zeros((len(layers), n_heads))
        has_head = np.zeros((len(layers), n_heads), dtype=bool)
        for part, value in zip(parts, location.values, strict=True):
            if part.layer is not None and part.head is not None:
                row = row_of_layer[part.layer]
                sums[row, part.head] += value
                has_head[row, part.head] = True
        return layers, np.where(has_head, sums, np.nan).astype(np.float32)

    # -- reading the run -----------------------------------------------

    @property
    def size(self) -> str:
        """Return the numbers of prompts, tokens, parts and targets, in words."""
        counts = (
            counted(len(self), "prompt"),
            counted(len(self.tokens), "token"),
            counted(len(self.parts), "part"),
            counted(self.target_ids.shape[1], "target"),
        )
        return ", ".join(counts)

    def __repr__(self) -> str:
        model = one_line(str(self.provenance.get("model", "?")))
        lens = "" if self.lens.is_logit else f", {self.lens.name}"
        edited = f"; {edits_in_words(self.edits)}" if self.edits else ""
        warning = f"; {self.mark}" if self.mark else ""
        return f"Attribution({model}{lens}, by {self.unit}: {self.size}{edited}{warning})"


class Location(NamedTuple):
    """One target after one token: one prompt's result, and indices into its axes."""

    result: AttributionArrays
    token: int
    target: int

    @property
    def values(self) -> NDArray[np.float32]:
        """Return what each part adds there, `[part]`."""
        return self.result.values[:, self.token, self.target]


def locate(result: AttributionArrays, prompt: int, position: int, target: int) -> Location:
    """Find one target after one token of one prompt; negative numbers count from the end.

    Raises:
        ValueError: one of them is not there; the message says what is.
    """
    for name, value in (("prompt", prompt), ("position", position), ("target", target)):
        if not isinstance(value, int | np.integer):
            raise ValueError(
                f"{name}={value!r} must be a whole number, an index into the {name}s of the result."
            )
    n_prompts = len(result)
    if not -n_prompts <= prompt < n_prompts:
        raise ValueError(f"prompt={prompt} is out of range: {_accepted(n_prompts, 'prompts')}.")
    single = result[prompt]
    n_tokens, n_targets = single.total.shape
    if not -n_tokens <= position < n_tokens:
        noun = f"tokens of prompt {prompt} (an index into those that were read, not a position)"
        raise ValueError(f"position={position} is out of range: {_accepted(n_tokens, noun)}.")
    if not -n_targets <= target < n_targets:
        names = ", ".join(single.target_name(0, column) for column in range(n_targets))
        raise ValueError(
            f"target={target} is out of range: {_accepted(n_targets, 'targets')} ({names}); it is "
            "an index, not a text."
        )
    return Location(single, int(position) % n_tokens, int(target) % n_targets)


def _accepted(count: int, noun: str) -> str:
    """Say how many there are, and which indices name one of them."""
    if count == 0:
        return f"there are no {noun}"
    return f"there are {count} {noun}; accepted is {-count} to {count - 1}"


def by_size(values: NDArray[np.floating[Any]]) -> list[int]:
    """Return the indices of `values` `[part]` from the largest |value| to the smallest.

    NaN comes before all, and equal values stay in their order.
    """
    sizes = np.abs(values.astype(np.float64))
    sizes = np.nan_to_num(sizes, nan=np.inf, posinf=np.inf)
    return np.argsort(-sizes, kind="stable").tolist()
