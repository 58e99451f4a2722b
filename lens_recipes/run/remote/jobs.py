"""A run on a server as jobs that outlive this process: sent once, asked for by their ids, kept in a file."""

from __future__ import annotations

import base64
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from nnsight.intervention.backends.remote import RemoteError
from nnsight.intervention.envoy import Envoy
from nnsight.schema.response import ResponseModel, Status
from tqdm import tqdm

from lens_recipes.errors import LensError, RemoteLensError
from lens_recipes.models.handle import exclusive, resolve_remote
from lens_recipes.models.load import load
from lens_recipes.run.registry import RECIPES, prepare_run
from lens_recipes.run.remote.estimate import check_limits, split_into_jobs
from lens_recipes.run.remote.faults import diagnose, key_line
from lens_recipes.run.remote.job_file import (
    append_event,
    fingerprint,
    job_header,
    plain_errors,
    read_job,
    restore_arguments,
)
from lens_recipes.run.remote.server import Server
from lens_recipes.run.remote.settings import address, api_key, remote_settings
from lens_recipes.run.remote.wire import decode_result, model_key, remote_env, serialize_job
from lens_recipes.run.run import RecipeRun
from lens_recipes.views.files import atomic_file

R = TypeVar("R")

UNKNOWN_S = 120.0  # how long a server may know nothing of a job that it accepted


class JobStatus(NamedTuple):
    """How far the jobs of a run are.

    Attributes:
        state: "not sent", "sending", "queued", "running", "done" or "failed".
        said: What the server says of the one that failed or is next, its place in the queue for one.
        done, total: Jobs that have ended well, and all of them.
    """

    state: str
    said: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.state}, {self.done} of {self.total} jobs done" + (
            f": {self.said}" if self.said else ""
        )


class _Part:
    """Some batches that are sent as one job.

    Attributes:
        state: "not sent", "sending" (and whether it was accepted is not known), "queued", "running", "failed",
            "finished" (its result is there to be fetched) or "done" (and has been).
        id: By which the server knows it, once it has accepted it.
        seen_at: When the server last knew of it.
        blob: What came back. `cost` is what the server says that it took.
    """

    def __init__(self, batches: range) -> None:
        self.batches = batches
        self.state = "not sent"
        self.id: str | None = None
        self.seen_at = 0.0
        self.bytes_up = 0
        self.blob: bytes | None = None
        self.cost: dict[str, Any] = {}
        self.said = ""


class Job(Generic[R]):
    """A recipe that runs on a server, whether or not this process waits for it.

    Made by `submit`, or read by `Job.load`. `result()` may be called again after any error: it goes on where it was.
    """

    def __init__(self, run: RecipeRun[R], parts: list[range] | None = None) -> None:
        """A run that is to be sent, or whose `parts` were cut before, and may be sent already."""
        self._run, self._server = run, Server(run.remote)
        self._path: Path | None = None
        self._result: R | None = None
        self._parts = [_Part(batches) for batches in parts or split_into_jobs(run)]
        if parts is None:
            check_limits(run, len(self._parts))
        elif [*itertools.chain(*parts)] != [*range(len(run.batches))]:
            raise ValueError(f"its parts {parts} are not those of {len(run.batches)} batches")

    def __repr__(self) -> str:
        ids = [part.id for part in self._parts if part.id]
        return f"Job({self._run.recipe} on {self._server.host}, {len(self._parts)} jobs, ids {ids})"

    # -- what a user calls ---------------------------------------------

    def send(self, *, again: bool = False) -> Job[R]:
        """Send what has not been sent, or has failed.

        Args:
            again: Also send what the server may have accepted without this process knowing.

        Raises:
            RemoteLensError: the server cannot be reached or refuses; what was accepted before stays accepted.
        """
        for number, part in enumerate(self._parts):
            if part.state == "sending" and not again:
                raise RemoteLensError(
                    f"part {number} was being sent when the connection or the process ended, and the server may have "
                    "accepted it without this process knowing.",
                    "job.send(again=True) sends it all the same.",
                    may_finish=True,
                    job=self,
                )
            if part.state in ("not sent", "sending"):
                with exclusive(self._run.model):
                    blob = serialize_job(self._run, part.batches)
                self._post(number, part, blob)
        return self

    def _post(self, number: int, part: _Part, blob: bytes) -> None:
        """Send one part; that it is being sent is on the disk before."""
        self._note({"part": number, "sending": len(blob)})
        part.state, part.bytes_up = "sending", len(blob)
        try:
            part.id = self._server.submit(
                model_key(self._run.model), remote_env(self._run.model), blob
            )
        except RemoteLensError as error:
            error.job = self
            if not error.may_finish:
                part.state = "not sent"
                self._note({"part": number, "failed": "refused"})
            raise
        part.seen_at, part.state = time.monotonic(), "queued"
        self._note({"part": number, "id": part.id, "bytes_up": part.bytes_up})

    def status(self) -> JobStatus:
        """Ask how far it is; fetches nothing.

        Raises:
            RemoteLensError: the server cannot be reached.
        """
        for part in self._parts:
            if part.state in ("queued", "running"):
                self._hear(part, self._server.state(str(part.id)))
        return self._status()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the result, and return what the recipe returns.

        Args:
            timeout: Seconds to wait; None for `remote_settings.timeout_s`.

        Raises:
            RemoteLensError: a job failed, the server cannot be reached, or the time is over. Its `job` is this one, as
                is that of a LensError (a certificate that failed) and of KeyboardInterrupt.
        """
        until = timeout if timeout is not None else remote_settings.timeout_s
        deadline = None if until is None else time.monotonic() + until
        self._server.deadline = deadline
        try:
            self.send()
            bar = tqdm(total=len(self._parts), desc=f"{self._run.recipe} on {self._server.host}", unit="job", delay=2,
                       leave=False)  # fmt: skip
            with bar:
                for number, part in enumerate(self._parts):
                    if part.blob is None:
                        part.blob = self._wait(part, deadline, bar)
                        self._note(_arrival(number, part))
                    bar.update()
            return self._finish()
        except (LensError, KeyboardInterrupt) as error:
            error.job = self  # type: ignore[union-attr]
            raise
        finally:
            self._server.deadline = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep this job in a file, and what happens to it from now on. The file holds no key.

        It holds the prompts and all results that have arrived. A recipe's own limits (`remote_settings`) are not kept.
        """
        try:
            header = json.dumps(
                job_header(self._run, self._server.host, [part.batches for part in self._parts])
            )
        except TypeError as error:  # the keys of a dict, for one
            raise LensError(
                f"this run cannot be kept in a file, which holds JSON: {error}."
            ) from error
        lines: list[dict[str, Any]] = []
        for number, part in enumerate(self._parts):
            if part.id is not None:
                lines.append({"part": number, "id": part.id, "bytes_up": part.bytes_up})
            elif part.state == "sending":
                lines.append({"part": number, "sending": part.bytes_up})
            if part.blob is not None:
                lines.append(_arrival(number, part))
        with atomic_file(path) as scratch:
            scratch.write_text("\n".join([header, *map(json.dumps, lines), ""]), encoding="utf-8")
        self._path = Path(path).absolute()

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Envoy | None = None) -> Job[Any]:
        """A job from its file, in any process; it goes on with `result()`.

        Args:
            path: What `save` or `submit(..., path=…)` wrote.
            model: The model it is about; None to build it again from its hub id, without weights.

        Raises:
            LensError: no such file, not a job, of another model or another version of this package, or on a server
                that this user has not named (in NDIF_HOST, nnsight's configuration or `model`) and that wants a key.
        """
        with plain_errors(path):
            header, events = read_job(Path(path))
            host = str(header["host"])
        if (
            api_key()
            and host.lower().startswith("https:")
            and host not in (address(True), _default(model))
        ):
            raise LensError(
                f"{str(path)!r} says that its job is on {host}, a server that you have not named, and your NDIF key "
                f"would be sent there. If it is yours: Job.load(path, load({header['model']!r}, remote={host!r}))."
            )
        if model is None:
            model = load(
                header["model"],
                remote=host,
                **({"revision": r} if (r := header["revision"]) else {}),
            )
        try:
            prepare = RECIPES[header["recipe"]].prepare  # known: `read_job` has seen to it
            run = prepare(model, **restore_arguments(header["arguments"]), remote=host)
        except (TypeError, ValueError) as error:
            raise LensError(
                f"{str(path)!r} is a job of {header['model']} with {header['versions']}, and what it asks for is not "
                f"possible with this model and version of this package: {error}"
            ) from error
        if fingerprint(run) != header["fingerprint"]:
            raise LensError(
                f"{str(path)!r} is a job of another model, tokenizer or version of this package, or of an adapter "
                f"({header['model']}, {header['versions']}): its results would not belong to what is asked here. Pass "
                "the model as it was loaded then, Job.load(path, model), or run the recipe anew."
            )
        with plain_errors(path):
            job = cls(run, [range(*bounds) for bounds in header["parts"]])
            job._replay(events)
        job.save(path)  # without what a crash may have left of a last line
        return job

    def _replay(self, events: list[dict[str, Any]]) -> None:
        """What a file says has happened."""
        for event in events:
            part = self._parts[event["part"]]
            if "id" in event:
                part.id, part.bytes_up, part.state = event["id"], event["bytes_up"], "queued"
                part.seen_at = time.monotonic()
            elif "arrived" in event:
                part.blob, part.cost, part.state = (
                    base64.b64decode(event["arrived"]),
                    event["cost"],
                    "done",
                )
            elif "sending" in event:
                part.state = "sending"
            else:
                part.id, part.state = None, "not sent"

    def _note(self, event: dict[str, Any]) -> None:
        """One more line, on the disk before anything else happens."""
        if self._path is not None:
            if not (
                self._path.is_file() and self._path.stat().st_size
            ):  # it was cleared away meanwhile
                self.save(self._path)
            append_event(self._path, event)

    # -- waiting -------------------------------------------------------

    def _wait(self, part: _Part, deadline: float | None, bar: tqdm[Any]) -> bytes:
        pause = 0.02
        while True:
            response = self._server.state(str(part.id))
            self._hear(part, response)
            if part.state == "failed":
                self._fail(part)
            if response is not None and response.status is Status.COMPLETED:
                blob = self._server.fetch(response.data, self._most(part))
                if blob is None:
                    self._forgotten(
                        part, f"{self._server.host} keeps the result of a finished job no longer."
                    )
                self._open(part, blob)  # before it is kept: what is broken is fetched again
                part.state = "done"
                return blob
            bar.set_postfix_str(self._status().said[:60], refresh=False)
            bar.update(0)
            now = time.monotonic()
            if response is None and now - part.seen_at > UNKNOWN_S:
                self._forgotten(
                    part,
                    f"{self._server.host} accepted a job and has known nothing of it for {now - part.seen_at:.0f} s: "
                    "it was started anew, or its results are kept no longer.",
                )
            if deadline is not None and now > deadline:
                raise RemoteLensError(
                    f"not finished in the time that was given; {self._status()}.",
                    "job.result() waits again, and job.save(path) keeps it for another process.",
                    may_finish=True,
                )
            time.sleep(min(pause, max(0.0, (deadline or now + pause) - now)))
            pause = min(remote_settings.poll_s, pause * 1.5)

    def _hear(self, part: _Part, response: ResponseModel | None) -> None:
        """Note what the server said of a part."""
        if response is None:
            return
        part.seen_at = time.monotonic()
        part.said = " ".join(response.description.split())
        part.cost = {
            name: n for name, n in (response.meta or {}).items() if isinstance(n, int | float)
        }
        states = {Status.COMPLETED: "finished", Status.ERROR: "failed", Status.RUNNING: "running"}
        part.state = states.get(response.status, "queued")
        if response.status is Status.ERROR:
            part.said = response.description

    def _forgotten(self, part: _Part, happened: str) -> NoReturn:
        """Say that a job is lost; it may be sent again."""
        part.id, part.state = None, "not sent"
        self._note({"part": self._parts.index(part), "failed": "unknown"})
        raise RemoteLensError(happened, "job.result() sends this part again.")

    def _fail(self, part: _Part) -> None:
        """Say what a failed job means; it may be sent again."""
        said, part.id = part.said, None
        self._note({"part": self._parts.index(part), "failed": said[-2000:]})
        part.state = "not sent"
        raise diagnose(said, self._run.model.repo_id) from RemoteError(said)

    def _status(self) -> JobStatus:
        open_ones = [part for part in self._parts if part.state not in ("finished", "done")]
        done = len(self._parts) - len(open_ones)
        if not open_ones:
            return JobStatus("done", "", done, len(self._parts))
        next_one = min(open_ones, key=lambda part: part.state != "failed")
        return JobStatus(next_one.state, key_line(next_one.said), done, len(self._parts))

    # -- the numbers ---------------------------------------------------

    def _open(self, part: _Part, blob: bytes) -> list[Any]:
        schemas = [self._run.schemas[n] for n in part.batches]
        return decode_result(
            blob, schemas, [self._run.marks[n] for n in part.batches], self._most(part)
        )

    def _most(self, part: _Part) -> int:
        """Bytes that a part's result cannot exceed, packed or unpacked."""
        sizes = (self._run.schemas[n].nbytes(most=True) for n in part.batches)
        return sum(sum(size.values()) + 16384 for size in sizes) + 2**20

    def _finish(self) -> R:
        if self._result is not None:
            return self._result
        result = self._run.finish(list(itertools.chain.from_iterable(map(self._kept, self._parts))))
        result.provenance["jobs"] = {  # type: ignore[attr-defined]
            "host": self._server.host,
            "jobs": len(self._parts),
            "bytes_up": sum(part.bytes_up for part in self._parts),
            "bytes_back": sum(len(part.blob or b"") for part in self._parts),
            "server_seconds": sum(part.cost.get("runtime") or 0.0 for part in self._parts),
            "server_bytes": max(part.cost.get("max_memory_usage") or 0 for part in self._parts),
        }
        self._result = result
        return result

    def _kept(self, part: _Part) -> list[Any]:
        """What has arrived of a part; what a file has spoilt is fetched anew."""
        try:
            return self._open(part, part.blob or b"")
        except RemoteLensError:
            part.blob, part.state = None, "queued" if part.id else "not sent"
            raise


def submit(
    recipe: Callable[..., R], *args: Any, path: str | os.PathLike[str] | None = None, **kwargs: Any
) -> Job[R]:
    """Send a recipe to a server and go on; the job is asked for later, from here or from another process.

    Args:
        recipe: `logit_lens`, `attribution`, `generate_lens` or `decode_vectors`.
        *args, **kwargs: What the recipe takes; with `remote=` here or in `load`.
        path: Keep the job in this file from the first moment on.

    Raises:
        ValueError, LensError: as the recipe does.
        RemoteLensError: the server cannot be reached or refuses; what it had accepted is in the error's `job`.

    Example:
        >>> job = submit(logit_lens, load("meta-llama/Llama-3.1-70B", remote=True), "The capital of France is")
        >>> job.save("capital.job")  # and any time later, anywhere: Job.load("capital.job").result()
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


def _default(model: Envoy | None) -> bool | str:
    """The server that a model was loaded for."""
    return False if model is None else resolve_remote(model, None)


def _arrival(number: int, part: _Part) -> dict[str, Any]:
    """The line of a result."""
    return {
        "part": number,
        "arrived": base64.b64encode(part.blob or b"").decode(),
        "cost": part.cost,
    }
