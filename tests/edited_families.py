"""Each kind of edit at each site of a family, beside plain hooks (`hooked_edits`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tiny
import torch
from hooked_edits import Hooked, HookedEdit, swapped, token_direction, unit
from torch import Tensor

import lens_recipes as lr

CLOSE = 1e-5  # relative to the largest logit of a prompt
STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
SOURCE = tiny.random_ids(batch=1, length=8, seed=31)[0].tolist()
OVER = tiny.random_ids(batch=3, length=6, seed=32).tolist()
TOKEN, MINUS = 40, 77
PAIR = tiny.random_ids(batch=2, length=7, seed=5).tolist()
RAGGED = [
    tiny.random_ids(batch=1, length=length, seed=length)[0].tolist() for length in (7, 5, 9, 5)
]
HEAD_WITH_ACTIVATION = ("BertLMHeadModel", "ModernBertDecoderForCausalLM")


class Place(NamedTuple):
    """One site, and how an edit names it."""

    layer: int
    component: str
    head: int | None

    @property
    def named(self) -> dict[str, Any]:
        named: dict[str, Any] = {"component": self.component}
        if self.component != "embed":
            named["layer"] = self.layer
        if self.head is not None:
            named["head"] = self.head
        return named


class Case(NamedTuple):
    """An edit, and what plain hooks do to one prompt instead: (number, current) to changed."""

    name: str
    edit: lr.Edit
    change: Callable[[int, Tensor], Tensor]


class Family:
    """A model, and its hooked twin."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.hooked = Hooked(model)
        self.d_model = self.hooked.anatomy.d_model
        self.vocabulary = list(range(self.hooked.anatomy.vocab_size))

    def places(self) -> list[Place]:
        """One of each component: in a middle layer, or the only one that has it."""
        anatomy, blocks = self.hooked.anatomy, self.hooked.blocks
        chosen: dict[str, Place] = {"embed": Place(anatomy.layers[0], "embed", None)}
        middle = anatomy.layers[len(anatomy.layers) // 2]
        for layer in (middle, *anatomy.layers):
            block = blocks[layer]
            for component in block.components:
                if component == "resid_mid" and (block.norms or block.residual_scale):
                    continue  # cannot be edited: tests/test_edits_refused.py
                chosen.setdefault(component, Place(layer, component, None))
            if block.n_heads:
                chosen.setdefault("head_out", Place(layer, "head_out", block.n_heads - 1))
        return list(chosen.values())

    def width(self, place: Place) -> int:
        if place.head is None:
            return self.d_model
        (write,) = (w for w in self.hooked.blocks[place.layer].writes if w.heads is not None)
        return len(write.heads.columns[place.head])

    # -- cases -------------------------------------------------------------

    def cases(self, place: Place, prompts: list[list[int]]) -> Iterator[Case]:
        """Each kind of edit at a place, at single tokens, several and all."""
        named, width = place.named, self.width(place)
        vector = torch.randn(width, generator=torch.Generator().manual_seed(5)) * 2
        n_prompts = len(prompts)

        # Read before any hook is on the model.
        of_source = self.hooked.read(SOURCE, *place)
        of_over = [self.hooked.read(token_ids, *place) for token_ids in OVER]
        of_prompts = [self.hooked.read(token_ids, *place) for token_ids in prompts]

        def setting(positions: Any, value: Callable[[int, Tensor], Tensor]) -> Callable:
            def change(number: int, current: Tensor) -> Tensor:
                changed = current.clone()
                changed[positions] = value(number, current)
                return changed

            return change

        everywhere = slice(None)
        zero = torch.zeros(width)
        yield Case("zero at 2", lr.ablate(**named, positions=2), setting(2, lambda *_: zero))
        yield Case("zero", lr.ablate(**named), setting(everywhere, lambda *_: zero))
        yield Case(
            "a vector",
            lr.ablate(**named, to=vector.numpy(), positions=[0, -1]),
            setting([0, -1], lambda *_: vector),
        )
        mean = torch.cat([vectors[1:] for vectors in of_over]).mean(0)
        yield Case(
            "mean",
            lr.ablate(**named, to="mean", over=OVER, positions=[1, 3]),
            setting([1, 3], lambda *_: mean),
        )
        yield Case(
            "resample from others",
            lr.ablate(**named, to="resample", over=OVER, positions=[3, 1]),
            setting([3, 1], lambda number, _: of_over[number % 3][[3, 1]]),
        )
        yield Case(
            "patch",
            lr.patch(SOURCE, **named, positions=[1, -1], source_positions=[6, 2]),
            setting([1, -1], lambda *_: of_source[[6, 2]]),
        )
        if n_prompts > 1 and len({len(token_ids) for token_ids in prompts}) == 1:
            yield Case(
                "resample in the batch",
                lr.ablate(**named, to="resample"),
                setting(everywhere, lambda number, _: of_prompts[(number + 1) % n_prompts]),
            )
        if n_prompts > 1:
            yield Case(
                "patch in the batch",
                lr.patch(1, **named, positions=2),
                setting(2, lambda *_: of_prompts[1][2]),
            )
        if place.head is None:
            yield from self.steering(place, prompts, vector, setting)
        if place.component in STREAM and self.hooked.anatomy.family not in HEAD_WITH_ACTIVATION:
            yield from self.swaps(place, of_prompts, setting)

    def steering(
        self, place: Place, prompts: list[list[int]], vector: Tensor, setting: Callable
    ) -> Iterator[Case]:
        named = place.named

        # In the middle of a block it is that of the stream before the block.
        component = "resid_pre" if place.component == "resid_mid" else place.component
        median_norms = []
        for token_ids in prompts:
            norms = self.hooked.read(token_ids, place.layer, component, None).norm(dim=-1)
            median_norms.append(norms.median())

        def steered(direction: Tensor, scale: float, positions: Any) -> Callable:
            return setting(
                positions,
                lambda number, current: (
                    current[positions] + scale * median_norms[number] * unit(direction)
                ),
            )

        yield Case(
            "steer by a vector",
            lr.steer(vector, **named, scale=0.7, positions=[2, 0]),
            steered(vector, 0.7, [2, 0]),
        )
        yield Case(
            "steer by a vector as it is",
            lr.steer(vector, **named, scale=-0.5, normalize=False),
            setting(slice(None), lambda _, current: current - 0.5 * vector),
        )
        if self.hooked.anatomy.family in HEAD_WITH_ACTIVATION:
            return  # no token has a direction there
        one = token_direction(self.model, TOKEN)
        yield Case(
            "steer by a token", lr.steer(TOKEN, **named, scale=0.3), steered(one, 0.3, slice(None))
        )
        pair = token_direction(self.model, TOKEN, MINUS)
        yield Case(
            "steer by two tokens",
            lr.steer((TOKEN, MINUS), **named, scale=-0.3, positions=-1),
            steered(pair, -0.3, -1),
        )

    def swaps(self, place: Place, clean: list[Tensor], setting: Callable) -> Iterator[Case]:
        named = dict(place.named)
        if "layer" in named:
            named["layers"] = named.pop("layer")
        a, b = token_direction(self.model, TOKEN), token_direction(self.model, MINUS)

        yield Case(
            "swap",
            lr.swap(TOKEN, MINUS, **named),
            setting(slice(None), lambda number, current: swapped(current, clean[number], a, b)),
        )
        yield Case(
            "swap live",
            lr.swap(TOKEN, MINUS, **named, clamp=False, positions=1),
            setting(1, lambda _, current: swapped(current[1:2], current[1:2], a, b)[0]),
        )

    # -- comparison --------------------------------------------------------

    def edited(self, prompts: list[list[int]], edits: Any) -> tuple[lr.LensResult, list[Tensor]]:
        """The result, and the model's own logits [position, vocab] of each prompt."""
        result = lr.logit_lens(
            self.model,
            prompts,
            targets=self.vocabulary,
            track=None,
            top_k=1,
            edits=edits,
            controls=0,
        )
        logits = torch.as_tensor(result.target_logits[-1])
        numbers = torch.as_tensor(result.tokens.prompt)
        return result, [logits[numbers == number] for number in range(len(prompts))]

    def difference(self, place: Place, case: Case, prompts: list[list[int]]) -> float:
        """The largest difference of logits between an edited lens and hooks, relative to the largest logit."""
        result, logits = self.edited(prompts, case.edit)
        assert result.certificate.passed, result.certificate
        largest = 0.0
        for number, token_ids in enumerate(prompts):
            change = HookedEdit(*place, lambda current, number=number: case.change(number, current))
            expected = self.hooked.logits(token_ids, change)
            error = (logits[number] - expected).abs().max() / expected.abs().max().clamp(min=1)
            largest = max(largest, float(error))
        return largest

    def check(self, place: Place, prompts: list[list[int]], names: Any = None) -> list[str]:
        """Compare all cases, or those of some names; return what was compared."""
        compared = []
        for case in self.cases(place, prompts):
            if names is not None and case.name not in names:
                continue
            error = self.difference(place, case, prompts)
            assert error <= CLOSE, f"{case.edit}: off by {error:.2g}"
            compared.append(case.name)
        return compared

    def check_all_layers(self, place: Place, prompts: list[list[int]]) -> bool:
        """Compare a vector that is added at all layers that have a component, and zero at one token."""
        layers = []
        for layer in self.hooked.anatomy.layers:
            block = self.hooked.blocks[layer]
            names = [*block.components, *(["head_out"] if block.n_heads else [])]
            if place.component in names:
                layers.append(layer)
        named = {**place.named, "layer": None}
        vector = torch.randn(self.width(place), generator=torch.Generator().manual_seed(6))
        edits = [lr.ablate(**named, to=vector, positions=[1, 4])]
        if place.head is None:
            edits.append(lr.steer(vector, **named, scale=0.5, normalize=False))

        def change(current: Tensor) -> Tensor:
            changed = current.clone()
            changed[[1, 4]] = vector
            return changed + 0.5 * vector if place.head is None else changed

        _, logits = self.edited(prompts, edits)
        for number, token_ids in enumerate(prompts):
            hooks = [HookedEdit(layer, place.component, place.head, change) for layer in layers]
            expected = self.hooked.logits(token_ids, *hooks)
            error = (logits[number] - expected).abs().max() / expected.abs().max()
            assert error <= CLOSE, f"{place}: off by {error:.2g}"
        return len(layers) > 1
