"""A run on a server that outlives this process: sent once, asked for by its ids, kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from nnsight.intervention.envoy import Envoy
from tqdm import tqdm

from lens_recipes.caller import RUN_AGAIN, say
from lens_recipes.errors import LensError, RemoteLensError
from lens_recipes.models.handle import exclusive
from lens_recipes.run.progress import is_piped
from lens_recipes.run.registry import prepare_run
from lens_recipes.run.remote.estimate import check_limits, split_into_jobs
from lens_recipes.run.remote.http.settings import remote_settings
from lens_recipes.run.remote.jobs.chunks import ChunkState, JobChunk, JobStatus, status_of
from lens_recipes.run.remote.jobs.events import Event, Failed, Sending
from lens_recipes.run.remote.jobs.file import (
    append_event,
    fingerprint,
    job_header,
    lock_of,
    plain_errors,
    read_job,
)
from lens_recipes.run.remote.jobs.restore import restore_run
from lens_recipes.run.remote.jobs.waiting import Deadline, ResultWaiter
from lens_recipes.run.remote.server import Server
from lens_recipes.run.remote.wire import model_key, remote_env, serialize_job
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.views.files import write_text

R = TypeVar("R")

SHOW_BAR_AFTER_S = 2


class Job(Generic[R]):
    """A recipe that runs on a server, whether or not this process waits for it.

    Made by `submit`, or read by `Job.load`. `result()` may be called again after any error: it goes
    on where it was.
    """

    def __init__(
        self,
        run: RecipeRun[R],
        chunks: list[range] | None = None,
        *,
        host_is_named: bool = True,
    ) -> None:
        """Make the job of a run.

        Args:
            run: What is to be sent.
            chunks: The batches of each chunk where a file says them, and they may be sent already;
                None for a run that is new.
            host_is_named: Whether the user has named its server, and not only a file: no other gets
                the user's key, also one that is set later.

        Raises:
            RemoteLensError: a new run is larger than `remote_settings` allow.
            ValueError: the chunks are not those of this run.
        """
        self._run = run
        self._server = Server(run.remote, is_named=host_is_named)
        self._path: Path | None = None
        self._result: R | None = None
        if chunks is None:
            chunks = split_into_jobs(run)
            check_limits(run, len(chunks))
        n_batches = 0
        if chunks:
            # The chunks of a file follow on each other: `read_job` has checked that.
            n_batches = chunks[-1].stop
        if n_batches != len(run.batches):
            raise ValueError(f"its parts {chunks} are not those of {len(run.batches)} batches")
        self._chunks = [JobChunk(run, number, chunk) for number, chunk in enumerate(chunks)]

    def __repr__(self) -> str:
        job_ids = [chunk.id for chunk in self._chunks if chunk.id]
        place = f"{self._run.recipe} on {self._server.host}"
        return f"Job({place}, {len(self._chunks)} jobs, ids {job_ids})"

    # -- on the server -------------------------------------------------

    def send(self, *, again: bool = False) -> Job[R]:
        """Send what has not been sent, or has failed.

        What another process has sent of the same file is not sent again.

        Args:
            again: Also send what the server may have accepted without this process knowing.

        Raises:
            RemoteLensError: the server cannot be reached or refuses; what was accepted before stays
                accepted.
        """
        with lock_of(self._path):
            self._catch_up()
            self._send_chunks(again)
        return self

    def _catch_up(self) -> None:
        """Learn from the file what another process has sent of this run.

        Raises:
            LensError: the file has been damaged.
        """
        if self._path is None or not _has_content(self._path):
            return
        with plain_errors(self._path):
            header, events = read_job(self._path)
            if header.fingerprint != fingerprint(self._run):
                return  # another job was saved there
            for chunk in self._chunks:
                if chunk.state not in (ChunkState.NOT_SENT, ChunkState.SENDING):
                    continue
                for event in events:
                    if event.chunk == chunk.number:
                        chunk.replay(event)

    def _send_chunks(self, again: bool) -> None:
        """Send what has not been sent; see `send`."""
        for chunk in self._chunks:
            if chunk.state is ChunkState.SENDING and not again:
                raise RemoteLensError(
                    f"part {chunk.number} was being sent when the connection or the process ended, "
                    "and the server may have accepted it without this process knowing.",
                    say(python="job.send(again=True) sends it all the same.", shell=RUN_AGAIN),
                    may_finish=True,
                    job=self,
                )
            if chunk.state in (ChunkState.NOT_SENT, ChunkState.SENDING):
                self._send_chunk(chunk)

    def _send_chunk(self, chunk: JobChunk) -> None:
        """Send one chunk. That it is being sent is in the file before."""
        model = self._run.model
        with exclusive(model):
            request_blob = serialize_job(self._run, chunk.batches)
        self._note(Sending(chunk.number, len(request_blob)))
        chunk.begin_sending(len(request_blob))
        try:
            job_id = self._server.submit(model_key(model), remote_env(model), request_blob)
        except RemoteLensError as error:
            error.job = self
            if not error.may_finish:
                chunk.reset()
                self._note(Failed(chunk.number, "refused"))
            raise
        chunk.accept(job_id)
        self._note(chunk.acceptance())

    def status(self) -> JobStatus:
        """Ask how far it is; fetches nothing.

        Raises:
            RemoteLensError: the server cannot be reached.
        """
        for chunk in self._chunks:
            if chunk.state in (ChunkState.QUEUED, ChunkState.RUNNING):
                chunk.hear(self._server.state(str(chunk.id)))
        return self._status()

    def _status(self) -> JobStatus:
        """Return how far it was when the server was last asked."""
        return status_of(self._chunks)

    def result(self, timeout: float | None = None) -> R:
        """Wait for the result, and return what the recipe returns.

        Args:
            timeout: Seconds to wait; None for `remote_settings.timeout_s`.

        Raises:
            RemoteLensError: a job failed, the server cannot be reached, or the time is over. The
                error's `job` is this one, as it is for a LensError (a certificate that failed) and
                for KeyboardInterrupt.
        """
        if timeout is None:
            timeout = remote_settings.timeout_s
        deadline = Deadline.after(timeout)
        self._server.deadline = deadline.moment
        try:
            self.send()
            self._wait(deadline)
            return self._finish()
        except (LensError, KeyboardInterrupt) as error:
            error.job = self  # type: ignore[union-attr]
            raise
        finally:
            self._server.deadline = None

    def _wait(self, deadline: Deadline) -> None:
        """Wait until all results have arrived, with a progress bar if that takes long."""
        bar = tqdm(
            total=len(self._chunks),
            desc=f"{self._run.recipe} on {self._server.host}",
            unit="job",
            delay=SHOW_BAR_AFTER_S,
            leave=False,
            disable=is_piped(),
        )
        waiter = ResultWaiter(
            server=self._server,
            model_id=self._run.model.repo_id,
            deadline=deadline,
            status=self._status,
            note=self._note,
            bar=bar,
        )
        with bar:
            for chunk in self._chunks:
                if chunk.result_blob is None:
                    waiter.wait(chunk)
                bar.update()

    def _finish(self) -> R:
        """Return the recipe's result, made of all that has arrived."""
        if self._result is None:
            arrays: list[Arrays] = []
            for chunk in self._chunks:
                arrays.extend(chunk.arrays())
            result = self._run.finish(self._run, arrays)
            provenance = getattr(result, "provenance", None)
            if provenance is not None:  # of a lens, say, there is none
                provenance["jobs"] = self._record()
            self._result = result
        return self._result

    def _record(self) -> dict[str, Any]:
        """Return what the run has cost, for the provenance of its result."""
        chunks = self._chunks
        return {
            "host": self._server.host,
            "jobs": len(chunks),
            "bytes_up": sum(chunk.bytes_up for chunk in chunks),
            "bytes_back": sum(len(chunk.result_blob or b"") for chunk in chunks),
            "server_seconds": sum(chunk.cost.get("runtime") or 0.0 for chunk in chunks),
            "server_bytes": max(chunk.cost.get("max_memory_usage") or 0 for chunk in chunks),
        }

    # -- in a file -----------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep this job in a file, and what happens to it from now on. The file holds no key.

        It holds the prompts and all results that have arrived. A recipe's own limits
        (`remote_settings`) are not kept.
        """
        batches = [chunk.batches for chunk in self._chunks]
        try:
            header = job_header(self._run, self._server.host, batches)
            lines = [json.dumps(header.to_json())]
        except TypeError as error:  # of the keys of a dict, for one
            raise LensError(
                f"this run cannot be kept in a file, which holds JSON: {error}."
            ) from error
        for chunk in self._chunks:
            for event in chunk.events():
                lines.append(json.dumps(event.to_json()))
        path = Path(path).absolute()
        with lock_of(path):
            write_text(path, "\n".join([*lines, ""]))
        self._path = path

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Envoy | None = None, *, images: Any = None
    ) -> Job[Any]:
        """Read a job from its file, in any process; it goes on with `result()`.

        Args:
            path: What `save` or `submit(..., path=…)` wrote.
            model: The model it is about; None to build it again from its hub id, without weights.
            images: Those of its prompts, in the forms of `logit_lens`, if it is of prompts with
                images: their pixels are not in the file.

        Raises:
            LensError: no such file, not a job, of another model or another version of this package,
                or on a server that this user has not named (in NDIF_HOST, nnsight's configuration
                or `model`) and that wants a key.
        """
        with plain_errors(path):
            header, _ = read_job(path)
        run, host_is_named = restore_run(path, header, model, images)
        # Read again: another process may go on with it meanwhile.
        with lock_of(Path(path).absolute()):
            with plain_errors(path):
                header, events = read_job(path)
                chunks = [range(*bounds) for bounds in header.chunks]
                job = cls(run, chunks, host_is_named=host_is_named)
                for event in events:
                    job._chunks[event.chunk].replay(event)
            job.save(path)  # without what a crash may have left of a last line
        return job

    def _note(self, event: Event) -> None:
        """Append an event to the job's file, if it has one, before anything else happens."""
        if self._path is None:
            return
        with lock_of(self._path):
            if not _has_content(self._path):  # it was cleared away
                self.save(self._path)
            append_event(self._path, event)


def _has_content(path: Path) -> bool:
    """Return whether there is a file that is not empty."""
    return path.is_file() and path.stat().st_size > 0


def submit(
    recipe: Callable[..., R], *args: Any, path: str | os.PathLike[str] | None = None, **kwargs: Any
) -> Job[R]:
    """Send a recipe to a server and go on; the job is asked for later, from here or elsewhere.

    Args:
        recipe: `logit_lens`, `attribution`, `generate_lens` or `decode_vectors`.
        *args, **kwargs: What the recipe takes; with `remote=` here or in `load`.
        path: Keep the job in this file from the first moment on.

    Raises:
        ValueError, LensError: as the recipe does.
        RemoteLensError: the server cannot be reached or refuses; what it had accepted is in the
            error's `job`.

    Example:
        >>> model = load("meta-llama/Llama-3.1-70B", remote=True)
        >>> job = submit(logit_lens, model, "The capital of France is")
        >>> job.save("capital.job")  # any time later, anywhere: Job.load("capital.job").result()
    """
    run = prepare_run(recipe, *args, **kwargs)
    if run.remote in (False, "local"):
        raise ValueError(
            "there is no server to submit to: pass remote=True or an address, here or in load()."
        )
    job = Job(run)
    if path is not None:
        job.save(path)
    return job.send()
