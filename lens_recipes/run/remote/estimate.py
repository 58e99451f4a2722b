"""How large a run is on a server, from the model's skeleton alone: jobs, bytes up, bytes back, memory there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from lens_recipes.errors import RemoteLensError
from lens_recipes.models.handle import dtype_of, exclusive, text_config
from lens_recipes.run.remote.settings import remote_settings
from lens_recipes.run.remote.wire import serialize_job
from lens_recipes.run.run import RecipeRun, prepare_run
from lens_recipes.trace.batch import BatchSize
from lens_recipes.trace.lens_head import LOGITS_AT_ONCE

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


_NARROW = {
    "logit_lens": "Narrow positions (−1 is cheap), layers, components, top_k or track, pass fewer prompts at once",
    "attribution": "Narrow positions, targets or unit, pass fewer prompts at once",
    "generate_lens": "Narrow max_new_tokens, layers, components, top_k or track, pass fewer prompts at once",
    "decode_vectors": "Pass fewer vectors at once, or a smaller top_k",
}


def check_limits(run: RecipeRun[Any], jobs: int) -> None:
    """Refuse what is larger than `remote_settings` allow, before it is sent.

    Raises:
        RemoteLensError: with what to narrow.
    """
    narrow = f"{_NARROW[run.recipe]}, or raise"
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


def tokens_of(run: RecipeRun[Any], batch: Any) -> int:
    """Return how many tokens of a batch run through the model, those to be written included."""
    size = run.plan.batch_size(batch)
    return size.rows * (size.columns + size.new_tokens)


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


def _memory(run: RecipeRun[Any], batch: Any, arrays: int) -> int:
    """Return the bytes that one batch takes: the model's own forward pass, what is read of it, and the logits."""
    anatomy, item = run.anatomy, dtype_of(run.model).itemsize
    size = run.plan.batch_size(batch)
    if not size.vectors:  # vectors of the caller's own: nothing is read of a run
        return size.tokens * anatomy.d_model * 4 + _logit_bytes(run, size.logit_rows) + arrays
    # Of each token and dimension: what is read, and the four float32 sums that are compared with it.
    read = size.tokens * anatomy.d_model * (size.vectors * item + 4 * 4)
    return _forward(run, size, item) + read + _logit_bytes(run, size.logit_rows) + 2 * arrays


def _forward(run: RecipeRun[Any], size: BatchSize, item: int) -> int:
    """Return the bytes of a forward pass, or of a generation with its cache, logits and scores."""
    anatomy, config = run.anatomy, text_config(run.model)
    logits = size.rows * size.logits_per_row * anatomy.vocab_size * (item + 4)
    inner_width = getattr(config, "intermediate_size", None) or 4 * anatomy.d_model
    activations = size.rows * size.columns * (8 * anatomy.d_model + 3 * inner_width) * item
    if not size.new_tokens:
        return activations + logits
    n_heads = getattr(config, "num_attention_heads", None) or 1
    n_key_heads = getattr(config, "num_key_value_heads", None) or n_heads
    cache_width = round(anatomy.d_model * n_key_heads / n_heads)
    cached_tokens = size.rows * (size.columns + size.new_tokens)
    cache = 2 * anatomy.n_layers * cached_tokens * cache_width * item
    scores = 0
    if size.keeps_scores:
        scores = size.rows * size.new_tokens * anatomy.vocab_size * 4
    return activations + logits + cache + scores


def _logit_bytes(run: RecipeRun[Any], rows: int) -> int:
    """Return the bytes of the logits of some rows, with what is made beside them, under the run's own bound."""
    one_row = run.anatomy.vocab_size * 4 * LOGITS_AT_ONCE
    return max(one_row, min(run.plan.max_bytes, rows * one_row))


def format_bytes(n: int) -> str:
    """Bytes for a person."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= 0.9995 * scale:  # what would be rounded to 1000 of the unit below
            return f"{n / scale:.{0 if n >= 99.95 * scale else 1}f} {unit}"
    return _count(n, "byte")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('ch') else 's'}"
