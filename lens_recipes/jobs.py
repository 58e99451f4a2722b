"""A run on a server as jobs that outlive this process: sent once, asked for by their ids, kept in a file.

The file is JSON lines: what the run is, and then each thing that happened to it (a job was accepted, a result arrived)
as one more line. So what a crash leaves is whole up to its last line, and another process goes on from there.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from nnsight.intervention.backends.remote import RemoteError
from nnsight.intervention.envoy import Envoy
from nnsight.schema.response import ResponseModel, Status
from tqdm import tqdm

from ._estimate import check_limits, cut_jobs
from .errors import LensError, RemoteLensError
from .files import written
from .models import exclusive, load, resolve_remote
from .ndif import Server, address, api_key, remote_settings
from .provenance import plain, versions
from .remote import OWN, fingerprint, model_key, opened, parcel
from .run import Run, prepared

R = TypeVar("R")
FORMAT, VERSION = "lens-recipes/job", 1
RECIPES = ("logit_lens", "attribution", "generate_lens", "decode_vectors")
UNKNOWN_S = 30.0  # how long a server may know nothing of a job that it accepted


class JobStatus(NamedTuple):
    """How far the jobs of a run are.

    Attributes:
        state: "not sent", "queued", "running", "done" or "failed".
        said: What the server says of the one that failed or is next, its place in the queue for one.
        done, total: Jobs that have ended well, and all of them.
    """

    state: str
    said: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.state}, {self.done} of {self.total} jobs done" + (f": {self.said}" if self.said else "")


class _Part:
    """Some batches that are sent as one job."""

    def __init__(self, batches: range) -> None:
        self.batches = batches
        self.id: str | None = None
        self.sent_at = 0.0
        self.bytes_up = 0
        self.blob: bytes | None = None  # what came back
        self.cost: dict[str, Any] = {}  # what the server says that it took
        self.said = ""
        self.state = "not sent"


class Job(Generic[R]):
    """A recipe that runs on a server, whether or not this process waits for it.

    Made by `submit`, or read by `Job.load`. `result()` may be called again after any error: it goes on where it was.
    """

    def __init__(self, run: Run[R]) -> None:
        self._run, self._server = run, Server(run.remote)
        self._path: Path | None = None
        self._result: R | None = None
        self._parts = [_Part(batches) for batches in cut_jobs(run)]
        check_limits(run, len(self._parts))

    def __repr__(self) -> str:
        ids = [part.id for part in self._parts if part.id]
        return f"Job({self._run.recipe} on {self._server.host}, {len(self._parts)} jobs, ids {ids})"

    # -- what a user calls -----------------------------------------------------------------------------------

    def send(self) -> Job[R]:
        """Send what has not been sent, or has failed.

        Raises:
            RemoteLensError: the server cannot be reached or refuses; what was accepted before stays accepted.
        """
        for number, part in enumerate(self._parts):
            if part.id is None and part.blob is None:
                with exclusive(self._run.model):
                    blob = parcel(self._run, [self._run.batches[n] for n in part.batches])
                key, env = model_key(self._run.model), self._run.model._remoteable_get_env()
                try:
                    part.id = self._server.submit(key, env, blob)
                except RemoteLensError as error:
                    error.job = self
                    raise
                part.bytes_up, part.sent_at, part.state = len(blob), time.monotonic(), "queued"
                self._note({"part": number, "id": part.id, "bytes_up": part.bytes_up})
        return self

    def status(self) -> JobStatus:
        """Ask how far it is; fetches nothing.

        Raises:
            RemoteLensError: the server cannot be reached.
        """
        for part in self._parts:
            if part.id is not None and part.blob is None and part.state not in ("failed", "finished"):
                self._hear(part, self._server.state(part.id))
        return self._status()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the result, and return what the recipe returns.

        Args:
            timeout: Seconds to wait; None for `remote_settings.timeout_s`.

        Raises:
            RemoteLensError: a job failed, the server cannot be reached, or the time is over. Its `job` is this one.
        """
        until = timeout if timeout is not None else remote_settings.timeout_s
        deadline = None if until is None else time.monotonic() + until
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
        except RemoteLensError as error:
            error.job = self
            raise

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep this job in a file, and what happens to it from now on. The file holds no key.

        It holds the prompts and all results that have arrived. A recipe's own limits (`remote_settings`) are not kept.
        """
        try:
            header = json.dumps(self._header())
        except TypeError as error:  # the keys of a dict, for one
            raise LensError(f"this run cannot be kept in a file, which holds JSON: {error}.") from error
        lines: list[dict[str, Any]] = []
        for number, part in enumerate(self._parts):
            if part.id is not None:
                lines.append({"part": number, "id": part.id, "bytes_up": part.bytes_up})
            if part.blob is not None:
                lines.append(_arrival(number, part))
        with written(path) as scratch:
            scratch.write_text("\n".join([header, *map(json.dumps, lines), ""]), encoding="utf-8")
        self._path = Path(path)

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
        with _whole(path):
            header, events = _read(Path(path))
            return cls._rebuilt(path, header, events, model)

    @classmethod
    def _rebuilt(
        cls, path: str | os.PathLike[str], header: dict[str, Any], events: list[dict[str, Any]], model: Envoy | None
    ) -> Job[Any]:
        host = str(header["host"])
        if api_key() and host.lower().startswith("https:") and host not in (address(True), _default(model)):
            raise LensError(
                f"{str(path)!r} says that its job is on {host}, a server that you have not named, and your NDIF key "
                f"would be sent there. If it is yours: Job.load(path, load({header['model']!r}, remote={host!r}))."
            )
        if model is None:
            model = load(header["model"], remote=host, **({"revision": r} if (r := header["revision"]) else {}))
        recipe = getattr(importlib.import_module(__package__), header["recipe"])  # known: `_read` has seen to it
        run = recipe.prepare(model, **_arguments(header["arguments"]), remote=host)
        if fingerprint(run) != header["fingerprint"]:
            raise LensError(
                f"{str(path)!r} is a job of another model, tokenizer or version of this package "
                f"({header['versions']}): its results would not belong to what is asked here. Load it with those, or "
                "run the recipe anew."
            )
        job = cls(run)
        job._parts = [_Part(range(*bounds)) for bounds in header["parts"]]
        if [*itertools.chain(*(part.batches for part in job._parts))] != [*range(len(run.batches))]:
            raise ValueError(f"its parts {header['parts']} are not those of {len(run.batches)} batches")
        for event in events:
            part = job._parts[event["part"]]
            if "id" in event:
                part.id, part.bytes_up, part.state = event["id"], event["bytes_up"], "queued"
                part.sent_at = time.monotonic()
            elif "arrived" in event:
                part.blob, part.cost, part.state = base64.b64decode(event["arrived"]), event["cost"], "done"
            else:
                part.id, part.state = None, "not sent"
        job.save(path)  # without what a crash may have left of a last line
        return job

    # -- waiting ---------------------------------------------------------------------------------------------

    def _wait(self, part: _Part, deadline: float | None, bar: tqdm[Any]) -> bytes:
        pause = 0.02
        while True:
            response = self._server.state(str(part.id))
            self._hear(part, response)
            if part.state == "failed":
                self._fail(part)
            if response is not None and response.status is Status.COMPLETED:
                blob = self._server.fetch(response.data)
                if blob is None:
                    self._forgotten(part, f"{self._server.host} keeps the result of a finished job no longer.")
                self._open(part, blob)  # before it is kept: what is broken is fetched again
                part.state = "done"
                return blob
            bar.set_postfix_str(self._status().said[:60], refresh=False)
            bar.update(0)
            now = time.monotonic()
            if response is None and now - part.sent_at > UNKNOWN_S:
                self._forgotten(
                    part,
                    f"{self._server.host} knows nothing of a job that it accepted {now - part.sent_at:.0f} s ago: "
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
        part.said, part.cost = " ".join(response.description.split()), response.meta or {}
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
        raise diagnosis(said, self._run) from RemoteError(said)

    def _status(self) -> JobStatus:
        open_ones = [part for part in self._parts if part.state not in ("finished", "done")]
        done = len(self._parts) - len(open_ones)
        if not open_ones:
            return JobStatus("done", "", done, len(self._parts))
        next_one = min(open_ones, key=lambda part: part.state != "failed")
        return JobStatus(next_one.state, _point(next_one.said), done, len(self._parts))

    # -- the numbers -----------------------------------------------------------------------------------------

    def _open(self, part: _Part, blob: bytes) -> list[Any]:
        schemas = [self._run.schemas[n] for n in part.batches]
        most = sum(sum(schema.nbytes(most=True).values()) + 16384 for schema in schemas) + 2**20
        return opened(blob, schemas, most)

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

    # -- the file --------------------------------------------------------------------------------------------

    def _header(self) -> dict[str, Any]:
        run = self._run
        if not getattr(run.model, "repo_id", None):
            raise LensError("this model has no hub id, by which another process could find it.")
        return {
            "format": FORMAT,
            "version": VERSION,
            "recipe": run.recipe,
            "model": run.model.repo_id,
            "revision": getattr(run.model, "revision", None),
            "host": self._server.host,
            "arguments": {k: v if isinstance(v, dict) else plain(v) for k, v in run.arguments.items()},
            "fingerprint": fingerprint(run),
            "parts": [[part.batches.start, part.batches.stop] for part in self._parts],
            "versions": versions(),
        }

    def _note(self, event: dict[str, Any]) -> None:
        """One more line, on the disk before anything else happens."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())


def submit(recipe: Callable[..., R], *args: Any, path: str | os.PathLike[str] | None = None, **kwargs: Any) -> Job[R]:
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
    run = prepared(recipe, *args, **kwargs)
    if run.remote in (False, "local"):
        raise ValueError("there is no server to submit to: pass remote=True or an address, here or in load().")
    job = Job(run)
    if path is not None:
        job.save(path)
    return job.send()


def diagnosis(said: str, run: Run[Any]) -> RemoteLensError:
    """What a job's failure means, by what the server says of it."""
    last = _point(said) or "it says nothing"
    if OWN in last:
        return RemoteLensError(last[last.index(OWN) + len(OWN) :], "Nothing was computed.")
    low = last.lower()
    for words, happened, todo in _FAILURES:
        if any(word in low for word in words):
            return RemoteLensError(happened.format(model=run.model.repo_id, last=last), todo)
    return RemoteLensError(
        f"the job failed on the server: {last}",
        "The server's whole answer is in this error's __cause__. lens-recipes doctor --remote compares versions.",
    )


_FAILURES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("could not deploy", "not deployed", "dedicated", "cannot be deployed"),
        "the server could not deploy {model}: {last}",
        "lens-recipes doctor --remote lists what it serves.",
    ),
    (
        ("out of memory",),
        "the server ran out of memory: {last}",
        "Ask for less at once: positions=-1, fewer layers, a smaller max_bytes; estimate() says what a run needs.",
    ),
    (
        ("timed out", "timeout", "execution time"),
        "the server stopped the job for its time limit: {last}",
        "Pass fewer tokens per job (lens_recipes.remote_settings.tokens_per_job), fewer layers or fewer positions.",
    ),
    (
        ("unknownpersistentid", "architecture on this server"),
        "the server's {model} has not the modules that are known here: {last}",
        "Load the same revision as the server; lens-recipes doctor --remote compares the versions of transformers.",
    ),
    (
        ("submitting request to model deployment", "evicted", "preempted", "cancelled"),
        "the server's model went away while the job ran: {last}",
        "job.result() sends this part again.",
    ),
)


def _default(model: Envoy | None) -> bool | str:
    """The server that a model was loaded for."""
    return False if model is None else resolve_remote(model, None)


def _arrival(number: int, part: _Part) -> dict[str, Any]:
    """The line of a result."""
    return {"part": number, "arrived": base64.b64encode(part.blob or b"").decode(), "cost": part.cost}


def _point(said: str) -> str:
    """The line that matters of what a server says: of a traceback the last, of sentences the first."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [""]
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a job's file, and what happened since; a last line that was cut off never happened."""
    lines = path.read_text(encoding="utf-8").split("\n")
    header = json.loads(lines[0])
    if header["format"] != FORMAT or header["version"] != VERSION:
        raise LensError(f"{str(path)!r} is a {header['format']} of version {header['version']}, not a job.")
    if header["recipe"] not in RECIPES:
        raise LensError(f"{str(path)!r} is a job of {header['recipe']!r}, which is no recipe of this package.")
    return header, [json.loads(line) for line in lines[1:-1]]


@contextlib.contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a file that is none, or spoilt, does to its reader, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise LensError(f"there is no file {str(path)!r}.") from None
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LensError(f"{str(path)!r} is not a job's file: {type(error).__name__}: {error}") from error


def _arguments(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe's arguments out of a file, where "2:5" is a slice."""
    return {key: _slices(value) if key in ("layers", "positions", "heads") else value for key, value in saved.items()}


def _slices(value: Any) -> Any:
    if isinstance(value, list):
        return [_slices(item) for item in value]
    if isinstance(value, str):
        return slice(*(int(bound) if bound else None for bound in value.split(":")))
    return value
