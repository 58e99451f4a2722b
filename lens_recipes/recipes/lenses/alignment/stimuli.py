"""What a stream is pushed along: tokens, components, other states, and at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.arrays.lens_alignment import KINDS
from lens_recipes.recipes.lenses.alignment.states import States
from lens_recipes.trace.edits.directions import Directions, pulled_back
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.transport import Transport


class Pushes(NamedTuple):
    """What is added to one stream at one token, a row for each push.

    The rows are those of each of `KINDS` in turn; then the removal of the answer's directions; and
    then its controls.

    Attributes:
        vectors: `[push, d_model]`, in float32.
        partners: Whose response is the control of each, `[push]`.
    """

    vectors: Float[Tensor, "push d_model"]
    partners: list[int]


class Stimuli:
    """Makes the pushes of any stream at any token, the same ones whatever else is measured."""

    def __init__(
        self,
        states: States,
        transports: Mapping[int, Transport],
        head: LensHead,
        directions: Directions,
        *,
        n_stimuli: int,
        scale: float,
        answer_count: int | None,
        seed: int,
    ) -> None:
        """Find what the model says after each token.

        Args:
            states: The streams while nothing is pushed.
            transports: By which the lens reads each stream.
            head: From vectors to logits.
            directions: Finds the directions of tokens.
            n_stimuli: How many pushes of each kind.
            scale: How long they are, in units of the pushed state's own norm.
            answer_count: How many of the tokens that the lens has on top are removed; None for the
                model's own answer.
            seed: Of all that is drawn.
        """
        self.states = states
        self.transports = transports
        self.head = head
        self.directions = directions
        self.n_stimuli = n_stimuli
        self.scale = scale
        self.answer_count = answer_count
        self.seed = seed
        n_tokens = min(n_stimuli, head(states.final[:1]).shape[-1])
        self.top_ids: Int[Tensor, "place token"] = torch.cat(
            [head(final[None]).topk(n_tokens).indices.cpu() for final in states.final]
        )
        self._components: dict[int, Tensor] = {}

    @property
    def n_rows(self) -> int:
        """How many pushes one stream gets at one token."""
        return (len(KINDS) + 1) * self.n_stimuli + 1

    def answer(self, place: int) -> int:
        """Return what the model says after a token that is to be pushed."""
        return int(self.top_ids[place, 0])

    def at(self, stream: int, place: int) -> Pushes:
        """Return the pushes of one stream at one token."""
        state = self.states.at_places[stream][place]
        random = torch.Generator("cpu").manual_seed(
            (self.seed * 1_000_003 + place * 10_007 + stream + 1) % 2**63
        )
        n_stimuli = self.n_stimuli
        length = self.scale * state.norm()
        removed = self.removal(stream, place, state)
        pushes = [
            length * units(self.along_tokens(stream, place)),
            length * self.along_components(stream, random),
            length * units(self.to_other_states(stream, place, state, random)),
            length * units(gaussian(n_stimuli, state, random)),
            removed[None],
            removed.norm() * units(gaussian(n_stimuli, state, random)),
        ]
        vectors = torch.cat(pushes)
        first_random = KINDS.index("random") * n_stimuli
        partners = []
        for kind in KINDS:
            shift = 1 if kind == "random" else 0
            partners += [first_random + (number + shift) % n_stimuli for number in range(n_stimuli)]
        partners += range(len(partners), len(vectors))
        return Pushes(vectors, partners)

    def along_tokens(self, stream: int, place: int) -> Float[Tensor, "push d_model"]:
        """Return the directions of the tokens that the model finds most likely, under the lens."""
        vectors = [self.token_direction(stream, int(token)) for token in self.top_ids[place]]
        while len(vectors) < self.n_stimuli:  # a vocabulary of less than that
            vectors.append(torch.zeros_like(vectors[0]))
        return torch.stack(vectors)

    def token_direction(self, stream: int, token: int) -> Float[Tensor, " d_model"]:
        """Return along what a stream raises a token's logit under the lens."""
        gradient = self.directions.logit_gradient(token)
        return pulled_back(self.transports[stream], gradient).float().cpu()

    def along_components(
        self, stream: int, random: torch.Generator
    ) -> Float[Tensor, "push d_model"]:
        """Return the main components of a stream over the prompts, each with a random sign."""
        if stream not in self._components:
            self._components[stream] = main_components(self.states.pool[stream], self.n_stimuli)
        signs = 2 * torch.randint(0, 2, (self.n_stimuli, 1), generator=random, device="cpu") - 1
        return signs * self._components[stream]

    def to_other_states(
        self, stream: int, place: int, state: Tensor, random: torch.Generator
    ) -> Float[Tensor, "push d_model"]:
        """Return the way from a state to those of tokens of other prompts."""
        prompt = self.states.places[place].prompt
        others = [
            number for number, other in enumerate(self.states.pool_prompts) if other != prompt
        ]
        order = torch.randint(
            0, len(others), (self.n_stimuli,), generator=random, device="cpu"
        ).tolist()
        chosen = [others[number] for number in order]
        return self.states.pool[stream][chosen] - state

    def removal(self, stream: int, place: int, state: Tensor) -> Float[Tensor, " d_model"]:
        """Return what takes away the state's component along the answer's directions."""
        tokens = [self.answer(place)]
        if self.answer_count is not None:
            hidden = state[None].to(self.states.final)
            logits = self.head(hidden, transport=self.transports[stream])
            tokens = logits.topk(self.answer_count).indices[0].tolist()
        directions = torch.stack([self.token_direction(stream, token) for token in tokens])
        return -projection(state, directions)


def projection(
    state: Float[Tensor, " d_model"], directions: Float[Tensor, "direction d_model"]
) -> Float[Tensor, " d_model"]:
    """Return the part of a state that lies in the span of some directions."""
    _, singular_values, rows = torch.linalg.svd(units(directions).double(), full_matrices=False)
    basis = rows[singular_values > 1e-6]
    return (basis.T @ (basis @ state.double())).float()


def main_components(
    states: Float[Tensor, "state d_model"], n_components: int
) -> Float[Tensor, "component d_model"]:
    """Return the directions in which states differ most, each of the norm 1.

    States are scaled to one length before: a massive activation would be a component by itself.
    What is missing, where there are few states, is zero.
    """
    scaled = units(states).double()
    centred = scaled - scaled.mean(0)
    _, singular_values, rows = torch.linalg.svd(centred, full_matrices=False)
    found = rows[:n_components] * (singular_values[:n_components, None] > 1e-9)
    components = torch.zeros(n_components, states.shape[1])
    components[: len(found)] = found.float()
    return components


def gaussian(
    n_vectors: int, like: Tensor, random: torch.Generator
) -> Float[Tensor, "vector d_model"]:
    """Return vectors whose directions are all equally likely."""
    return torch.randn(n_vectors, len(like), generator=random, device="cpu")


def units(vectors: Float[Tensor, "vector d_model"]) -> Float[Tensor, "vector d_model"]:
    """Return vectors of the norm 1 in the same directions; zero stays."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-30)
