"""Take the parts of a stream to their shares of some tokens' logits, where the model is.

The way to the logits (`Anatomy.tail`) is taken in three: up to the unembedding, with its norms
frozen; the unembedding and what is linear after it; and the softcap, which is applied to the sum
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import (
    FrozenNorm,
    FrozenOperation,
    apply_affine,
    bfloat16_scale,
    freeze_norm,
    frozen_norm,
    to_float32,
)
from lens_recipes.trace.attribution.gathered import GatheredArrays
from lens_recipes.trace.attribution.parts import (
    LaterOperation,
    LogitParts,
    NormAtSlot,
    PartReads,
    SourceParts,
    SummedParts,
    WholePart,
)
from lens_recipes.trace.attribution.target_logits import (
    TargetLogits,
    Weight,
    mean_row,
    pick_columns,
    target_rows,
)
from lens_recipes.trace.batch import BatchSize, LensBatch, forward_size
from lens_recipes.trace.kernels import PART_ROWS, kernels_for, on_cpu, sent
from lens_recipes.trace.operations import (
    HeadOperations,
    Operation,
    WithVector,
    replay,
    slices,
    split_at_unembedding,
)
from lens_recipes.trace.plan import EditStep, ReadStep, StreamLinks
from lens_recipes.trace.readout.readout import logit_errors
from lens_recipes.trace.transport import IDENTITY, Transport, TransportCall

NUMBER_BYTES = 4  # of a number in float32
# Arrays that exist at once: as large as the parts' logits, as large as their vectors, and as large
# as the logits of the tokens whose certificate is made.
LOGIT_ARRAYS = 3
VECTOR_ARRAYS = 4
CHECKED_ARRAYS = 10
# What waits on a device to be brought to the processor may take this share of `max_bytes`; while it
# is brought, twice that.
GATHERED_SHARE = 4


class AttributionPlan(NamedTuple):
    """What is read of every batch, and the parts that it makes.

    Attributes:
        steps: What to read, in the order in which the model runs.
        n_slots: How many vectors the steps fill.
        parts: In the order of the result.
        explained_slot, final_slot: The vectors of the stream that is explained, and of the last
            one.
        head_operations: What the model does between its last block and its logits.
        has_mean: Whether the mean over the vocabulary is asked for beside the ids.
        max_bytes: Bound on what is held at once besides.
        links: Which streams are compared with what the model goes on with.
        transport: From the stream that is explained to the one before the final norm.
    """

    steps: Sequence[ReadStep | EditStep]
    n_slots: int
    parts: list[LogitParts]
    explained_slot: int
    final_slot: int
    head_operations: list[Operation]
    has_mean: bool
    max_bytes: int
    links: StreamLinks
    transport: Transport = IDENTITY

    @property
    def explained_operations(self) -> list[Operation]:
        """The way from the stream that is explained to its logits."""
        if self.transport is IDENTITY:
            return self.head_operations
        return [TransportCall(self.transport), *self.head_operations]

    def batch_size(self, batch: LensBatch) -> BatchSize:
        """Return what makes a batch large."""
        n_tokens = len(batch.places.rows)
        widest = max(part.rows_per_token for part in self.parts)
        return forward_size(batch.inputs, n_tokens)._replace(
            vectors=self.n_slots, logit_rows=n_tokens * widest
        )

    def batch_identity(self, batch: LensBatch) -> dict[str, Any]:
        """Return what tells a batch from another. The names are those of saved jobs."""
        slots = {
            "n_slots": self.n_slots,
            "explained": self.explained_slot,
            "final": self.final_slot,
        }
        return batch.identity() | slots


class ExplainedTokens(NamedTuple):
    """What was read of the tokens whose logits are explained.

    Attributes:
        vectors: What `collect` read.
        stream: The one that is explained, `[token, d_model]`.
        ids: Those asked for, `[token, column]`.
        batch: Where the tokens stand.
    """

    vectors: list[Any]
    stream: Float[Tensor, "token d_model"]
    ids: Int[Tensor, "token column"]
    batch: LensBatch


def decompose(
    model: Any, plan: AttributionPlan, explained: ExplainedTokens, weight: Weight | None
) -> dict[str, Tensor]:
    """Return the share of every part in the logits of some ids, and those logits themselves.

    Args:
        model: The nnsight model, inside its trace.
        plan: The parts.
        explained: What was read.
        weight: Of a plain local unembedding, of which only the rows of the ids are used; None calls
            the module.

    Returns:
        `values` [part, token, column]; `constant`, `logit`, `capped_logit` [token, column], all on
        the CPU.
    """
    head = split_at_unembedding(plan.explained_operations)
    stream, column_ids = explained.stream, explained.ids
    mean = mean_row(weight) if plan.has_mean and weight is not None else None
    rows_at_once = rows_in_budget(model, plan, head, explained, weight)
    gathered = GatheredArrays(len(stream), {"values": 1}, plan.max_bytes // GATHERED_SHARE)
    with torch.no_grad():
        for tokens in slices(len(stream), tokens_at_once(plan.parts, rows_at_once)):
            frozen, normed = freeze_norm(model, head.before, stream[tokens])
            token_ids = sent(column_ids[tokens], normed.device)
            rows = None if weight is None else target_rows(weight, token_ids, mean)
            logits_of = TargetLogits(model, head, token_ids, plan.has_mean, rows, normed.dtype)
            n_tokens = tokens.stop - tokens.start
            reads = PartReads(
                explained.vectors,
                explained.batch.places,
                tokens,
                max(1, rows_at_once // n_tokens),
            )
            shares = PartShares(model, frozen, logits_of, stream[tokens], reads)
            logit = logits_of.linear(normed[None])[0]
            arrays = {
                "values": shares.of_all(plan.parts),
                "constant": shares.constant(plan.parts)[0],
                "logit": logit,
                "capped_logit": logits_of.capped(normed, logit),
            }
            gathered.add(tokens, {name: to_float32(value) for name, value in arrays.items()})
    return gathered.complete()


def rows_in_budget(
    model: Any,
    plan: AttributionPlan,
    head: HeadOperations,
    explained: ExplainedTokens,
    weight: Weight | None,
) -> int:
    """Return how many vectors may be taken to their logits at once."""
    stream = explained.stream
    if weight is not None:
        n_columns = explained.ids.shape[-1]
    else:
        first = replay(model, head.before, stream[:1].unsqueeze(0))
        n_columns = replay(model, head.linear, first).shape[-1]
    by_logits = plan.max_bytes // (LOGIT_ARRAYS * NUMBER_BYTES * n_columns)
    by_vectors = plan.max_bytes // (VECTOR_ARRAYS * NUMBER_BYTES * stream.shape[-1])
    return max(1, min(by_logits, by_vectors))


def tokens_at_once(parts: list[LogitParts], rows_at_once: int) -> int:
    """Return how many tokens are explained at a time; parts by source are made for one."""
    if any(isinstance(part, SourceParts) for part in parts):
        return 1
    return rows_at_once // max(part.rows_per_token for part in parts)


class PartShares:
    """Takes the parts of a stream through the frozen way to the logits of some tokens.

    Attributes:
        head_constant: What the way from the last stream adds by itself, for no vector at all, `[1,
            token, column]`.
    """

    def __init__(
        self,
        model: Any,
        frozen: list[Any],
        logits_of: TargetLogits,
        stream: Tensor,
        reads: PartReads,
    ) -> None:
        """Begin with what the way adds by itself."""
        self.model = model
        self.frozen = frozen
        self.logits_of = logits_of
        self.reads = reads
        self.scale = bfloat16_scale(stream)
        self.nothing = stream.new_zeros(1, *stream.shape)
        self.head_constant = logits_of.linear(apply_affine(model, frozen, self.nothing))
        self._norms: dict[int, FrozenNorm] = {}

    def constant(self, parts: list[LogitParts]) -> Float[Tensor, "1 token column"]:
        """Return what the way from the embedding, the first part, adds by itself.

        That is what the head adds, and what norms and weights within the blocks add to the stream.
        """
        embed = parts[0]
        assert isinstance(embed, WholePart)  # `plan_parts` begins with it
        if not moves_zero(embed.later):
            return self.head_constant
        stream = apply_affine(self.model, self.held(embed.later), self.nothing)
        return self.logits_of.linear(apply_affine(self.model, self.frozen, stream))

    def of_all(self, parts: list[LogitParts]) -> Float[Tensor, "part token column"]:
        """Return the shares of all parts.

        Many parts share a product with the unembedding: one for each layer would read all of the
        unembedding for a few rows.
        """
        n_tokens = self.nothing.shape[1]
        at_once = max(1, min(self.reads.rows_at_once, PART_ROWS // n_tokens))
        shares: list[Tensor] = []
        waiting: list[Tensor] = []
        sums: list[slice] = []
        n_rows = 0
        for part in parts:
            start = n_rows
            for vectors in self.normed(part):
                n_rows += len(vectors)
                for chunk in vectors.split(at_once):
                    if sum(map(len, waiting)) + len(chunk) > at_once:
                        shares.append(self.of_normed(torch.cat(waiting)))
                        waiting.clear()
                    waiting.append(chunk)
            if isinstance(part, SummedParts):
                sums.append(slice(start, n_rows))
        shares.append(self.of_normed(torch.cat(waiting)))
        return with_sums(torch.cat(shares), sums)

    def normed(self, part: LogitParts) -> Iterator[Float[Tensor, "part token d_model"]]:
        """Yield a part's vectors as they come to the unembedding; those of a sum one by one."""
        if isinstance(part, SummedParts):
            for one in part.parts:
                yield from self.normed(one)
            return
        for rows in part.rows(self.model, self.reads):
            for chunk in rows.split(self.reads.rows_at_once):
                yield self.as_normed(part.later, chunk)

    def as_normed(
        self, later: list[LaterOperation], rows: Float[Tensor, "part token d_model"]
    ) -> Float[Tensor, "part token d_model"]:
        """Take vectors through what is done to the stream after they are added."""
        held = self.held(later)
        final = apply_affine(self.model, held, rows)
        if moves_zero(later):
            final = final - apply_affine(self.model, held, self.nothing)
        return apply_affine(self.model, self.frozen, final * self.scale)

    def of_normed(
        self, vectors: Float[Tensor, "part token d_model"]
    ) -> Float[Tensor, "part token column"]:
        """Return the shares of vectors that have come to the unembedding."""
        return (self.logits_of.linear(vectors) - self.head_constant) / self.scale

    def held(self, later: list[LaterOperation]) -> list[FrozenOperation]:
        """Return operations with every norm as its affine map at the stream that it took."""
        held: list[FrozenOperation] = []
        for operation in later:
            if isinstance(operation, NormAtSlot):
                held.append(self.held_norm(operation))
            else:
                held.append(operation)
        return held

    def held_norm(self, norm: NormAtSlot) -> FrozenNorm:
        """Return a norm as its affine map at the stream that it took."""
        if norm.slot not in self._norms:
            stream = self.reads.vectors[norm.slot][self.reads.tokens]
            after = norm.call.apply(self.model, stream.unsqueeze(0))[0]
            self._norms[norm.slot] = frozen_norm(self.model, norm.call, stream, after)
        return self._norms[norm.slot]


def with_sums(
    shares: Float[Tensor, "row token column"], sums: list[slice]
) -> Float[Tensor, "part token column"]:
    """Put the sum of some rows in their place."""
    pieces = []
    start = 0
    for summed in sums:
        pieces += [shares[start : summed.start], shares[summed].sum(0, keepdim=True)]
        start = summed.stop
    return torch.cat([*pieces, shares[start:]])


def moves_zero(later: list[LaterOperation]) -> bool:
    """Return whether operations may make something of nothing: norms and weights have biases."""
    return any(isinstance(operation, NormAtSlot | WithVector) for operation in later)


def certificate_arrays(
    model: Any,
    plan: AttributionPlan,
    explained: ExplainedTokens,
    final_logits: Float[Tensor, "batch position vocab"],
    capped_logit: Float[Tensor, "token column"],
) -> dict[str, Float[Tensor, " token"]]:
    """Return the certificate's numbers: the last layer's lens against the model's own logits.

    And the explained stream's lens against its logits as `decompose` made them: those came from a
    few rows of the unembedding, and these come from calling it.
    """
    batch, operations = explained.batch, plan.head_operations
    last_stream = explained.vectors[plan.final_slot]
    tokens_at_once = plan.max_bytes // (CHECKED_ARRAYS * NUMBER_BYTES * final_logits.shape[-1])
    chunks: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for tokens in slices(len(last_stream), tokens_at_once):
            rows = sent(batch.places.rows[tokens], final_logits.device)
            columns = sent(batch.logit_columns[tokens], final_logits.device)
            lens = called_logits(model, operations, last_stream[tokens])
            own = to_float32(final_logits[rows, columns]).to(lens.device)
            called = own
            if explained.stream is not last_stream:
                way = plan.explained_operations
                called = called_logits(model, way, explained.stream[tokens]).to(lens.device)
            token_ids = sent(explained.ids[tokens], lens.device)
            picked = pick_columns(called, token_ids, plan.has_mean)
            difference = (picked - sent(capped_logit[tokens], lens.device)).abs().amax(-1)
            numbers = logit_errors(lens, own, last_stream, kernels_for(lens.device))
            numbers["error"] = torch.maximum(numbers["error"], difference)
            numbers["kl_last"] = kl_divergence(own, lens)
            numbers["agrees"] = lens.argmax(-1) == own.argmax(-1)
            chunks.append(numbers)
    return on_cpu({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})


def called_logits(
    model: Any, operations: list[Operation], stream: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token vocab"]:
    """Return the logits of a stream, by calling all that the model does after its last block."""
    return to_float32(replay(model, operations, stream.unsqueeze(0))[0])


def kl_divergence(
    own: Float[Tensor, "token vocab"], lens: Float[Tensor, "token vocab"]
) -> Float[Tensor, " token"]:
    """Return KL(own ‖ lens) in nats, of two sets of logits. 0 · log 0 is 0."""
    own_logprobs, lens_logprobs = own.log_softmax(-1), lens.log_softmax(-1)
    probs = own_logprobs.exp()
    terms = torch.where(probs > 0, probs * (own_logprobs - lens_logprobs), 0.0)
    return terms.sum(-1).clamp(min=0)
