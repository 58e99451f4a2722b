"""The loop in which a model generates, watched: after each step, what was read becomes numbers.

Runs where the model is, so it imports only torch and transformers, like `readout` (a server has both).
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation import StopStringCriteria

from lens_recipes.trace.buffers import fill_buffers, max_tracked_tokens, trim_buffers
from lens_recipes.trace.collect import collect, site_streams
from lens_recipes.trace.lens_head import COPIES, unembed
from lens_recipes.trace.operations import model_logits
from lens_recipes.trace.readout import readout

# Why a row ends, as the classes of transformers' criteria name it; of several, the first here.
FINISH_REASONS = {
    "EosTokenCriteria": "eos", "StopStringCriteria": "stop", "MaxLengthCriteria": "length", "MaxTimeCriteria": "time",
}  # fmt: skip

INITIAL_STEPS = 256  # steps that there is room for at first


def synchronized_time(device: torch.device) -> float:
    """Seconds, once the device has done all that it was asked to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class GenerationRecorder:
    """What is known of one running generation, and what is kept of it.

    The trace gives it each step's streams and logits (`see`); the loop that it puts in place of `generate`'s own, which
    is the same loop, tells it what was sampled, and with that the step becomes numbers (`_reduce`).

    Attributes:
        kept: What each step said of the rows that still ran, step after step along the token axis: the arrays of
            `readout` and `collect`, and `row`, `position`, `id`, `next_id`, `generated`, `next_logprob`,
            `sampler_logprob` `[token]`.
        n_kept: How many tokens of it are filled; when the last row has ended, it is cut to them.
        ends: Why each row ended; "" while it runs.
        seconds: (model and sampler, lens) of each step.
    """

    def __init__(
        self,
        model: Any,
        pads: Int[Tensor, " row"],
        first: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
        targets: Int[Tensor, "row target"],
        reads: list[tuple[int, bool]],
        to_logits: Any,
        options: dict[str, Any],
        n_steps: int,
        stop: list[str],
        seed: int | None,
        emit: Any,
    ) -> None:
        """Before the first step.

        Args:
            model: The nnsight model.
            pads: How many columns are padding before each row.
            first: (row, column) of each token that is read in the first step; later it is the newest of each row.
            targets: Token ids to follow.
            reads, to_logits, options: For `readout`.
            n_steps: At most so many tokens per row.
            stop: Strings that end a row.
            seed: For the sampler, or None.
            emit: Called with each step's arrays where the block runs in the caller's process; None elsewhere.
        """
        self.model, self.pads, self.targets = model, pads, targets
        self.rows, self.columns = first
        self.reads, self.to_logits, self.options = reads, to_logits, options
        self.stop, self.seed, self.emit = stop, seed, emit
        self.kept: dict[str, Tensor] = {}
        self.n_kept, self.most = 0, len(first[0]) + (n_steps - 1) * len(targets)
        self.room = min(self.most, len(first[0]) + INITIAL_STEPS * len(targets))
        self.tracked = max_tracked_tokens(
            options["track"], options["n_sites"], options["max_tracked"]
        )
        self.ends = [""] * len(targets)
        self.seconds: list[tuple[float, float]] = []

    # -- what the trace calls ------------------------------------------

    @property
    def where(self) -> tuple[int, Int[Tensor, " token"], Int[Tensor, " token"]]:
        """(number of rows, row of each token, its column) in this step."""
        return len(self.ends), self.rows, self.columns

    def see(self, streams: list[Any], errors: dict[str, Tensor], logits: Tensor) -> None:
        """This step's streams, each `[token, …]`, the errors of their sums, and the model's logits."""
        self.streams, self.errors, self.logits = streams, errors, logits

    # -- what `generate` calls -----------------------------------------

    def loop(
        self,
        module: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **kwargs: Any,
    ) -> Any:
        """transformers' own loop, with an ear at the scores that are sampled from and one at each step's end."""
        self.started = synchronized_time(input_ids.device)
        if self.seed is not None:
            torch.manual_seed(self.seed)
        if self.stop:
            stopping_criteria.append(StopStringCriteria(self.model.tokenizer, self.stop))
        logits_processor.append(self._hear)
        return type(module)._sample(
            module,
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=_Criteria(stopping_criteria, self),
            generation_config=generation_config,
            **kwargs,
        )

    def _hear(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Last of the processors: these are the scores that are sampled from."""
        self.scores = scores
        return scores

    def step(self, ids: Int[Tensor, "row column"], ends: dict[str, Tensor]) -> None:
        """One more token per row has been sampled; `ends` says which rows each criterion ends."""
        if not len(self.rows):  # where stopping is noticed a step late (MPS)
            return
        sampled = synchronized_time(ids.device)
        numbers = self._reduce(ids)
        if (
            needed := self.n_kept + len(self.rows)
        ) > self.room:  # the bound on new tokens may be far off
            self.room = min(self.most, 2 * needed)
        fill_buffers(self.kept, numbers, self.n_kept, self.room, self.tracked)
        self.n_kept = needed
        for row in numbers["row"][numbers["generated"]].tolist():
            hit = [name for name, done in ends.items() if done[row]]
            self.ends[row] = next(
                (word for name, word in FINISH_REASONS.items() if name in hit),
                "stop" if hit else "",
            )
        running = [row for row, end in enumerate(self.ends) if not end]
        self.rows, self.columns = (
            torch.tensor(running, dtype=torch.long),
            torch.full((len(running),), -1),
        )
        if not running:
            self.kept.update(trim_buffers(self.kept, self.n_kept))
        reduced = synchronized_time(ids.device)
        self.seconds.append((sampled - self.started, reduced - sampled))
        if self.emit is not None:
            self.emit(numbers)
        self.started = synchronized_time(ids.device)

    def _reduce(self, ids: Int[Tensor, "row column"]) -> dict[str, Tensor]:
        rows, device = self.rows, ids.device
        width = ids.shape[1] - 1  # before the sampled token
        columns = self.columns % width
        last = columns == width - 1
        next_ids = ids[rows.to(device), columns.to(device) + 1].cpu()
        wanted = torch.cat([self.targets[rows], next_ids[:, None]], -1)
        kept = (
            columns if self.logits.shape[1] == width else columns - width
        )  # the model gave its last logits only
        numbers = readout(
            self.streams,
            self.reads,
            self.to_logits,
            self.logits,
            (rows, kept),
            wanted,
            **self.options,
        )
        at = rows[last], next_ids[last]
        own, left = torch.full((2, len(rows)), float("nan"))
        own[last] = logprobs_at(self.logits[:, -1], *at)
        left[last] = logprobs_at(self.scores, *at)
        spots = {
            "row": rows,
            "position": columns - self.pads[rows],
            "next_id": next_ids,
            "generated": last,
        }
        here = ids[rows.to(device), columns.to(device)].cpu()
        del self.streams, self.logits, self.scores  # not beside the next step's
        return {
            **numbers,
            **self.errors,
            **spots,
            "id": here,
            "next_logprob": own,
            "sampler_logprob": left,
        }


def recorder_of(
    model: Any, shared: dict[str, Any], batch: dict[str, Any], weight: Any = None, emit: Any = None
) -> GenerationRecorder:
    """A watch over one batch; `shared` and `batch` are those of `generate_lens`."""
    return GenerationRecorder(
        model,
        batch["pads"],
        batch["first"],
        batch["targets"],
        shared["reads"]["sites"],
        partial(unembed, model, shared["tail"], weight, {}),
        {**shared["options"], "copies": COPIES if weight is None else 1},
        shared["n_steps"],
        shared["stop"],
        batch["seed"],
        emit,
    )


def read_step(model: Any, speaker: Any, shared: dict[str, Any], watch: GenerationRecorder) -> None:
    """Show a watch what this step reads; `speaker` is the module that `generate` calls."""
    reads = shared["reads"]
    vectors, errors = collect(
        model, reads["plan"], watch.where, reads["n_slots"], shared["options"]["max_bytes"]
    )
    streams = site_streams(model, vectors, reads["slots"], reads["heads"])
    watch.see(streams, errors, model_logits(speaker.output))


class _Criteria(StoppingCriteriaList):
    """transformers' criteria, that tell a watch which of them end which rows."""

    def __init__(self, criteria: Any, watch: GenerationRecorder) -> None:
        list.__init__(self, criteria)  # a class that travels as source has no super()
        self.watch = watch

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ends = {
            type(criterion).__name__: criterion(input_ids, scores, **kwargs) for criterion in self
        }
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for hit in ends.values():
            done = done | torch.as_tensor(hit, device=done.device)
        self.watch.step(
            input_ids,
            {name: torch.as_tensor(hit).expand(len(done)).cpu() for name, hit in ends.items()},
        )
        return done


def logprobs_at(scores: Tensor, rows: Int[Tensor, " token"], ids: Int[Tensor, " token"]) -> Tensor:
    """The log-probability of one id in each of some rows of scores."""
    logprobs = scores[rows.to(scores.device)].float().log_softmax(-1)
    return logprobs.gather(-1, ids[:, None].to(scores.device))[:, 0].cpu()
