"""How large a run on a server is, from the model's skeleton alone: jobs, bytes, memory there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import RemoteLensError
from lens_recipes.models.handle import exclusive
from lens_recipes.run.progress import duration
from lens_recipes.run.registry import RECIPES, prepare_run
from lens_recipes.run.remote.batch_cost import batch_memory, batch_tokens
from lens_recipes.run.remote.http.settings import remote_settings
from lens_recipes.run.remote.wire import serialize_job
from lens_recipes.run.run import RecipeRun

P = ParamSpec("P")

R = TypeVar("R")

# The share of an array's bytes that zstd leaves once they lie plane by plane (`pack_arrays`),
# fitted so that `benchmarks/remote.py --sizes` agrees.
COMPRESSED_SHARE = {"float32": 0.81, "int32": 0.35, "int64": 0.25, "bool": 0.15, "float64": 0.9}

FRAME_BYTES = 900  # of a job's result beside its arrays


@dataclass(frozen=True)
class RemoteEstimate:
    """What a run would cost on a server.

    Attributes:
        recipe, model: The recipe's name, and the model's.
        jobs, batches: How many jobs are sent, and how many forward passes (or generations) they
            make. No job is sent of what runs here alone, and nothing is up, back or there.
        tokens: How many tokens run through the model, those to be written included.
        bytes_up: How much is sent: the code, and the token ids.
        bytes_back: How much comes back, compressed; of a generation as if no text ended early.
        server_bytes: Most memory that is taken on the server at once, beside the weights.
        seconds: About how long it takes in this process, which has tried some of it; None where
            that is not known.
    """

    recipe: str
    model: str
    jobs: int
    batches: int
    tokens: int
    bytes_up: int
    bytes_back: int
    server_bytes: int
    seconds: float | None = None

    def __str__(self) -> str:
        jobs = _counted(self.jobs, "job", "jobs")
        batches = _counted(self.batches, "batch", "batches")
        tokens = _counted(self.tokens, "token", "tokens")
        here = "" if self.seconds is None else f"here about {duration(self.seconds)}"
        if not self.jobs:
            ran = f"{batches}, {tokens}, which run here alone"
            return f"{self.recipe} on {self.model}: {ran}{here and ': ' + here}"
        before = f"{here}; on a server " if here else ""
        return (
            f"{self.recipe} on {self.model}: {before}{jobs} ({batches}, {tokens}), "
            f"{format_bytes(self.bytes_up)} up, about {format_bytes(self.bytes_back)} back, "
            f"at most {format_bytes(self.server_bytes)} of memory there beside the weights"
        )


def estimate(recipe: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> RemoteEstimate:
    """Estimate what a recipe would send, bring back and need on a server.

    Nothing is sent, and no weights are needed. Of a fit in this process some is tried, which says
    how long it takes.

    Args:
        recipe: `logit_lens`, `attribution`, `generate_lens`, `decode_vectors`, `fit_lens` or
            `lens_quality` themselves.
        *args, **kwargs: What it takes.

    Raises:
        ValueError, LensError: as the recipe does.

    Example:
        >>> model = load("meta-llama/Llama-3.1-70B", remote=True)
        >>> print(estimate(logit_lens, model, ["one prompt", "and another"]))
    """
    run = prepare_run(recipe, *args, **kwargs)
    seconds = None
    if not run.remote and run.seconds_here is not None:
        seconds = run.seconds_here()
    if not run.runs_remotely:
        return RemoteEstimate(
            recipe=run.recipe,
            model=name_in_estimate(run.model),
            jobs=0,
            batches=len(run.batches),
            tokens=sum(batch_tokens(run, batch) for batch in run.batches),
            bytes_up=0,
            bytes_back=0,
            server_bytes=0,
            seconds=seconds,
        )
    if not run.remote and run.as_sent is not None:
        run = run.as_sent()
    elif not run.remote:
        # Prepared again as it would be sent: without padding, and with no weight of this process.
        rehearsed: dict[str, Any] = {**kwargs, "remote": "local"}
        run = prepare_run(recipe, *args, **rehearsed)
    jobs = split_into_jobs(run)
    with exclusive(run.model):
        bytes_up = sum(len(serialize_job(run, batches)) for batches in jobs)
    return RemoteEstimate(
        recipe=run.recipe,
        model=name_in_estimate(run.model),
        jobs=len(jobs),
        batches=len(run.batches),
        tokens=sum(batch_tokens(run, batch) for batch in run.batches),
        bytes_up=bytes_up,
        bytes_back=bytes_back(run, len(jobs)),
        server_bytes=server_bytes(run),
        seconds=seconds,
    )


def name_in_estimate(model: Envoy) -> str:
    """Return a model's hub id, or its class."""
    return getattr(model, "repo_id", None) or type(model._module).__name__


def check_limits(run: RecipeRun[Any], n_jobs: int) -> None:
    """Refuse a run that is larger than `remote_settings` allow, before it is sent.

    Raises:
        RemoteLensError: with what to narrow.
    """
    narrow = RECIPES[run.recipe].how_to_narrow
    result_bytes = bytes_back(run, n_jobs)
    if result_bytes > remote_settings.max_back_bytes:
        allowed = format_bytes(remote_settings.max_back_bytes)
        raise RemoteLensError(
            f"this would bring back about {format_bytes(result_bytes)}, over the limit of "
            f"{allowed}.",
            f"{narrow}, or raise lens_recipes.remote_settings.max_back_bytes.",
        )
    memory_bytes = server_bytes(run)
    if memory_bytes > remote_settings.max_server_bytes:
        allowed = format_bytes(remote_settings.max_server_bytes)
        todo = f"{narrow}, or raise lens_recipes.remote_settings.max_server_bytes."
        if "max_bytes" in run.arguments:
            todo += " A smaller max_bytes helps, too."
        raise RemoteLensError(
            f"this would take about {format_bytes(memory_bytes)} of memory on the server beside "
            f"the weights, over the limit of {allowed}.",
            todo,
        )


def split_into_jobs(run: RecipeRun[Any]) -> list[range]:
    """Return the batches of each job: together they stay below the settings' tokens and bytes."""
    jobs = []
    start = 0
    job_tokens = 0
    job_bytes = 0
    for batch_number, (batch, schema) in enumerate(zip(run.batches, run.schemas, strict=True)):
        n_tokens = batch_tokens(run, batch)
        n_bytes = sum(schema.nbytes().values())
        is_full = (
            job_tokens + n_tokens > remote_settings.tokens_per_job
            or job_bytes + n_bytes > remote_settings.back_bytes_per_job
        )
        if is_full and batch_number > start:
            jobs.append(range(start, batch_number))
            start = batch_number
            job_tokens = 0
            job_bytes = 0
        job_tokens += n_tokens
        job_bytes += n_bytes
    jobs.append(range(start, len(run.batches)))
    return jobs


def bytes_back(run: RecipeRun[Any], n_jobs: int) -> int:
    """Return the bytes of all results as they travel."""
    compressed = 0.0
    for schema in run.schemas:
        for dtype, n_bytes in schema.nbytes().items():
            compressed += COMPRESSED_SHARE[dtype] * n_bytes
    return n_jobs * FRAME_BYTES + round(compressed)


def server_bytes(run: RecipeRun[Any]) -> int:
    """Return the most bytes of memory that a batch takes where it runs, beside the weights."""
    largest = 0
    for batch, schema in zip(run.batches, run.schemas, strict=True):
        result_bytes = sum(schema.nbytes(most=True).values())
        largest = max(largest, batch_memory(run, batch, result_bytes))
    return largest


def format_bytes(n_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it, for a person."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= 0.9995 * size:  # what would be rounded to 1000 of the unit below
            decimals = 0 if n_bytes >= 99.95 * size else 1
            return f"{n_bytes / size:.{decimals}f} {unit}"
    return _counted(n_bytes, "byte", "bytes")


def _counted(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun."""
    return f"{number} {singular if number == 1 else plural}"
