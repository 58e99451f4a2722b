"""Put pushes at several streams and tokens into one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import steer
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.recipes.lenses.alignment.prefixes import Prefixes
from lens_recipes.recipes.lenses.alignment.states import MAX_TOKENS
from lens_recipes.recipes.lenses.alignment.stimuli import Stimuli
from lens_recipes.run.batches import one_batch
from lens_recipes.run.request.edits.layers import as_index, layer_edits
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_edits
from lens_recipes.run.request.request import Request
from lens_recipes.trace.alignment.pushes import PushBatch, PushedStream
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.changes import AddVectors
from lens_recipes.trace.edits.plan import BatchEdits, SiteEdit
from lens_recipes.trace.plan import EditStep, ReadStep

NOT_CACHED = -1
LOGITS_PER_ROW = 6  # arrays as wide as the vocabulary that a row needs at once


class Group(NamedTuple):
    """All pushes of one stream at one token."""

    stream: int
    place: int


class StreamPlan(NamedTuple):
    """How some streams are edited and read in one run.

    Attributes:
        edits: One for each stream.
        steps: In the order in which the model runs.
        n_slots: How many vectors are read.
        slots: Of each stream.
        last_slot: Of the stream that the head reads.
    """

    edits: list[PlannedEdit]
    steps: Sequence[ReadStep | EditStep]
    n_slots: int
    slots: list[int]
    last_slot: int


def packed(
    prefixes: Prefixes, streams: Sequence[int], n_rows: int, vocab_size: int, max_bytes: int
) -> list[list[Group]]:
    """Return which groups share a forward pass: of one length, and as many as memory lets.

    Those that go on from a cache are of one token. The stream before block 0 is edited at another
    site than the others, and is by itself.

    Args:
        prefixes: What comes before each token that is pushed.
        streams: The streams.
        n_rows: How many pushes a group has.
        vocab_size: How wide logits are.
        max_bytes: Bound on the memory for logits, and on that for a cache.
    """
    by_shape: dict[tuple[bool, int, int], list[Group]] = {}
    for place, goes_on in enumerate(prefixes.goes_on):
        length = len(prefixes.ids(place))
        cached = place if goes_on else NOT_CACHED
        for stream in streams:
            shape = (stream == EMBEDDING, cached, 1 if goes_on else length)
            by_shape.setdefault(shape, []).append(Group(stream, place))
    most_rows = max_bytes // (4 * vocab_size * LOGITS_PER_ROW)
    most_caches = max_bytes // max(1, prefixes.row_bytes)
    batches = []
    for (_, cached, length), groups in by_shape.items():
        rows = min(most_rows, MAX_TOKENS // length)
        if cached != NOT_CACHED:
            rows = min(rows, most_caches)
        at_once = max(1, rows // (n_rows + 1))
        for start in range(0, len(groups), at_once):
            batches.append(groups[start : start + at_once])
    return batches


class PushBatches:
    """Makes the batches of a request."""

    def __init__(self, request: Request, stimuli: Stimuli, prefixes: Prefixes) -> None:
        """Keep what they are made of."""
        self.request = request
        self.stimuli = stimuli
        self.prefixes = prefixes
        self._plans: dict[tuple[int, ...], StreamPlan] = {}

    def of_groups(self, groups: Sequence[Group]) -> PushBatch:
        """Return one forward pass: a row for each token as it is, and one for each push."""
        places = list(dict.fromkeys(group.place for group in groups))
        streams = streams_of(groups)
        plan = self._plans[streams]
        row_places = list(places)  # of each row of the batch
        pushed: dict[int, list[Stretch]] = {stream: [] for stream in streams}
        for group in groups:
            vectors, partners = self.stimuli.at(group.stream, group.place)
            stretch = Stretch(len(row_places), places.index(group.place), vectors, partners)
            pushed[group.stream].append(stretch)
            row_places += [group.place] * len(vectors)
        inputs = self.inputs(row_places)
        sites, read = [], []
        for slot, stream in zip(plan.slots, streams, strict=True):
            joined = join(pushed[stream])
            columns = inputs.places.columns[joined.rows]
            sites.append(SiteEdit(joined.rows, columns, AddVectors(joined.vectors), "both"))
            transport = self.stimuli.transports[stream]
            read.append(PushedStream(slot, transport, joined.rows, joined.bases, joined.partners))
        edits = BatchEdits(
            sites=sites,
            sources=[],
            means=[],
            padding=as_index([0] * len(row_places)),
            layers=layer_edits(plan.edits, sites, len(row_places)),
        )
        return PushBatch(
            inputs=inputs.inputs,
            places=inputs.places,
            logit_columns=inputs.logit_columns,
            steps=list(plan.steps),
            n_slots=plan.n_slots,
            last_slot=plan.last_slot,
            edits=edits,
            streams=read,
            bases=as_index(range(len(places))),
            answers=as_index([self.stimuli.answer(place) for place in row_places]),
        )

    def inputs(self, row_places: Sequence[int]) -> RowInputs:
        """Return what the model is given: whole prompts, or their last token beside a cache."""
        n_rows = len(row_places)
        if self.prefixes.goes_on[row_places[0]]:
            last = torch.zeros(n_rows, dtype=torch.long, device="cpu")
            places = TokenPlaces(n_rows, as_index(range(n_rows)), last)
            return RowInputs(self.prefixes.inputs(row_places[0], n_rows), places, last)
        token_ids = [self.prefixes.ids(place) for place in row_places]
        ends = [[len(ids) - 1] for ids in token_ids]
        nothing: list[list[int]] = [[]] * n_rows
        batch = one_batch(self.request.model, self.request.anatomy, token_ids, ends, nothing)
        return RowInputs(batch.inputs, batch.places, batch.logit_columns)

    def make_plans(self, batches: Sequence[Sequence[Group]]) -> None:
        """Find how the streams of all batches are edited and read, before the model runs."""
        for groups in batches:
            streams = streams_of(groups)
            if streams not in self._plans:
                self._plans[streams] = self.find_plan(streams)

    def find_plan(self, streams: tuple[int, ...]) -> StreamPlan:
        """Return how some streams are edited and read."""
        nothing = torch.zeros(self.request.anatomy.d_model)  # each batch has vectors of its own
        component, layers = "resid_post", list(streams)
        edits: list[Edit] = [steer(nothing, layer=stream) for stream in streams]
        if EMBEDDING in streams:
            component, layers = "embed", list(self.request.anatomy.layers[:1])
            edits = [steer(nothing, component="embed")]
        planned = plan_edits(edits, self.request.blocks, self.request.anatomy)
        _, plan = self.request.sites(layers, [component], edits=planned)
        slots = [read.slot for read in plan.sites]
        return StreamPlan(planned, plan.steps, plan.n_slots, slots[: len(layers)], slots[-1])


def streams_of(groups: Sequence[Group]) -> tuple[int, ...]:
    """Return the streams of some groups, ascending."""
    return tuple(sorted({group.stream for group in groups}))


class RowInputs(NamedTuple):
    """What the model is given, and where the pushed token of each row is in it."""

    inputs: dict[str, Any]
    places: TokenPlaces
    logit_columns: torch.Tensor


class Stretch(NamedTuple):
    """The rows of one group: its pushes, from this row on, and the row that is not pushed."""

    first_row: int
    base: int
    vectors: torch.Tensor
    partners: list[int]


class Joined(NamedTuple):
    """The pushes of all groups of one stream."""

    rows: torch.Tensor
    bases: torch.Tensor
    partners: torch.Tensor
    vectors: torch.Tensor


def join(stretches: Sequence[Stretch]) -> Joined:
    """Return the pushes of all groups of one stream, one after the other."""
    rows: list[int] = []
    bases: list[int] = []
    partners: list[int] = []
    for stretch in stretches:
        n_before = len(rows)
        rows += range(stretch.first_row, stretch.first_row + len(stretch.vectors))
        bases += [stretch.base] * len(stretch.vectors)
        partners += [n_before + partner for partner in stretch.partners]
    vectors = torch.cat([stretch.vectors for stretch in stretches])
    return Joined(as_index(rows), as_index(bases), as_index(partners), vectors)
