"""`lens_alignment()`: is a lens about the model, or about the text?

Stimulus-response alignment is section 4.2 of Belrose et al. 2023, "Eliciting Latent Predictions
from Transformers with the Tuned Lens": what a lens learned of text it may say whatever the model
does next, but it cannot announce what the model will do with a state that nobody has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from nnsight.intervention.envoy import Envoy
from numpy.typing import NDArray

from lens_recipes.arrays.lens_alignment import KINDS, MEAN, MEANT, LensAlignment, Spread
from lens_recipes.caller import argument, parameter
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import exclusive
from lens_recipes.models.lens_head import plain_head
from lens_recipes.models.weights.memory import memory_errors_in_words
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.recipes.lenses.alignment.batches import PushBatches, packed
from lens_recipes.recipes.lenses.alignment.prefixes import Prefixes
from lens_recipes.recipes.lenses.alignment.states import States, read_states
from lens_recipes.recipes.lenses.alignment.statistics import (
    MIN_PROMPTS,
    mean_by_prompt,
    mean_of_defined,
    spread_over_prompts,
)
from lens_recipes.recipes.lenses.alignment.stimuli import Stimuli
from lens_recipes.recipes.lenses.streams import pick_streams
from lens_recipes.recipes.lenses.text.samples import check_seed
from lens_recipes.run.assemble import certificate_of
from lens_recipes.run.progress import progress
from lens_recipes.run.request.lenses import resolve_lens
from lens_recipes.run.request.request import Request
from lens_recipes.run.schema import CERTIFICATE
from lens_recipes.trace.alignment.pushes import PushPlan, trace_pushes
from lens_recipes.trace.edits.directions import Directions
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.plan import StreamLinks
from lens_recipes.trace.transport import IDENTITY, Transport

MAX_BYTES = LOGIT_BYTES
NARROW = (
    "Measure fewer layers (layers=…), or shorter prompts; a smaller max_bytes bounds the memory "
    "for logits"
)

PushNumbers = dict[str, NDArray[np.float64]]  # each [layer, token, push]


def lens_alignment(
    lens: Any,
    model: Envoy,
    prompts: Any,
    *,
    layers: Any = None,
    positions: Any = -1,
    stimuli: int = 4,
    scale: float = 0.25,
    answer: str | int = "model",
    seed: int = 0,
    add_special_tokens: bool = True,
    remote: bool | str | None = None,
    max_bytes: int = MAX_BYTES,
) -> LensAlignment:
    """Measure whether a lens is about the model: push the stream, and compare two predictions.

    The stream after a layer is changed at one token. What the lens then announces is compared with
    what the model says. No fit can fake that: what a lens learned of text alone, it does not
    announce of a push.

    Args:
        lens: None or "logit" for the logit lens; what `load_lens` or `fit_lens` returns, a path or
            a hub id.
        model: What `load()` returns, in this process.
        prompts: As for `logit_lens`, at least 4, and better 16 or more, which the lens was not
            fitted on.
        layers: None for all that the lens has but the last; or as for `fit_lens`.
        positions: Which tokens are pushed, as for `logit_lens`. The prediction after the same token
            is read.
        stimuli: How many pushes of each kind, at each token and layer: along the directions, under
            the lens, of the model's most likely tokens; along the main components of the streams;
            towards the states of tokens of other prompts; and at random.
        scale: How long each push is, in units of the pushed state's own norm.
        answer: What is taken out of the stream to see the answer's log-probability drop: "model"
            for the lens's direction of the model's own answer, or a number k for those of the k
            tokens that the lens has on top there.
        seed: Of all that is drawn.
        add_special_tokens: As for `logit_lens`.
        remote: None as the model was loaded. Only False, here, can be measured.
        max_bytes: Bound on the memory for logits.

    Returns:
        A `LensAlignment`, which `lens.with_alignment` keeps with the lens.

    Raises:
        ValueError: an argument that does not fit, such as too few prompts or a layer that the lens
            lacks.
        LensError: a lens of another model, a model on a server, or one that cannot be read.

    Example:
        >>> alignment = lens_alignment(lens, model, prompts, layers=[8, 16, 24])
        >>> print(alignment.summary())
    """
    check_arguments(stimuli, scale, answer, seed)
    request = Request(
        model, prompts, positions=positions, remote=remote, add_special_tokens=add_special_tokens
    )
    check_request(request, answer)
    chosen = resolve_lens(lens, model)
    streams = streams_of(chosen, layers, request)
    transports: dict[int, Transport] = {
        stream: IDENTITY if chosen is None else chosen.transports[stream] for stream in streams
    }
    with memory_errors_in_words(NARROW):
        states = read_states(request, streams, seed)
        made = Stimuli(
            states,
            transports,
            LensHead(model, request.head_operations),
            directions_of(request, states, max_bytes),
            n_stimuli=stimuli,
            scale=scale,
            answer_count=None if isinstance(answer, str) else answer,
            seed=seed,
        )
        numbers = run_pushes(request, made, streams, max_bytes)
    prompts_of_places = [place.prompt for place in states.places]
    measured = Measured(numbers, prompts_of_places, len(request.token_ids), stimuli, seed)
    return LensAlignment(
        layers=streams,
        alignment=measured.by_kind("aligned"),
        control=measured.by_kind("crossed"),
        drop=measured.removal(),
        drop_control=measured.removal_control(),
        kind="logit" if chosen is None else chosen.kind,
        digest="" if chosen is None else chosen.digest,
        scale=float(scale),
        n_stimuli=stimuli,
        n_prompts=len(request.token_ids),
        n_tokens=len(states.places),
        answer=answer,
    )


def check_arguments(stimuli: Any, scale: Any, answer: Any, seed: Any) -> None:
    """Refuse numbers that nothing can be measured with.

    Raises:
        ValueError: names the argument and what it may be.
    """
    if type(stimuli) is not int or stimuli < 2:
        raise ValueError(
            f"{argument('stimuli', stimuli)} must be a whole number from 2: the control is what "
            "another push does."
        )
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not math.isfinite(scale) or scale <= 0:
        raise ValueError(f"{argument('scale', scale)} must be a number above 0.")
    if answer != "model" and (type(answer) is not int or answer < 1):
        raise ValueError(
            f"{argument('answer', answer)} must be 'model', or a whole number from 1: of how many "
            "of the lens's top tokens the directions are taken out."
        )
    check_seed(seed)


def check_request(request: Request, answer: str | int) -> None:
    """Refuse prompts that no interval can be found over, and a model that is not here.

    Raises:
        ValueError: there are too few prompts, prompts with inputs beside their ids, or more tokens
            are to be taken out than there are.
        LensError: the model runs on a server.
    """
    if request.remote:
        raise LensError(
            "lens_alignment runs where the model is in this process, and not on a server: each "
            "push is made of streams that were read before. Load the model here, or measure "
            "lens_quality there."
        )
    n_prompts = len(request.token_ids)
    if n_prompts < MIN_PROMPTS:
        raise ValueError(
            f"{parameter('prompts')}: {n_prompts} of them, and an interval over prompts takes at "
            f"least {MIN_PROMPTS}; with 16 it begins to say something."
        )
    vocab_size = request.anatomy.vocab_size
    if not isinstance(answer, str) and answer > vocab_size:
        raise ValueError(
            f"{argument('answer', answer)}: this model has {vocab_size} tokens, and no more "
            "directions of them."
        )
    if any(request.extra_inputs) or any(request.tensors):
        raise ValueError(
            f"{parameter('prompts')} have inputs beside their ids (images, position ids, token "
            "types or masks), which pushes cannot take along: pass texts or ids."
        )


def streams_of(lens: Lens | None, layers: Any, request: Request) -> list[int]:
    """Return the streams that are pushed, ascending.

    Raises:
        ValueError: a layer that the model or the lens lacks.
    """
    every = pick_streams(request, layers)
    if lens is None:
        return every
    having = [stream for stream in every if stream in lens.transports]
    lacking = [stream for stream in every if stream not in lens.transports]
    if not having or (layers is not None and lacking):
        raise ValueError(
            f"{argument('layers', layers)}: the {lens.name} {lens.source!r} has no transport for "
            f"{lacking}. Its layers are {lens.layers}."
        )
    return having


def directions_of(request: Request, states: States, max_bytes: int) -> Directions:
    """Return what finds the directions of tokens in the final stream."""
    weight = plain_head(request.model, request.anatomy)
    return Directions(request.model, request.head_operations, weight, states.final, max_bytes)


def run_pushes(
    request: Request, stimuli: Stimuli, streams: Sequence[int], max_bytes: int
) -> PushNumbers:
    """Make all pushes, and return what came of each, `[layer, token, push]`.

    Raises:
        LensError: the last layer's lens is not the model's own output, or a push did not hold.
    """
    model, n_rows = request.model, stimuli.n_rows
    places = stimuli.states.places
    prefixes = Prefixes(request, stimuli.states)
    groups = packed(prefixes, streams, n_rows, request.anatomy.vocab_size, max_bytes)
    batches = PushBatches(request, stimuli, prefixes)
    batches.make_plans(groups)
    plan = PushPlan(request.head_operations, max_bytes)
    shape = (len(streams), len(places), n_rows)
    numbers: PushNumbers = {}
    proofs: dict[str, list[NDArray[Any]]] = {}
    sizes = [len(some) for some in groups]
    with exclusive(model), progress(groups, "lens_alignment", sizes) as running:
        for some in running:
            batch = batches.of_groups(some)
            found = trace_pushes(model, plan, batch)
            for name in (*CERTIFICATE, "edit"):
                proofs.setdefault(name, []).append(found.pop(name).numpy())
            # The batch has its pushes stream by stream.
            by_stream = sorted(some, key=lambda group: group.stream)
            for name, values in found.items():
                array = numbers.setdefault(name, np.full(shape, np.nan))
                for number, group in enumerate(by_stream):
                    rows = values[number * n_rows : (number + 1) * n_rows]
                    array[streams.index(group.stream), group.place] = rows.double().numpy()
    joined = {name: np.concatenate(arrays) for name, arrays in proofs.items()}
    certificate = certificate_of(joined, model, StreamLinks([], []))
    certificate.check(partial(cause_in_quantisation, model))
    return numbers


class Measured:
    """Means and intervals of what came of all pushes."""

    def __init__(
        self, numbers: PushNumbers, prompts: list[int], n_prompts: int, n_stimuli: int, seed: int
    ) -> None:
        """Take the numbers of all pushes.

        Args:
            numbers: `[layer, token, push]`.
            prompts: The prompt of each token.
            n_prompts: How many there are.
            n_stimuli: How many pushes each kind has.
            seed: Of the bootstrap.
        """
        self.numbers = numbers
        self.prompts = prompts
        self.n_prompts = n_prompts
        self.n_stimuli = n_stimuli
        self.seed = seed

    def by_kind(self, name: str) -> dict[str, Spread]:
        """Return a cosine over prompts, by what was pushed along."""
        by_prompt = {}
        for number, kind in enumerate(KINDS):
            first = number * self.n_stimuli
            by_prompt[kind] = self.over_pushes(name, slice(first, first + self.n_stimuli))
        meant = np.stack([by_prompt[kind] for kind in MEANT], axis=-1)
        by_prompt[MEAN] = meant.mean(-1)
        return {kind: spread_over_prompts(values, self.seed) for kind, values in by_prompt.items()}

    def removal(self) -> Spread:
        """Return by how much the answer falls without the lens's direction of it."""
        first = len(KINDS) * self.n_stimuli
        return spread_over_prompts(self.over_pushes("drop", slice(first, first + 1)), self.seed)

    def removal_control(self) -> Spread:
        """Return by how much it falls where as much of random directions is taken."""
        first = len(KINDS) * self.n_stimuli + 1
        return spread_over_prompts(self.over_pushes("drop", slice(first, None)), self.seed)

    def over_pushes(self, name: str, pushes: slice) -> NDArray[np.float64]:
        """Return the mean over some pushes and the tokens of each prompt, `[layer, prompt]`."""
        values = self.numbers[name][:, :, pushes]
        return mean_by_prompt(mean_of_defined(values), self.prompts, self.n_prompts)
