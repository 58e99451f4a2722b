"""Run what comes before a pushed token once, and let all pushes go on from its cache.

The tokens before the pushed one are the same in every row. A model that cannot go on from a cache
as if it had read the whole prompt runs the whole prompt in every row.
"""

from __future__ import annotations

import copy
from typing import Any

import nnsight
import torch
from torch import Tensor

from lens_recipes.models.handle import exclusive
from lens_recipes.recipes.lenses.alignment.states import States
from lens_recipes.recipes.lenses.estimators.graph import CACHE_OPTIONS, is_close, places_after
from lens_recipes.run.request.request import Request
from lens_recipes.trace.operations import first_of


class Prefixes:
    """The caches of what comes before each pushed token.

    Attributes:
        goes_on: Whether the model goes on from its cache before each of the places as it should.
        row_bytes: How large the cache of one row is, at most.
    """

    def __init__(self, request: Request, states: States) -> None:
        """Try each place.

        Args:
            request: The prompts.
            states: What the whole prompts gave.
        """
        self.request = request
        self.states = states
        self.row_bytes = 0
        with exclusive(request.model):
            self.goes_on = [self.try_place(place) for place in range(len(states.places))]

    def ids(self, place: int) -> list[int]:
        """Return a prompt up to the token that is pushed: what follows changes nothing there."""
        prompt, position = self.states.places[place]
        return self.request.token_ids[prompt][: position + 1]

    def try_place(self, place: int) -> bool:
        """Return whether two rows that go on from a cache end as the whole prompt does."""
        options = self.request.anatomy.forward_options
        has_cache = "use_cache" in options and bool(options.intersection(CACHE_OPTIONS))
        if not has_cache or len(self.ids(place)) < 2:
            return False
        try:
            inputs = self.inputs(place, 2)
            self.row_bytes = max(self.row_bytes, n_bytes(inputs) // 2)
            last = self.request.anatomy.block(self.request.anatomy.last_layer)
            with torch.no_grad(), self.request.model.trace(**inputs):
                stream = nnsight.save(first_of(self.request.model.get(last).output))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a family raises that cannot go on from a cache like this
            return False
        final = self.states.final[place]
        ends = stream.reshape(2, -1)
        return ends.shape[1] == len(final) and is_close(ends, final.expand_as(ends))

    def inputs(self, place: int, n_rows: int) -> dict[str, Any]:
        """Return the inputs of a run of the pushed token alone, in so many rows.

        Raises:
            AttributeError: the model gives no cache, or one that cannot be repeated.
        """
        model, parts = self.request.model, self.request.anatomy
        token_ids = torch.tensor([self.ids(place)], device="cpu")
        with torch.no_grad(), model.trace(input_ids=token_ids[:, :-1], use_cache=True):
            output = nnsight.save(model.output)
        option = next(name for name in CACHE_OPTIONS if name in parts.forward_options)
        cache = copy.deepcopy(getattr(output, option))
        cache.batch_repeat_interleave(n_rows)
        last_ids = token_ids[:, -1:].expand(n_rows, 1)
        cached = {option: cache, "use_cache": True}
        return {"input_ids": last_ids, **cached, **places_after(cached, last_ids, parts)}


def n_bytes(inputs: dict[str, Any]) -> int:
    """Return how large the tensors of a cache are."""
    total = 0
    for value in inputs.values():
        for layer in getattr(value, "layers", []):
            for tensor in vars(layer).values():
                if isinstance(tensor, Tensor):
                    total += tensor.numel() * tensor.itemsize
    return total
