"""The Jacobian lens: how the final stream answers, on average, to a change of an earlier one.

The estimator is that of the reference implementation (Gurnee et al. 2026, "Verbalizable
Representations Form a Global Workspace in Language Models"):

    J = mean over prompts, mean over sources t, sum over targets t' ≥ t of ∂final[t'] / ∂h[t]

where h is the output of a block, final the output of the last block before the final norm, and
sources and targets are the positions 16 to the last but one.

What cannot matter is not computed. The head does not run. Positions before the first source only
matter as the past of the others: they run once, without gradients, the others go on from their
cache, and the last token, which nothing is read at, is left out. A model that cannot go on from a
cache like this runs the whole prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import nnsight
import torch
from jaxtyping import Float
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.models.handle import dtype_of, exclusive, refuse_training
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.weights.frozen import frozen_weights
from lens_recipes.trace.fit.jacobian import (
    StreamRun,
    mean_over_sources,
    pull_batched,
    pull_repeated,
)
from lens_recipes.trace.operations import first_of
from lens_recipes.trace.transport import Affine

FIRST_POSITION = 16  # positions before it are neither sources nor targets
LONGEST_PROMPT = 128  # tokens; what is longer is cut
ROWS_AT_ONCE = 32  # dimensions of the final stream that are pulled back together
REPEATED_AT_ONCE = 8  # the same where each takes a row of the forward pass
MAX_BYTES = 2**28  # of the gradients that exist at once

CACHE_OPTIONS = ("cache", "past_key_values")  # what a model's forward calls its cache


class JacobianSums:
    """Add up the Jacobians of prompts, and make transports of their mean.

    Example:
        >>> jacobians = JacobianSums(model)
        >>> jacobians.add(rows_of_ids)
        >>> lens = Lens("jacobian", jacobians.transports())
    """

    def __init__(
        self,
        model: Envoy,
        layers: Sequence[int] | None = None,
        *,
        first_position: int = FIRST_POSITION,
        longest_prompt: int = LONGEST_PROMPT,
        rows_at_once: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Keep what is wanted.

        Args:
            model: What `load()` returns, with its weights here.
            layers: Of the streams; None for all but the last, which needs no transport.
            first_position: Earlier positions are neither sources nor targets.
            longest_prompt: Tokens of a prompt after which it is cut.
            rows_at_once: Dimensions that are pulled back together; None for as many as fit.
            max_bytes: Of the gradients that exist at once.

        Raises:
            LensError: the model is in training mode, or a layer has no such stream.
        """
        refuse_training(model, False)
        parts = anatomy(model)
        self.model = model
        self.parts = parts
        self.layers = sources_of(parts, layers)
        self.first_position = first_position
        self.longest_prompt = longest_prompt
        self.rows_at_once = rows_at_once
        self.max_bytes = max_bytes
        self.is_batched = True  # until an operation turns out to have no rule for it
        self.uses_cache: bool | None = None  # None until it was tried
        dtype = torch.promote_types(dtype_of(model), torch.float32)
        self.total = torch.zeros(len(self.layers), parts.d_model, parts.d_model, dtype=dtype)
        self.n_prompts = 0
        self.n_tokens = 0

    def is_long_enough(self, token_ids: Sequence[int]) -> bool:
        """Tell whether a prompt has a source: it has more tokens than 17."""
        return len(token_ids) > self.first_position + 1

    def add(self, rows: Sequence[Sequence[int]]) -> int:
        """Add the Jacobians of some prompts; each is added whole or, if interrupted, not at all.

        Args:
            rows: The token ids of each prompt. Those without a source are skipped.

        Returns:
            How many prompts were added.

        Raises:
            LensError: no gradient reaches a stream from the final one.
        """
        n_before = self.n_prompts
        for row in rows:
            if not self.is_long_enough(row):
                continue
            jacobians = self.of_prompt(row)
            self.total += jacobians
            self.n_prompts += 1
            self.n_tokens += min(len(row), self.longest_prompt)
        return self.n_prompts - n_before

    def sums(self) -> dict[str, Tensor]:
        """Return what was added up, from which fits on other prompts can be merged by addition.

        Returns:
            `jacobian [layer, d_out, d_in]`, `n_prompts [1]` and `n_tokens [1]`.
        """
        return {
            "jacobian": self.total,
            "n_prompts": torch.tensor([self.n_prompts]),
            "n_tokens": torch.tensor([self.n_tokens]),
        }

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Go on from what was added up before, of the same layers.

        Raises:
            LensError: the sums are of another shape.
        """
        total = sums["jacobian"]
        if total.shape != self.total.shape:
            raise LensError(
                f"the sums of this fit are of the shape {list(total.shape)} "
                f"[layer, d_model, d_model], and this model and these layers need "
                f"{list(self.total.shape)}: go on with the model and the layers of that fit."
            )
        self.total = total.to(self.total.dtype).clone()
        self.n_prompts = int(sums["n_prompts"])
        self.n_tokens = int(sums["n_tokens"])

    def transports(self) -> dict[int, Affine]:
        """Return the mean Jacobian of each layer as its transport.

        Raises:
            LensError: no prompt was added.
        """
        return jacobian_transports(self.total, self.n_prompts, self.layers)

    # -- one prompt ----------------------------------------------------

    def seconds_of_prompt(self, token_ids: Sequence[int]) -> float:
        """Return about how long the Jacobians of one prompt take: some dimensions are tried."""
        d_model = self.parts.d_model
        some = min(self._rows(torch.zeros(1, len(token_ids))), d_model)
        for _ in range(2):  # finds out how this model is to be run, and warms up
            self.of_prompt(token_ids, some)
        started = time.perf_counter()
        self.of_prompt(token_ids, some)
        between = time.perf_counter()
        self.of_prompt(token_ids, min(2 * some, d_model))
        first, second = between - started, time.perf_counter() - between
        more = max(0.0, second - first)  # that as many dimensions take again
        return first + more * (d_model / some - 1)

    def of_prompt(
        self, token_ids: Sequence[int], n_dimensions: int | None = None
    ) -> Float[Tensor, "layer d_out d_in"]:
        """Return the Jacobians of one prompt: the mean over sources, the sum over targets.

        Args:
            token_ids: Of the prompt.
            n_dimensions: How many dimensions of the final stream are pulled back, the first ones;
                the others stay zero. None for all.

        Raises:
            LensError: the prompt has no source, or no gradient reaches a stream.
        """
        if not self.is_long_enough(token_ids):
            raise LensError(
                f"a prompt of {len(token_ids)} tokens has no position that counts: the first is "
                f"{self.first_position}, and the last token is never one. It takes at least "
                f"{self.first_position + 2} tokens."
            )
        kept = [int(token) for token in token_ids[: self.longest_prompt]]
        ids = torch.tensor([kept], device=self.model.device)
        with exclusive(self.model), frozen_weights(self.model._module):
            prefix = self._prefix(ids)
            if self.is_batched:
                try:
                    return self._pull(ids, prefix, n_dimensions)
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, NotImplementedError):
                    self.is_batched = False
            return self._pull(ids, prefix, n_dimensions)

    def _pull(self, ids: Tensor, prefix: int, n_dimensions: int | None) -> Tensor:
        """Return the Jacobians of one prompt, of which `prefix` tokens run without gradients."""
        d_model = self.parts.d_model if n_dimensions is None else n_dimensions
        n_rows = 1 if self.is_batched else min(self._rows(ids), d_model)
        run = self._run(ids, prefix, n_rows)
        width = self._rows(ids)
        pull = pull_batched if self.is_batched else pull_repeated
        jacobians = torch.zeros_like(self.total)
        for start in range(0, d_model, width):
            stop = min(start + width, d_model)
            gradients = pull(run, start, stop)
            for number, gradient in enumerate(gradients):
                if gradient is None:
                    raise self._no_gradient(self.layers[number])
                jacobians[number, start:stop] = mean_over_sources(gradient, run.places)
        return jacobians

    def _rows(self, ids: Tensor) -> int:
        """Return how many dimensions are pulled back together."""
        if self.rows_at_once is not None:
            return self.rows_at_once
        n_numbers = len(self.layers) * ids.shape[1] * self.parts.d_model
        fitting = self.max_bytes // (n_numbers * dtype_of(self.model).itemsize)
        most = ROWS_AT_ONCE if self.is_batched else REPEATED_AT_ONCE
        return max(1, min(fitting, most))

    def _no_gradient(self, layer: int) -> LensError:
        """Return the error for a stream that the final one does not follow from."""
        return LensError(
            f"{self.parts.family}: no gradient reaches the stream after layer {layer} from the "
            "last block's output, so there is no Jacobian. Some operation between them cannot be "
            'differentiated. Fit kind="linear", which needs no gradients.'
        )

    # -- forward passes ------------------------------------------------

    def _run(self, ids: Tensor, prefix: int, n_rows: int) -> StreamRun:
        """Run one prompt in some equal rows, and return its streams with their graph."""
        rows = ids.expand(n_rows, -1)
        if prefix:
            cached = self._cache_of(rows[:, :prefix])
            streams = self._streams(rows[:, prefix:-1], cached)
            places = slice(None)
        else:
            streams = self._streams(rows)
            places = slice(self.first_position, -1)
        final = streams[-1]
        if not final.requires_grad:
            raise self._no_gradient(self.layers[0])
        return StreamRun(streams[:-1], final, places)

    def _streams(self, ids: Tensor, cached: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Return the streams of the layers and the last one, `[row, position, d_model]`."""
        return read_streams(self.model, self.parts, self.layers, ids, cached)

    def _cache_of(self, ids: Tensor) -> dict[str, Any]:
        """Return the options that let a run go on after these tokens."""
        with torch.no_grad(), self.model.trace(input_ids=ids, use_cache=True):
            output = nnsight.save(self.model.output)
        for option in CACHE_OPTIONS:
            cache = getattr(output, option, None)
            if cache is not None:
                return {option: cache, "use_cache": True}
        return {}

    def _prefix(self, ids: Tensor) -> int:
        """Return how many tokens run beforehand: all before the first source, or none.

        Whether the model goes on from its cache as if it had read the whole prompt is not taken on
        trust: the final stream is compared on each prompt, and a gradient on the first one.
        """
        prefix = self.first_position
        if prefix == 0 or self.uses_cache is False:
            return 0
        options = self.parts.forward_options
        if "use_cache" not in options or not options.intersection(CACHE_OPTIONS):
            self.uses_cache = False
            return 0
        try:
            agrees = self._goes_on_from_cache(ids, prefix)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a family raises that cannot go on from a cache like this
            agrees = False
        if not agrees:
            self.uses_cache = False
            return 0
        self.uses_cache = True
        return prefix

    def _goes_on_from_cache(self, ids: Tensor, prefix: int) -> bool:
        """Tell whether the streams are those of the whole prompt, at first also the gradients."""
        tries_gradient = self.uses_cache is None
        places = slice(prefix, -1)
        with torch.set_grad_enabled(tries_gradient):
            whole = self._streams(ids)
            cached = self._cache_of(ids[:, :prefix])
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


def read_streams(
    model: Envoy,
    parts: Anatomy,
    layers: Sequence[int],
    ids: Tensor,
    cached: Mapping[str, Any] | None = None,
) -> list[Tensor]:
    """Run some rows up to the last block, and return the streams of these layers and the last one.

    The model goes on with a copy of each stream, so that what it changes in place is not the stream
    that a gradient is taken of.

    Args:
        model: What `load()` returns.
        parts: Its anatomy.
        layers: Ascending, without the last one.
        ids: `[row, position]`.
        cached: Options of a forward pass that goes on from a cache; None for one from the start.
    """
    last_layer = parts.last_layer
    options = dict(cached or {})
    if cached:
        options.update(places_after(cached, ids, parts))
    if not options and "use_cache" in parts.forward_options:
        options["use_cache"] = False
    with model.trace(input_ids=ids, **options) as tracer:
        streams = nnsight.save([])
        for layer in [*layers, last_layer]:
            block = model.get(parts.block(layer))
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
    """Tell whether two ways of computing the same thing differ by no more than rounding."""
    allowed = torch.finfo(one.dtype).eps ** 0.5
    one, other = one.detach().double(), other.detach().double()
    return bool((one - other).norm() <= allowed * other.norm())


def sources_of(parts: Anatomy, layers: Sequence[int] | None) -> list[int]:
    """Return the layers whose streams get a transport, ascending.

    Raises:
        LensError: a layer is none of this model's, or there is none.
    """
    possible = [layer for layer in parts.layers if layer != parts.last_layer]
    if layers is None:
        chosen = possible
    else:
        chosen = sorted({int(layer) for layer in layers} - {parts.last_layer})
    unknown = [layer for layer in chosen if layer not in possible]
    if unknown or not chosen:
        raise LensError(
            f"a Jacobian lens of {parts.family} has the layers {_span(possible)}, and was asked "
            f"for {list(layers or [])}. The last layer needs no transport."
        )
    return chosen


def _span(layers: Sequence[int]) -> str:
    """Return layers in words."""
    if not layers:
        return "of no block (there is only one block)"
    return f"{layers[0]} to {layers[-1]}"


def prompt_jacobians(
    model: Envoy, token_ids: Sequence[int], layers: Sequence[int] | None = None, **settings: Any
) -> Float[Tensor, "layer d_out d_in"]:
    """Return the Jacobians of one prompt.

    Args:
        model: What `load()` returns.
        token_ids: Of the prompt.
        layers: Of the streams; None for all but the last.
        settings: As `JacobianSums` takes them.

    Raises:
        LensError: as `JacobianSums`.
    """
    return JacobianSums(model, layers, **settings).of_prompt(token_ids)


def jacobian_transports(
    sums: Float[Tensor, "layer d_out d_in"], n_prompts: int, layers: Sequence[int]
) -> dict[int, Affine]:
    """Return the transports of a fit: the mean over prompts, each of them counted the same.

    Raises:
        LensError: there was no prompt.
    """
    if n_prompts == 0:
        raise LensError(
            "no prompt was long enough for a Jacobian lens: each takes at least "
            f"{FIRST_POSITION + 2} tokens, because earlier positions and the last token do not "
            "count. Give longer texts."
        )
    transports = {}
    for number, layer in enumerate(layers):
        transports[layer] = Affine(sums[number] / n_prompts)
    return transports
