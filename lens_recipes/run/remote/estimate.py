"""How large a run is on a server, from the model's skeleton alone: jobs, bytes up, bytes back, memory there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch

from lens_recipes.errors import RemoteLensError
from lens_recipes.models.handle import dtype_of, exclusive, text_config
from lens_recipes.run.registry import RECIPES, prepare_run
from lens_recipes.run.remote.settings import remote_settings
from lens_recipes.run.remote.wire import serialize_job
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.lens_head import COPIES

P = ParamSpec("P")

R = TypeVar("R")

# What zstd leaves of an array's bytes once they lie plane by plane, fitted so that benchmarks/remote.py --sizes agrees.
_LEFT = {"float32": 0.81, "int32": 0.35, "int64": 0.25, "bool": 0.15, "float64": 0.9}

_FRAME = 900  # bytes of a job's result beside its arrays


@dataclass(frozen=True)
class RemoteEstimate:
    """What a run would cost on a server.

    Attributes:
        recipe, model: What, on which.
        jobs, batches: As how many jobs it is sent, and how many forward passes (generations) those make.
        tokens: That run through the model, those to be written included.
        bytes_up: That are sent: the code, and the token ids.
        bytes_back: That come back, compressed; of a generation as if no text ended early.
        server_bytes: Most memory on the server at once, beside the weights.
    """

    recipe: str
    model: str
    jobs: int
    batches: int
    tokens: int
    bytes_up: int
    bytes_back: int
    server_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.recipe} on {self.model}: {_count(self.jobs, 'job')} ({_count(self.batches, 'batch')}, "
            f"{_count(self.tokens, 'token')}), {format_bytes(self.bytes_up)} up, about {format_bytes(self.bytes_back)} back, at most "
            f"{format_bytes(self.server_bytes)} of memory there beside the weights"
        )


def estimate(recipe: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> RemoteEstimate:
    """What a recipe would send, bring back and need on a server. Nothing is sent, and no weights are needed.

    Args:
        recipe: `logit_lens`, `attribution`, `generate_lens` or `decode_vectors` themselves.
        *args, **kwargs: What it takes.

    Raises:
        ValueError, LensError: as the recipe does.

    Example:
        >>> print(estimate(logit_lens, load("meta-llama/Llama-3.1-70B", remote=True), ["one prompt", "and another"]))
    """
    run = prepare_run(recipe, *args, **kwargs)
    if not run.remote:  # as it would be sent: without padding, and with no weight that is here
        rehearsed: dict[str, Any] = {**kwargs, "remote": "local"}
        run = prepare_run(recipe, *args, **rehearsed)
    jobs = split_into_jobs(run)
    with exclusive(run.model):
        up = sum(len(serialize_job(run, part)) for part in jobs)
    return RemoteEstimate(
        recipe=run.recipe,
        model=getattr(run.model, "repo_id", None) or type(run.model._module).__name__,
        jobs=len(jobs),
        batches=len(run.batches),
        tokens=sum(map(tokens_of, [run] * len(run.batches), run.batches)),
        bytes_up=up,
        bytes_back=bytes_back(run, len(jobs)),
        server_bytes=server_bytes(run),
    )


def check_limits(run: RecipeRun[Any], jobs: int) -> None:
    """Refuse what is larger than `remote_settings` allow, before it is sent.

    Raises:
        RemoteLensError: with what to narrow.
    """
    narrow = f"{RECIPES[run.recipe].narrow}, or raise"
    back = bytes_back(run, jobs)
    if back > remote_settings.max_back_bytes:
        raise RemoteLensError(
            f"this would bring back about {format_bytes(back)}, over the limit of {format_bytes(remote_settings.max_back_bytes)}.",
            f"{narrow} lens_recipes.remote_settings.max_back_bytes.",
        )
    there = server_bytes(run)
    if there > remote_settings.max_server_bytes:
        raise RemoteLensError(
            f"this would take about {format_bytes(there)} of memory on the server beside the weights, over the limit of "
            f"{format_bytes(remote_settings.max_server_bytes)}.",
            f"{narrow} lens_recipes.remote_settings.max_server_bytes."
            + (" A smaller max_bytes helps, too." if "max_bytes" in run.arguments else ""),
        )


def split_into_jobs(run: RecipeRun[Any]) -> list[range]:
    """The batches of each job, up to a number of tokens and of bytes that come back."""
    jobs, start, tokens, back = [], 0, 0, 0
    for n, (batch, schema) in enumerate(zip(run.batches, run.schemas, strict=True)):
        more, larger = tokens_of(run, batch), sum(schema.nbytes().values())
        full = (
            tokens + more > remote_settings.tokens_per_job
            or back + larger > remote_settings.back_bytes_per_job
        )
        if n > start and full:
            jobs.append(range(start, n))
            start, tokens, back = n, 0, 0
        tokens, back = tokens + more, back + larger
    return [*jobs, range(start, len(run.batches))]


def tokens_of(run: RecipeRun[Any], batch: dict[str, Any]) -> int:
    """Tokens of a batch that run through the model."""
    if "inputs" not in batch:
        return 1
    ids = batch["inputs"]["input_ids"]
    return ids.numel() + len(ids) * run.shared.get("n_steps", 0)


def bytes_back(run: RecipeRun[Any], jobs: int) -> int:
    """Bytes of all results as they travel."""
    sizes = [schema.nbytes() for schema in run.schemas]
    return jobs * _FRAME + round(
        sum(_LEFT[dtype] * n for size in sizes for dtype, n in size.items())
    )


def server_bytes(run: RecipeRun[Any]) -> int:
    """Most memory that a batch takes where it runs, beside the weights, in bytes."""
    return max(_memory(run, batch, sum(schema.nbytes(most=True).values())) for batch, schema in zip(
        run.batches, run.schemas, strict=True))  # fmt: skip


def _memory(run: RecipeRun[Any], batch: dict[str, Any], arrays: int) -> int:
    """Of one batch: the model's own forward pass, what is read of it, and what is made of that."""
    parts, item = run.anatomy, dtype_of(run.model).itemsize
    if "inputs" not in batch:  # vectors
        return len(batch["rows"]) * parts.d_model * 4 + _lens(run, len(batch["rows"])) + arrays
    read = len(batch["where"][1]) if "where" in batch else len(batch["first"][0])
    if "groups" in batch:
        slots = batch["n_slots"]
        rows = read * max(
            len(group[3]) + 1 if group[0] == "heads" else 1 for group in batch["groups"]
        )
    else:
        slots, rows = run.shared["reads"]["n_slots"], read * len(run.shared["reads"]["sites"])
    kept = (
        slots * item + 4 * 4
    )  # of each token and dimension: vectors, and four float32 sums that are compared
    return (
        _forward(run, batch["inputs"], item)
        + read * parts.d_model * kept
        + _lens(run, rows)
        + 2 * arrays
    )


def _forward(run: RecipeRun[Any], inputs: dict[str, Any], item: int) -> int:
    """Bytes of a forward pass, or of a generation with its cache, logits and scores."""
    parts, config, steps = run.anatomy, text_config(run.model), run.shared.get("n_steps", 0)
    rows, width = inputs["input_ids"].shape
    keep = inputs.get("logits_to_keep", 1 if steps else width)
    logits = (
        rows
        * (len(keep) if isinstance(keep, torch.Tensor) else keep or width)
        * parts.vocab_size
        * (item + 4)
    )
    inner = getattr(config, "intermediate_size", None) or 4 * parts.d_model
    heads = getattr(config, "num_attention_heads", None) or 1
    shared = (
        getattr(config, "num_key_value_heads", None) or heads
    ) / heads  # keys and values of grouped heads
    cache = (
        2 * parts.n_layers * rows * (width + steps) * round(parts.d_model * shared) * item
        if steps
        else 0
    )
    scores = rows * steps * parts.vocab_size * 4 if run.shared.get("scores") else 0
    return rows * width * (8 * parts.d_model + 3 * inner) * item + logits + cache + scores


def _lens(run: RecipeRun[Any], rows: int) -> int:
    """Bytes of the logits of some rows, with what is made beside them, under the run's own bound."""
    one = run.anatomy.vocab_size * 4 * COPIES
    return max(one, min(run.shared.get("options", run.shared)["max_bytes"], rows * one))


def format_bytes(n: int) -> str:
    """Bytes for a person."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= 0.9995 * scale:  # what would be rounded to 1000 of the unit below
            return f"{n / scale:.{0 if n >= 99.95 * scale else 1}f} {unit}"
    return _count(n, "byte")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('ch') else 's'}"
