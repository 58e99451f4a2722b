"""Waiting for the result of a chunk: asking for its state, with pauses, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.response import ResponseModel, Status
from tqdm import tqdm

from lens_recipes.caller import RUN_AGAIN, say
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.http.settings import remote_settings
from lens_recipes.run.remote.jobs.chunks import ChunkState, JobChunk, JobStatus
from lens_recipes.run.remote.jobs.events import Event, Failed
from lens_recipes.run.remote.jobs.failures import diagnose
from lens_recipes.run.remote.server import Server

UNKNOWN_S = 120.0  # how long a server may know nothing of a job that it accepted

FIRST_PAUSE_S = 0.02

PAUSE_GROWTH = 1.5

MAX_SHOWN = 60  # characters of what a server says, beside a progress bar

MAX_NOTED = 2000  # characters of a failure that go into a job's file


@dataclass(frozen=True)
class Deadline:
    """The moment until which somebody waits, by the monotonic clock; None for no end."""

    moment: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline that is some seconds away."""
        if seconds is None:
            return cls(None)
        return cls(time.monotonic() + seconds)

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return self.moment is not None and time.monotonic() > self.moment

    def sleep(self, seconds: float) -> None:
        """Sleep for some seconds, but not beyond the deadline."""
        if self.moment is not None:
            remaining = max(0.0, self.moment - time.monotonic())
            seconds = min(seconds, remaining)
        time.sleep(seconds)


@dataclass
class ResultWaiter:
    """Waits for the results of a run's chunks.

    Attributes:
        server: Where they run.
        model_id: The hub id of the model, for the message of a failure.
        deadline: When it stops waiting.
        status: Returns how far the run is as a whole.
        note: Notes an event in the job's file.
        bar: Shows how far the run is.
    """

    server: Server
    model_id: str
    deadline: Deadline
    status: Callable[[], JobStatus]
    note: Callable[[Event], None]
    bar: tqdm[Any]

    def wait(self, chunk: JobChunk) -> None:
        """Wait until the result of a chunk has arrived.

        Raises:
            RemoteLensError: it failed, the server lost it or cannot be reached, or time is over.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            response = self.server.state(str(chunk.id))
            chunk.hear(response)
            if chunk.state is ChunkState.FAILED:
                self._give_up_failed(chunk)
            if response is not None and response.status is Status.COMPLETED:
                self._fetch(chunk, response)
                return
            self._show_status()
            if response is None:
                self._check_known(chunk)
            self._check_time()
            self.deadline.sleep(pause_s)
            pause_s = min(remote_settings.poll_s, PAUSE_GROWTH * pause_s)

    def _fetch(self, chunk: JobChunk, response: ResponseModel) -> None:
        """Fetch the result of a chunk that is finished."""
        blob = self.server.fetch(response.data, chunk.max_result_bytes)
        if blob is None:
            self._give_up_lost(
                chunk, f"{self.server.host} keeps the result of a finished job no longer."
            )
        chunk.decode(blob)  # before it is kept: what is broken is fetched again
        chunk.arrive(blob)
        self.note(chunk.arrival())

    def _show_status(self) -> None:
        """Show beside the progress bar what the server says."""
        self.bar.set_postfix_str(self.status().said[:MAX_SHOWN], refresh=False)
        self.bar.update(0)

    def _check_known(self, chunk: JobChunk) -> None:
        """Give a chunk up that the server has known nothing of for too long."""
        unknown_s = time.monotonic() - chunk.seen_at
        if unknown_s > UNKNOWN_S:
            self._give_up_lost(
                chunk,
                f"{self.server.host} accepted a job and has known nothing of it for "
                f"{unknown_s:.0f} s: it was started anew, or its results are kept no longer.",
            )

    def _check_time(self) -> None:
        """Stop waiting where the time is over."""
        if self.deadline.is_over():
            raise RemoteLensError(
                f"not finished in the time that was given; {self.status()}.",
                say(
                    python="job.result() waits again, and job.save(path) keeps it for another "
                    "process.",
                    shell=RUN_AGAIN,
                ),
                may_finish=True,
            )

    def _give_up_lost(self, chunk: JobChunk, happened: str) -> NoReturn:
        """Raise that the server has lost a chunk; it may be sent again."""
        chunk.reset()
        self.note(Failed(chunk.number, "unknown"))
        raise RemoteLensError(
            happened, say(python="job.result() sends this part again.", shell=RUN_AGAIN)
        )

    def _give_up_failed(self, chunk: JobChunk) -> NoReturn:
        """Raise what the failure of a chunk means; it may be sent again."""
        chunk.reset()
        self.note(Failed(chunk.number, chunk.message[-MAX_NOTED:]))
        raise diagnose(chunk.message, self.model_id) from RemoteError(chunk.message)
