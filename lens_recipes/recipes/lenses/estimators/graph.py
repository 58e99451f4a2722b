"""Run a prompt with the graph from its streams to the final one, and compute no more than that.

The head does not run. Positions before the first source only matter as the past of the others: they
run once, without gradients, the others go on from their cache, and the last token, which nothing is
read at, is left out. A model that cannot go on from a cache like this runs the whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nnsight
import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.trace.fit.jacobian import StreamRun
from lens_recipes.trace.operations import first_of

CACHE_OPTIONS = ("cache", "past_key_values")  # what a model's forward calls its cache


class PromptGraph:
    """Run prompts up to the last block.

    Attributes:
        uses_cache: Whether this model goes on from its cache; None until it was tried.
    """

    def __init__(self, model: Envoy, layers: Sequence[int], first_position: int) -> None:
        """Keep what is wanted.

        Args:
            model: What `load()` returns.
            layers: Of the streams, ascending and without the last one.
            first_position: Of the sources.
        """
        self.model = model
        self.parts = anatomy(model)
        self.layers = list(layers)
        self.first_position = first_position
        self.uses_cache: bool | None = None

    def run(self, ids: Tensor, n_before: int, n_rows: int) -> StreamRun:
        """Run one prompt in some equal rows, and return its streams with their graph.

        Args:
            ids: `[1, position]`.
            n_before: What `tokens_beforehand` says of it.
            n_rows: How many times the prompt runs, side by side.
        """
        rows = ids.expand(n_rows, -1)
        if n_before:
            cached = self._cache_of(rows[:, :n_before])
            streams = self._streams(rows[:, n_before:-1], cached)
            places = slice(None)
        else:
            streams = self._streams(rows)
            places = slice(self.first_position, -1)
        return StreamRun(streams[:-1], streams[-1], places)

    def tokens_beforehand(self, ids: Tensor) -> int:
        """Return how many tokens run beforehand: all before the first source, or none.

        Whether the model goes on from its cache as if it had read the whole prompt is not taken on
        trust: the final stream is compared on each prompt, and a gradient on the first one.

        Args:
            ids: Of a prompt, `[1, position]`.
        """
        if self.first_position == 0 or self.uses_cache is False:
            return 0
        self.uses_cache = self._can_use_cache(ids)
        return self.first_position if self.uses_cache else 0

    def _can_use_cache(self, ids: Tensor) -> bool:
        """Return whether the model goes on from a cache of a prompt as it should."""
        options = self.parts.forward_options
        if "use_cache" not in options or not options.intersection(CACHE_OPTIONS):
            return False
        try:
            return self._goes_on_from_cache(ids, self.first_position)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a family raises that cannot go on from a cache like this
            return False

    def _goes_on_from_cache(self, ids: Tensor, n_before: int) -> bool:
        """Return whether the streams are those of the whole prompt, at first also the gradients."""
        tries_gradient = self.uses_cache is None
        places = slice(n_before, -1)
        with torch.set_grad_enabled(tries_gradient):
            whole = self._streams(ids)
            cached = self._cache_of(ids[:, :n_before])
            if not cached:
                return False
            rest = self._streams(ids[:, places], cached)
        if not is_close(rest[-1], whole[-1][:, places]):
            return False
        if not tries_gradient:
            return True
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(rest[-1].shape, generator=generator).to(rest[-1])
        of_rest = torch.autograd.grad(rest[-1], rest[:-1], direction)
        of_whole = torch.autograd.grad(whole[-1][:, places], whole[:-1], direction)
        for one, other in zip(of_rest, of_whole, strict=True):
            if not is_close(one, other[:, places]):
                return False
        return True

    def _cache_of(self, ids: Tensor) -> dict[str, Any]:
        """Return the options that let a run go on after these tokens; none where there are none."""
        with torch.no_grad(), self.model.trace(input_ids=ids, use_cache=True):
            output = nnsight.save(self.model.output)
        for option in CACHE_OPTIONS:
            cache = getattr(output, option, None)
            if cache is not None:
                return {option: cache, "use_cache": True}
        return {}

    def _streams(self, ids: Tensor, cached: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Return the streams of the layers and the final one last, `[row, position, d_model]`.

        The model goes on with a copy of each stream, so that what it changes in place is not the
        stream that a gradient is taken of.

        Args:
            ids: `[row, position]`.
            cached: What `_cache_of` returns of earlier tokens; None for a run from the start.
        """
        last_layer = self.parts.last_layer
        options = dict(cached or {})
        if cached:
            options.update(places_after(cached, ids, self.parts))
        elif "use_cache" in self.parts.forward_options:
            options["use_cache"] = False
        with self.model.trace(input_ids=ids, **options) as tracer:
            streams = nnsight.save([])
            for layer in [*self.layers, last_layer]:
                block = self.model.get(self.parts.block(layer))
                output = block.output
                stream = first_of(output)
                if torch.is_grad_enabled() and not streams:
                    stream = stream.detach().requires_grad_(True)
                streams.append(stream)
                if layer != last_layer:
                    copy = stream.clone()
                    if isinstance(output, (tuple, list)):
                        block.output = type(output)([copy, *output[1:]])
                    else:
                        block.output = copy
            tracer.stop()
        return streams


def places_after(cached: Mapping[str, Any], ids: Tensor, parts: Anatomy) -> dict[str, Any]:
    """Return the options that say where tokens stand that go on from a cache.

    Else a mask is made of these tokens alone, and with it positions from 0.
    """
    cache = next(cached[option] for option in CACHE_OPTIONS if option in cached)
    n_before = cache.get_seq_length()
    n_rows, n_tokens = ids.shape
    options: dict[str, Any] = {}
    if "attention_mask" in parts.forward_options:
        options["attention_mask"] = ids.new_ones(n_rows, n_before + n_tokens)
    if "position_ids" in parts.forward_options:
        positions = torch.arange(n_before, n_before + n_tokens, device=ids.device)
        options["position_ids"] = positions.expand(n_rows, -1)
    return options


def is_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two ways of computing the same thing differ by no more than rounding."""
    allowed = torch.finfo(one.dtype).eps ** 0.5
    one, other = one.detach().double(), other.detach().double()
    return bool((one - other).norm() <= allowed * other.norm())
