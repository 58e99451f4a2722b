"""How large a run on a server is, from the model's skeleton alone: bytes, memory, time there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import LensError, RemoteLensError
from lens_recipes.models.handle import exclusive
from lens_recipes.run.progress import duration
from lens_recipes.run.registry import RECIPES, prepare_run
from lens_recipes.run.remote.batch_cost import batch_memory, batch_tokens
from lens_recipes.run.remote.http.settings import remote_settings
from lens_recipes.run.remote.paper import (
    FITTED,
    bytes_of_paper,
    is_skeleton,
    lens_on_paper,
    model_on_paper,
    transport_bytes,
)
from lens_recipes.run.remote.wire import serialize_job
from lens_recipes.run.remote.work import SOME_GPU, Machine, Work, model_size, work_of
from lens_recipes.run.run import RecipeRun

P = ParamSpec("P")

R = TypeVar("R")

# The share of an array's bytes that zstd leaves once they lie plane by plane (`pack_arrays`),
# fitted so that `benchmarks/remote.py --sizes` agrees.
COMPRESSED_SHARE = {"float32": 0.81, "int32": 0.35, "int64": 0.25, "bool": 0.15, "float64": 0.9}

MESSAGE_COPIES = 3  # of a lens that was sent: packed, unpacked, and as tensors

FRAME_BYTES = 900  # of a job's result beside its arrays


@dataclass(frozen=True)
class RemoteEstimate:
    """What a run would cost on a server.

    Attributes:
        recipe, model: The recipe's name, and the model's.
        jobs, batches: How many jobs are sent, and how many forward passes (or generations) they
            make. No job is sent of what runs here alone, and nothing is up, back or there.
        tokens: How many tokens run through the model, those to be written included.
        bytes_up: How much is sent: the code, the token ids, and with each job the lens, if any.
        bytes_back: How much comes back, compressed; of a generation as if no text ended early.
        server_bytes: Most memory that is taken on the server at once, beside the weights.
        seconds: About how long it takes in this process, which has tried some of it; None where
            that is not known.
        weight_bytes: Of the model's weights.
        work: What each batch computes; None for a recipe of which that is not known.
        not_counted: What takes time in this process beside that work, in words; empty for nothing.
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
    weight_bytes: int = 0
    work: list[Work] | None = None
    not_counted: str = ""

    @property
    def flops(self) -> float | None:
        """Operations of all batches; None where they are not known."""
        return None if self.work is None else sum(each.flops for each in self.work)

    def seconds_on(self, machine: Machine = SOME_GPU) -> float | None:
        """Return about how long it all takes from a machine: its work, and what travels.

        Waiting in a queue, loading the model and what `not_counted` says are not in it. None where
        the work is not known.

        Args:
            machine: What is assumed of it.

        Example:
            >>> said = estimate(logit_lens, transformers.LlamaConfig(), [[1, 2, 3]])
            >>> print(said.seconds_on(Machine(flop_per_s=1e15)))
        """
        at_work = self.seconds_of_work(machine)
        return None if at_work is None else at_work + self.seconds_on_the_way(machine)

    def seconds_of_work(self, machine: Machine = SOME_GPU) -> float | None:
        """Return about how long model and lens are at work; None where that is not known.

        Args:
            machine: What is assumed of it.
        """
        if self.work is None:
            return None
        return sum(each.seconds(machine, self.weight_bytes) for each in self.work)

    def seconds_on_the_way(self, machine: Machine = SOME_GPU) -> float:
        """Return about how long the bytes travel, and what each job takes beside its work.

        Args:
            machine: What is assumed of the line.
        """
        travelling = (self.bytes_up + self.bytes_back) / machine.line_bytes_per_s
        return travelling + self.jobs * machine.seconds_per_job

    def __str__(self) -> str:
        jobs = _counted(self.jobs, "job", "jobs")
        batches = _counted(self.batches, "batch", "batches")
        tokens = _counted(self.tokens, "token", "tokens")
        here = "" if self.seconds is None else f"here about {duration(self.seconds)}"
        if not self.jobs:
            ran = f"{batches}, {tokens}, which run here alone"
            if not here and self.work is not None:
                of_work = _seconds(self.seconds_of_work() or 0)
                here = f"about {of_work} of work{self._without()} at {SOME_GPU}"
            return f"{self.recipe} on {self.model}: {ran}{here and ': ' + here}"
        before = f"{here}; on a server " if here else ""
        return (
            f"{self.recipe} on {self.model}: {before}{jobs} ({batches}, {tokens}), "
            f"{format_bytes(self.bytes_up)} up, about {format_bytes(self.bytes_back)} back, "
            f"at most {format_bytes(self.server_bytes)} of memory there beside the weights"
            f"{self._time_there()}"
        )

    def _time_there(self) -> str:
        """Return how long it takes there, and what that assumes, as a line; empty if unknown."""
        at_work = self.seconds_of_work()
        if at_work is None:
            return ""
        return (
            f"\nabout {_seconds(at_work)} of work there and "
            f"{_seconds(self.seconds_on_the_way())} on the way{self._without()}, with "
            f"{format_bytes(self.weight_bytes)} of weights, at {SOME_GPU}"
        )

    def _without(self) -> str:
        """Return what is not in these times, in words."""
        return f" (without {self.not_counted})" if self.not_counted else ""


def estimate(recipe: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> RemoteEstimate:
    """Estimate what a recipe would send, bring back and need on a server.

    Nothing is sent, and no weights are needed: a config of transformers or a module on the meta
    device serves as the model, too, with prompts as token ids. Of a fit in this process some is
    tried, which says how long it takes. Elsewhere, time follows from what a `Machine` assumes.

    Args:
        recipe: `logit_lens`, `attribution`, `generate_lens`, `decode_vectors`, `patch_map`,
            `fit_lens`, `lens_quality` or `survey` themselves.
        *args, **kwargs: What it takes. For `lens`, "linear", "tuned" and "jacobian" stand for a
            lens of that kind as `fit_lens` gives it, which need not be there yet.

    Raises:
        ValueError, LensError: as the recipe does.

    Example:
        >>> model = load("meta-llama/Llama-3.1-70B", remote=True)
        >>> print(estimate(logit_lens, model, ["one prompt", "and another"]))
    """
    positional, named = list(args), dict(kwargs)
    model = positional[0] if positional else named.get("model")
    on_paper = is_skeleton(model)
    if on_paper:
        model = model_on_paper(model)
        if positional:
            positional[0] = model
        else:
            named["model"] = model
    lens = named.get("lens")
    if isinstance(lens, str) and lens in FITTED and isinstance(model, Envoy):
        named["lens"] = lens_on_paper(lens, model)
    runs_of = getattr(recipe, "runs_of", None)
    if runs_of is None:
        return _estimate_of_one(recipe, positional, named, on_paper)
    parts = []
    for part, arguments in runs_of(*positional, **named):
        parts.append(_estimate_of_one(part, [], arguments, on_paper))
    return _together(parts, recipe.__name__)


def _estimate_of_one(
    recipe: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], on_paper: bool
) -> RemoteEstimate:
    """Estimate a recipe that is one run."""
    run = _prepare(recipe, args, kwargs, on_paper)
    seconds = None
    if not run.remote and run.seconds_here is not None and not on_paper:
        seconds = run.seconds_here()
    if not run.runs_remotely:
        return _of_run(run, [], seconds)
    if not run.remote and run.as_sent is not None:
        run = run.as_sent()
    elif not run.remote:
        # Prepared again as it would be sent: without padding, and with no weight of this process.
        rehearsed: dict[str, Any] = {**kwargs, "remote": "local"}
        run = prepare_run(recipe, *args, **rehearsed)
    return _of_run(run, split_into_jobs(run), seconds)


def _prepare(
    recipe: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], on_paper: bool
) -> RecipeRun[Any]:
    """Return the run of a recipe; of a model on paper as it would be sent, if it can be."""
    if not on_paper:
        return prepare_run(recipe, *args, **kwargs)
    try:
        return prepare_run(recipe, *args, **{**kwargs, "remote": "local"})
    except LensError:
        # Perhaps no server runs it, such as what takes gradients.
        return prepare_run(recipe, *args, **{**kwargs, "remote": False})


def _of_run(run: RecipeRun[Any], jobs: list[range], seconds: float | None) -> RemoteEstimate:
    """Return the estimate of a run that is sent in these jobs, or of one that runs here alone."""
    bytes_up = 0
    if jobs:
        with exclusive(run.model):
            bytes_up = sum(len(serialize_job(run, batches)) for batches in jobs)
        bytes_up += len(jobs) * bytes_of_paper(run)
    return RemoteEstimate(
        recipe=run.recipe,
        model=name_in_estimate(run.model),
        jobs=len(jobs),
        batches=len(run.batches),
        tokens=sum(batch_tokens(run, batch) for batch in run.batches),
        bytes_up=bytes_up,
        bytes_back=bytes_back(run, len(jobs)) if jobs else 0,
        server_bytes=server_bytes(run) if jobs else 0,
        seconds=seconds,
        weight_bytes=model_size(run).weight_bytes,
        work=work_of(run),
        not_counted=run.not_counted,
    )


def _together(parts: list[RemoteEstimate], recipe: str) -> RemoteEstimate:
    """Return the estimate of what is made of several runs, one after another.

    Raises:
        LensError: there is none.
    """
    if not parts:
        raise LensError(f"nothing is left of what {recipe} would run, so there is no estimate.")
    work = None
    if all(part.work is not None for part in parts):
        work = [each for part in parts for each in part.work or []]
    return replace(
        parts[0],
        recipe=recipe,
        jobs=sum(part.jobs for part in parts),
        batches=sum(part.batches for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_back=sum(part.bytes_back for part in parts),
        server_bytes=max(part.server_bytes for part in parts),
        work=work,
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
    return largest + MESSAGE_COPIES * transport_bytes(run)


def format_bytes(n_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it, for a person."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= 0.9995 * size:  # what would be rounded to 1000 of the unit below
            decimals = 0 if n_bytes >= 99.95 * size else 1
            return f"{n_bytes / size:.{decimals}f} {unit}"
    return _counted(n_bytes, "byte", "bytes")


def _seconds(seconds: float) -> str:
    """Return a time for a person, of a short one its tenths, too."""
    return f"{max(0.1, seconds):.1f} s" if seconds < 10 else duration(seconds)


def _counted(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun."""
    return f"{number} {singular if number == 1 else plural}"
