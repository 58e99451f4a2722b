"""Read the streams that are pushed, and those that pushes are made of, while nothing is pushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.models.handle import exclusive
from lens_recipes.recipes.lenses.streams import read_steps
from lens_recipes.run.batches import one_batch
from lens_recipes.run.progress import progress, tokens_of
from lens_recipes.run.request.request import Request
from lens_recipes.trace.edits.plan import SourceBatch, SourceRead
from lens_recipes.trace.edits.sources import run_source
from lens_recipes.trace.kernels import FORWARD_TOKENS

MAX_TOKENS = FORWARD_TOKENS  # in one forward pass
MAX_STATES = 1024  # of which components are found
STATE_BYTES = 256 * 2**20  # for the states of all layers


class Place(NamedTuple):
    """A token of a prompt.

    Attributes:
        prompt: The number of the prompt.
        position: Which of its tokens.
    """

    prompt: int
    position: int


class States(NamedTuple):
    """What the streams hold while nothing is pushed.

    Attributes:
        places: The tokens that are to be pushed.
        at_places: Of each stream, `[place, d_model]`, in float32 on the processor.
        pool: Of each stream, `[state, d_model]`: other tokens, of which pushes are made.
        pool_prompts: The prompt of each of these.
        final: The stream that the head reads, `[place, d_model]`, as the model has it.
    """

    places: list[Place]
    at_places: dict[int, Float[Tensor, "place d_model"]]
    pool: dict[int, Float[Tensor, "state d_model"]]
    pool_prompts: list[int]
    final: Float[Tensor, "place d_model"]


def read_states(request: Request, streams: Sequence[int], seed: int) -> States:
    """Read streams at the tokens that are to be pushed, and at some others of the prompts.

    Args:
        request: The prompts, and which tokens of them are to be pushed.
        streams: The numbers of blocks; `EMBEDDING` is the stream before block 0.
        seed: Of the choice of the others.
    """
    places = []
    for prompt, positions in enumerate(request.positions):
        places += [Place(prompt, position) for position in positions]
    others = pick_pool(request, seed)
    chosen = [*places, *others]
    last = request.anatomy.last_layer
    batches = batches_of(request, [*streams, last], chosen)
    vectors: dict[int, list[Any]] = {stream: [None] * len(chosen) for stream in (*streams, last)}
    sizes = [tokens_of(batch.source) for batch in batches]
    name = "lens_alignment, states"
    with exclusive(request.model), progress(batches, name, sizes) as running:
        for batch in running:
            found = run_source(request.model, batch.source)
            for stream, values in zip((*streams, last), found, strict=True):
                kept = values if stream == last else values.float().cpu()
                for number, vector in zip(batch.numbers, kept, strict=True):
                    vectors[stream][number] = vector
    n_places = len(places)
    return States(
        places=places,
        at_places={stream: torch.stack(vectors[stream][:n_places]) for stream in streams},
        pool={stream: torch.stack(vectors[stream][n_places:]) for stream in streams},
        pool_prompts=[place.prompt for place in others],
        final=torch.stack(vectors[last][:n_places]),
    )


def pick_pool(request: Request, seed: int) -> list[Place]:
    """Return tokens of all prompts, drawn at random where there are many: the same for any layers.

    The first token of a prompt is left out: in many models it is unlike all others (Sun et al.
    2024, "Massive Activations in Large Language Models").
    """
    every = []
    for prompt, token_ids in enumerate(request.token_ids):
        for position in range(min(1, len(token_ids) - 1), len(token_ids)):
            every.append(Place(prompt, position))
    n_streams = request.anatomy.n_layers + 1
    affordable = STATE_BYTES // (4 * request.anatomy.d_model * n_streams)
    most = max(2 * len(request.token_ids), min(MAX_STATES, affordable))
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(every), generator=generator, device="cpu")[:most]
    return [every[number] for number in sorted(order.tolist())]


class StateBatch(NamedTuple):
    """One forward pass, and which of the chosen tokens are read of it."""

    source: SourceBatch
    numbers: list[int]


def batches_of(
    request: Request, streams: Sequence[int], chosen: Sequence[Place]
) -> list[StateBatch]:
    """Return forward passes over prompts of one length each, without padding."""
    by_length: dict[int, list[int]] = {}
    for prompt, token_ids in enumerate(request.token_ids):
        by_length.setdefault(len(token_ids), []).append(prompt)
    batches = []
    for length, prompts in by_length.items():
        at_once = max(1, MAX_TOKENS // length)
        for start in range(0, len(prompts), at_once):
            some = prompts[start : start + at_once]
            batches.append(state_batch(request, streams, chosen, some))
    return batches


def state_batch(
    request: Request, streams: Sequence[int], chosen: Sequence[Place], prompts: list[int]
) -> StateBatch:
    """Return one forward pass over some prompts."""
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    numbers = [number for number, place in enumerate(chosen) if place.prompt in row_of]
    rows = torch.tensor([row_of[chosen[number].prompt] for number in numbers], device="cpu")
    columns = torch.tensor([chosen[number].position for number in numbers], device="cpu")
    reads = []
    for slot, step in enumerate(read_steps(request, streams)):
        reads.append(
            SourceRead(slot, step.side, step.module, step.operations, None, rows, columns, None)
        )
    token_ids = [request.token_ids[prompt] for prompt in prompts]
    ends = [[len(ids) - 1] for ids in token_ids]
    nothing: list[list[int]] = [[]] * len(prompts)
    batch = one_batch(request.model, request.anatomy, token_ids, ends, nothing)
    return StateBatch(SourceBatch(batch.inputs, len(prompts), reads), numbers)
