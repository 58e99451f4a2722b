"""The lens while a model writes on a server, into whose loop nobody may reach.

There is no custom loop there: a server that runs untrusted code apart from its model takes none. But each step of the
model begins with what the step before has sampled, and the result of `generate` tells the last token and, where they
are not the model's own, the scores that were sampled from. So a step is reduced when the next one begins. Rows that
have ended run on beside the others; why and where each ended is told by transformers' own criteria afterwards.

`overhear` runs where the model is, so it names only torch and functions that do the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lens_recipes.trace.buffers import trim_buffers
from lens_recipes.trace.generation.recorder import (
    GenerationRecorder,
    logprobs_at,
    read_step,
    recorder_of,
    synchronized_time,
)


def generate_on_server(
    model: Any, shared: dict[str, Any], batch: dict[str, Any]
) -> dict[str, Tensor]:
    """One batch, one trace of `generate`: the arrays that a watch keeps, and `seconds` (model, lens) `[step, 2]`."""
    speaker = model.get(shared["speaker"]) if shared["speaker"] else model
    seed = batch["seed"]
    inside = any(
        side == "in" and path in shared["blocks"] for _, side, path, *_ in shared["reads"]["plan"]
    )
    if inside and _is_apart(model):
        raise ValueError(
            "lens-recipes: this server runs your code apart from its model and gives it copies of what is read, also "
            "of the cache beside this model's stream before a block. Read resid_post alone while it writes."
        )
    if seed is not None and _is_apart(model):
        raise ValueError(
            "lens-recipes: this server runs your code apart from its model, whose random numbers it cannot set: leave "
            "out the seed, or generate greedily (do_sample=False)."
        )
    options = {
        **shared["generate"],
        "return_dict_in_generate": True,
        "output_scores": shared["scores"],
    }
    if shared["stop"]:
        options |= {"stop_strings": shared["stop"], "tokenizer": model.tokenizer}
    watch = recorder_of(model, shared, batch)
    heard: list[Tensor] = []
    with torch.random.fork_rng(enabled=seed is not None), torch.inference_mode():
        if seed is not None:
            torch.manual_seed(seed)
        with model.trace(fn="generate", **options) as tracer:
            with tracer.invoke(**batch["inputs"]):
                for _ in tracer.iter[: shared["n_steps"]]:
                    _hear(watch, heard, speaker.inputs[1]["input_ids"])
                    read_step(model, speaker, shared, watch)
            with tracer.invoke():
                result = tracer.result
                _hear(watch, heard, result.sequences)
                _hear_scores(watch, result.scores)
    return {
        **trim_buffers(watch.kept, watch.n_kept),
        "seconds": torch.tensor(watch.seconds, dtype=torch.float64),
    }


def _is_apart(model: Any) -> bool:
    """Whether this code runs in another process than the model, where a module has no weights."""
    return bool(next(model._module.parameters()).device.type == "meta")


def _hear(watch: GenerationRecorder, heard: list[Tensor], ids: Tensor) -> None:
    """What a step begins with: the prompts first, and later, in the last column, what the step before has sampled."""
    if not heard:
        heard.append(ids)
        watch.started = synchronized_time(ids.device)
    else:
        heard[0] = torch.cat([heard[0], ids[:, -1:]], -1)
        watch.scores = watch.logits[:, -1]
        watch.step(heard[0], {})


def _hear_scores(watch: GenerationRecorder, scores: Any) -> None:
    """What was sampled from at each step, `[row, vocabulary]`; None where it is the logits."""
    if scores is None:
        return
    kept, n = watch.kept, watch.n_kept
    written = kept["generated"][:n].nonzero()[:, 0]
    rows, ids = kept["row"][written], kept["next_id"][written]
    steps = torch.arange(len(rows)) // len(watch.ends)
    given = [logprobs_at(step, rows[steps == n], ids[steps == n]) for n, step in enumerate(scores)]
    kept["sampler_logprob"][written] = torch.cat(given)
