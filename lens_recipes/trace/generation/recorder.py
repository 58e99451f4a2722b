"""`GenerationRecorder`: turn each step of a running generation into numbers.

It runs where the model is, and imports only torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.collect import Rows, collect, site_rows
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.generation.plan import GenerationBatch, GenerationPlan
from lens_recipes.trace.kernels import on_cpu, sent
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import model_logits
from lens_recipes.trace.readout.buffers import fill_buffers, trim_buffers
from lens_recipes.trace.readout.readout import readout

# Why a row ends, by the class of transformers' criterion. Of several, the first here counts.
FINISH_REASONS = {
    "EosTokenCriteria": "eos",
    "StopStringCriteria": "stop",
    "MaxLengthCriteria": "length",
    "MaxTimeCriteria": "time",
}
INITIAL_STEPS = 256  # that there is room for at first: the bound on new tokens may be far off


class StepReads(NamedTuple):
    """What was read in one step, before it is known what is sampled.

    Attributes:
        rows: Of each site.
        sum_errors: Of what was checked, `[token]`.
        logits: The model's own, `[row, position, vocab]`.
    """

    rows: list[Rows]
    sum_errors: dict[str, Float[Tensor, " token"]]
    logits: Float[Tensor, "row position vocab"]


class StepSeconds(NamedTuple):
    """How long a step took: the model with its sampler, and the lens."""

    model: float
    lens: float


def synchronized_time(device: torch.device) -> float:
    """Return the time in seconds, once the device has done all that it was asked to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class GenerationRecorder:
    """Records one running generation, step after step.

    The trace reads each step (`read_step`). When its tokens were sampled, `record` turns what was
    read into numbers.

    Attributes:
        arrays: What the steps said of the rows that still ran, one step after the other along the
            token axis: the arrays of `readout` and `collect`, and `row`, `position`, `id`,
                `next_id`, `generated`, `next_logprob`,
            `sampler_logprob`, each `[token]`.
        n_recorded: How many of their tokens are filled. When the last row has ended, they are cut
            to them.
        finish_reasons: Why each row ended; "" while it runs.
        seconds: Of each step.
    """

    def __init__(
        self,
        model: Any,
        plan: GenerationPlan,
        batch: GenerationBatch,
        weight: Any = None,
        on_step: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> None:
        """Begin before the first step.

        Args:
            model: The nnsight model.
            plan: What is read.
            batch: The prompts.
            weight: Of an unembedding that is a plain product on this processor, as `LensHead` takes
                it.
            on_step: Called with each step's arrays, in the caller's process only.
        """
        self.model = model
        self.plan = plan
        self.batch = batch
        self.weight = weight
        self.head = LensHead(model, plan.head_operations, weight, plan.options.kernels)
        self.edits: EditPass | None = None
        self.n_steps_read = 0
        self.on_step = on_step
        self.rows, self.columns = batch.first_tokens
        n_rows, n_first = len(batch.target_ids), len(self.rows)
        self.arrays: dict[str, Tensor] = {}
        self.n_recorded = 0
        self.most_tokens = n_first + (plan.n_steps - 1) * n_rows
        self.room = min(self.most_tokens, n_first + INITIAL_STEPS * n_rows)
        self.finish_reasons = [""] * n_rows
        self.seconds: list[StepSeconds] = []
        self.step_started = 0.0
        self.reads: StepReads | None = None

    def begin_edits(self, sources: dict[int, Tensor]) -> None:
        """Make ready what edits the batch, with what `read_sources` read for it."""
        plan = self.plan
        if self.batch.edits is not None:
            self.edits = EditPass(
                self.model,
                self.batch.edits,
                sources,
                plan.head_operations,
                self.weight,
                plan.max_bytes,
            )

    def start(self, device: torch.device) -> None:
        """Begin to measure the time of a step."""
        self.step_started = synchronized_time(device)

    def read_step(self, decoder: Any) -> None:
        """Read this step inside its trace; `decoder` is the module that `generate` calls."""
        reads = self.plan.reads
        places = TokenPlaces(len(self.finish_reasons), self.rows, self.columns)
        if self.edits is not None:
            n_columns = decoder.inputs[1]["input_ids"].shape[1]
            self.edits.begin_step(self.n_steps_read, n_columns)
        self.n_steps_read += 1
        vectors, sum_errors = collect(
            self.model, reads.steps, places, reads.n_slots, self.plan.max_bytes, self.edits
        )
        rows = site_rows(self.model, vectors, reads.sites)
        self.reads = StepReads(rows, sum_errors, model_logits(decoder.output))

    def record(
        self,
        token_ids: Int[Tensor, "row column"],
        scores: Float[Tensor, "row vocab"],
        ended_rows: dict[str, list[bool]],
    ) -> None:
        """Turn a step into numbers, once one more token of each row was sampled.

        Args:
            token_ids: All ids so far, the sampled ones last.
            scores: What was sampled from.
            ended_rows: Which rows each of transformers' criteria ends, by its class.
        """
        if not len(self.rows) or self.reads is None:  # MPS notices the end a step late
            return
        sampled_at = synchronized_time(token_ids.device)
        numbers = self.step_numbers(self.reads, token_ids, scores)
        self.reads = None  # not beside the next step's
        self.keep(numbers)
        self.note_ends(numbers, ended_rows)
        recorded_at = synchronized_time(token_ids.device)
        model_seconds = sampled_at - self.step_started
        self.seconds.append(StepSeconds(model_seconds, recorded_at - sampled_at))
        if self.on_step is not None:
            self.on_step(numbers)
        self.start(token_ids.device)

    def step_numbers(
        self, reads: StepReads, token_ids: Int[Tensor, "row column"], scores: Tensor
    ) -> dict[str, Tensor]:
        """Return the arrays of one step."""
        device, width = token_ids.device, token_ids.shape[1] - 1  # before the sampled token
        rows, columns = self.rows, self.columns % width
        there = TokenPlaces(len(token_ids), rows, columns).on(device)
        both = on_cpu(
            {
                "own": token_ids[there.rows, there.columns],
                "next": token_ids[there.rows, there.columns + 1],
            }
        )
        own_ids, next_ids = both["own"], both["next"]
        next_ids[next_ids >= reads.logits.shape[-1]] = -1  # of the prompt, and without a logit
        requested_ids = torch.cat([self.batch.target_ids[rows], next_ids[:, None]], -1)
        has_all_logits = reads.logits.shape[1] == width
        logit_columns = columns if has_all_logits else columns - width
        numbers = readout(
            reads.rows,
            self.plan.reads.sites,
            self.head,
            reads.logits,
            (rows, logit_columns),
            requested_ids,
            self.plan.options,
        )
        is_last = columns == width - 1
        unknown = torch.full((2, len(rows)), float("nan"), dtype=torch.float32, device="cpu")
        next_logprob, sampler_logprob = unknown
        written_rows, written_ids = rows[is_last], next_ids[is_last]
        written = on_cpu(
            {
                "next": logprobs_at(reads.logits[:, -1], written_rows, written_ids),
                "sampler": logprobs_at(scores, written_rows, written_ids),
            }
        )
        next_logprob[is_last], sampler_logprob[is_last] = written["next"], written["sampler"]
        return {
            **numbers,
            **reads.sum_errors,
            "row": rows,
            "position": columns - self.batch.padding[rows],
            "id": own_ids,
            "next_id": next_ids,
            "generated": is_last,
            "next_logprob": next_logprob,
            "sampler_logprob": sampler_logprob,
        }

    def keep(self, numbers: dict[str, Tensor]) -> None:
        """Put the arrays of one step behind those of the steps before."""
        needed = self.n_recorded + len(self.rows)
        if needed > self.room:
            self.room = min(self.most_tokens, 2 * needed)
        tracked = self.plan.options.tracked
        fill_buffers(self.arrays, numbers, self.n_recorded, self.room, tracked)
        self.n_recorded = needed

    def note_ends(self, numbers: dict[str, Tensor], ended_rows: dict[str, list[bool]]) -> None:
        """Note which rows have ended and why; the others are read in the next step."""
        for row in numbers["row"][numbers["generated"]].tolist():
            criteria = [criterion for criterion, ended in ended_rows.items() if ended[row]]
            self.finish_reasons[row] = finish_reason(criteria)
        running = [row for row, reason in enumerate(self.finish_reasons) if not reason]
        self.rows = torch.tensor(running, dtype=torch.long, device="cpu")
        self.columns = torch.full((len(running),), -1, dtype=torch.long, device="cpu")
        if not running:
            self.arrays.update(self.trimmed())

    def trimmed(self) -> dict[str, Tensor]:
        """Return the arrays of the tokens that were recorded; empty before the first step."""
        if not self.n_recorded:
            return {}
        return trim_buffers(self.arrays, self.n_recorded)


def finish_reason(criteria: list[str]) -> str:
    """Return why a row ends by the criteria that end it; "" where none does."""
    for criterion, reason in FINISH_REASONS.items():
        if criterion in criteria:
            return reason
    return "stop" if criteria else ""


def logprobs_at(
    scores: Float[Tensor, "row vocab"], rows: Int[Tensor, " token"], ids: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Return the log-probability of one id in each of some rows of scores."""
    logprobs = scores[sent(rows, scores.device)].float().log_softmax(-1)
    return logprobs.gather(-1, sent(ids[:, None], scores.device))[:, 0]
