"""Push the stream of many rows in one run, and read what the lens and the model make of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Int
from torch import Tensor

from lens_recipes.trace.alignment.similarity import Changes
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.collect import collect
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.plan import BatchEdits
from lens_recipes.trace.kernels import kernels_for, on_cpu, sent
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import Operation, model_logits, rounding_eps
from lens_recipes.trace.plan import EditStep, ReadStep
from lens_recipes.trace.readout.readout import logit_errors
from lens_recipes.trace.transport import Transport


class PushedStream(NamedTuple):
    """The rows of a batch that are pushed at one stream.

    Attributes:
        slot: Which vector is the stream there, as the push left it.
        transport: By which the lens reads it.
        rows: Which rows of the batch, `[push]`.
        bases: The row of the same prompt that is not pushed, `[push]`.
        partners: Which push's response stands in for the own one, as a control, `[push]`.
    """

    slot: int
    transport: Transport
    rows: Int[Tensor, " push"]
    bases: Int[Tensor, " push"]
    partners: Int[Tensor, " push"]


class PushBatch(NamedTuple):
    """One forward pass over rows of one length. In some of them the last token is pushed.

    Attributes:
        inputs: Of the trace.
        places: The last token of every row.
        logit_columns: Where it is in the model's own logits, `[row]`.
        steps: What is read and edited, in the order in which the model runs.
        n_slots: How many vectors are read.
        last_slot: Which of them is the stream that the head reads.
        edits: The pushes.
        streams: Where they are made.
        bases: The rows that are not pushed, `[base]`.
        answers: The token whose log-probability is followed, `[row]`.
    """

    inputs: dict[str, Any]
    places: TokenPlaces
    logit_columns: Int[Tensor, " row"]
    steps: list[ReadStep | EditStep]
    n_slots: int
    last_slot: int
    edits: BatchEdits
    streams: list[PushedStream]
    bases: Int[Tensor, " base"]
    answers: Int[Tensor, " row"]


class PushPlan(NamedTuple):
    """What is the same for all batches.

    Attributes:
        head_operations: What the model does between its last block and its logits.
        max_bytes: Bound on the memory for logits.
    """

    head_operations: list[Operation]
    max_bytes: int


def trace_pushes(
    model: Any, plan: PushPlan, batch: PushBatch, weight: Any = None
) -> dict[str, Tensor]:
    """Run one batch in one trace, and compare what the lens announces with what the model does.

    Returns:
        Of every push, stream by stream: "aligned", the cosine of what the lens announces with what
        the model does; "crossed", that with what the model does at the partner; "announced" and
        "response", how large both are, in nats; "drop", by how much the answer's log-probability
        falls. Of every row without a push: the certificate's "error", "scale", "eps", "kl_last" and
        "agrees". "edit" is the error of the pushes, `[row]`.
    """
    with torch.no_grad(), model.trace(**batch.inputs):
        numbers = nnsight.save(read_pushes(model, plan, batch, weight))
    return numbers  # noqa: RET504 - a traced block does not return


def read_pushes(model: Any, plan: PushPlan, batch: PushBatch, weight: Any) -> dict[str, Tensor]:
    """Push the streams as the model runs, and read what came of it."""
    head = LensHead(model, plan.head_operations)
    edits = EditPass(model, batch.edits, {}, plan.head_operations, weight, plan.max_bytes)
    vectors, errors = collect(
        model, batch.steps, batch.places, batch.n_slots, plan.max_bytes, edits
    )
    logits = model_logits(model.output)[batch.places.rows, batch.logit_columns].float()
    found: dict[str, list[Tensor]] = {}
    for stream in batch.streams:
        hidden = vectors[stream.slot]
        numbers = compare_changes(head, hidden, logits, stream, batch.answers)
        for name, value in numbers.items():
            found.setdefault(name, []).append(value.float())
    joined = on_cpu({name: torch.cat(values) for name, values in found.items()})
    last = vectors[batch.last_slot][batch.bases]
    return {**joined, **certificate_numbers(head(last), logits[batch.bases], last)} | {
        "edit": errors["edit"].cpu()
    }


def compare_changes(
    head: LensHead,
    hidden: Tensor,
    logits: Tensor,
    stream: PushedStream,
    answers: Tensor,
) -> dict[str, Tensor]:
    """Return what the lens announces of the pushes at one stream, and what the model does.

    Args:
        head: From vectors to logits.
        hidden: The stream there, `[row, d_model]`.
        logits: The model's own, `[row, vocab]`.
        stream: Which rows are pushed.
        answers: The token that is followed, `[row]`.
    """
    device, eps = logits.device, rounding_eps(hidden)
    rows, bases = sent(stream.rows, device), sent(stream.bases, device)
    unpushed, base_of = stream.bases.unique(return_inverse=True)
    base_of = sent(base_of, device)
    announced_before = head(hidden[sent(unpushed, hidden.device)], transport=stream.transport)
    announced_after = head(hidden[rows.to(hidden.device)], transport=stream.transport)
    own = logits.log_softmax(-1)
    weights = own[bases].exp()
    announced = Changes(
        announced_after.to(device), announced_before.to(device)[base_of], weights, eps
    )
    response = Changes(logits[rows], logits[bases], weights, eps)
    followed = sent(answers, device)[rows][:, None]
    drop = own[bases].gather(-1, followed) - own[rows].gather(-1, followed)
    return {
        "aligned": announced.cosines(response),
        "crossed": announced.cosines(response, sent(stream.partners, device)),
        "announced": announced.length,
        "response": response.length,
        "drop": drop[:, 0],
    }


def certificate_numbers(lens: Tensor, own: Tensor, stream: Tensor) -> dict[str, Tensor]:
    """Return how far the last layer's lens is from the model's own logits, `[row]` each."""
    own = own.to(lens.device)
    errors = logit_errors(lens, own, stream, kernels_for(lens.device))
    own_logprobs, logprobs = own.log_softmax(-1), lens.log_softmax(-1)
    is_possible = own_logprobs.isfinite()
    difference = torch.where(is_possible, own_logprobs - logprobs, 0.0)
    errors["kl_last"] = (own_logprobs.exp() * difference).sum(-1).clamp(min=0)
    numbers = {name: value.float() for name, value in errors.items()}
    numbers["agrees"] = lens.argmax(-1) == own.argmax(-1)
    return on_cpu(numbers)
