"""Read the lens while a model writes on a server, into whose loop nobody may reach.

A server that runs untrusted code apart from its model takes no loop of the caller's. But each step
of the model begins with what the step before has sampled, and the result of `generate` tells the
last token and, where they are not the model's own, the scores that were sampled from. A step is
recorded when the next one begins. Rows that have ended run on beside the others; why and where each
ended is told by transformers' own criteria afterwards.

All of this runs where the model is; it names only torch and functions that do the same.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_recipes.trace.batch import split_inputs
from lens_recipes.trace.edits.sources import read_sources
from lens_recipes.trace.generation.plan import GenerationBatch, GenerationPlan
from lens_recipes.trace.generation.recorder import GenerationRecorder, logprobs_at
from lens_recipes.trace.pack import OWN_ERROR


def trace_generation_on_server(
    model: Any, plan: GenerationPlan, batch: GenerationBatch
) -> dict[str, Tensor]:
    """Run one batch in one trace of `generate`, and record each step.

    Returns:
        The arrays of a `GenerationRecorder`, and `seconds` (model, lens) `[step, 2]`.
    """
    check_server(model, plan, batch)
    decoder = model.get(plan.decoder) if plan.decoder else model
    listener = StepListener(GenerationRecorder(model, plan, batch))
    listener.recorder.begin_edits(read_sources(model, batch.edits))
    prompts, options = [batch.inputs], generate_options(model, plan)
    if batch.one_invoke_each:
        prompts, more = split_inputs(batch.inputs)
        options = more | options
    with torch.random.fork_rng(enabled=batch.seed is not None), torch.no_grad():
        if batch.seed is not None:
            torch.manual_seed(batch.seed)
        with model.trace(fn="generate", **options) as tracer:
            for prompt in prompts:
                with tracer.invoke(**prompt):
                    pass  # only its rows: all are read together below
            with tracer.invoke():  # sees all prompts, padded on the left
                for _ in tracer.iter[: plan.n_steps]:
                    listener.hear(decoder.inputs[1]["input_ids"])
                    listener.recorder.read_step(decoder)
            with tracer.invoke():
                result = tracer.result
                listener.hear(result.sequences)
                listener.hear_scores(result.scores)
    recorder = listener.recorder
    seconds = torch.tensor(recorder.seconds, dtype=torch.float64, device="cpu")
    return {**recorder.trimmed(), "seconds": seconds}


def generate_options(model: Any, plan: GenerationPlan) -> dict[str, Any]:
    """Return the arguments of `generate`, with what the recorder needs of its result."""
    options = {
        **plan.generate,
        "return_dict_in_generate": True,
        "output_scores": plan.keeps_scores,
    }
    if plan.stop:
        options["stop_strings"] = plan.stop
        options["tokenizer"] = model.tokenizer
    return options


def check_server(model: Any, plan: GenerationPlan, batch: GenerationBatch) -> None:
    """Stop before anything is computed where this server cannot do what is asked for."""
    if plan.reads_before_a_block and runs_apart(model):
        raise ValueError(
            f"{OWN_ERROR}this server runs your code apart from its model and gives it copies of "
            "what is read, also of the cache beside this model's stream before a block. Read and "
            "edit resid_post alone while it writes."
        )
    if batch.seed is not None and runs_apart(model):
        raise ValueError(
            f"{OWN_ERROR}this server runs your code apart from its model, whose random numbers "
            "it cannot set: leave "
            "out the seed, or generate greedily (do_sample=False)."
        )


def runs_apart(model: Any) -> bool:
    """Tell whether this code runs apart from the model, where a module has no weights."""
    return bool(next(model._module.parameters()).device.type == "meta")


class StepListener:
    """Joins the ids of a generation as its steps begin, and records the step before."""

    def __init__(self, recorder: GenerationRecorder) -> None:
        """Begin before the first step."""
        self.recorder = recorder
        self.token_ids: Tensor | None = None

    def hear(self, step_ids: Int[Tensor, "row column"]) -> None:
        """Take what a step begins with: the prompts, or later what was sampled last."""
        if self.token_ids is None:
            self.token_ids = step_ids
            self.recorder.start(step_ids.device)
            return
        self.token_ids = torch.cat([self.token_ids, step_ids[:, -1:]], -1)
        reads = self.recorder.reads
        if reads is not None:
            self.recorder.record(self.token_ids, reads.logits[:, -1], {})

    def hear_scores(self, scores: Any) -> None:
        """Take what was sampled from at each step, `[row, vocab]`.

        None where it is the model's own logits.
        """
        if scores is None:
            return
        recorder = self.recorder
        arrays = recorder.arrays
        written = arrays["generated"][: recorder.n_recorded].nonzero()[:, 0]
        rows, token_ids = arrays["row"][written], arrays["next_id"][written]
        steps = torch.arange(len(rows), device="cpu") // len(recorder.finish_reasons)
        logprobs = []
        for step, step_scores in enumerate(scores):
            of_step = steps == step
            logprobs.append(logprobs_at(step_scores, rows[of_step], token_ids[of_step]).cpu())
        arrays["sampler_logprob"][written] = torch.cat(logprobs)
