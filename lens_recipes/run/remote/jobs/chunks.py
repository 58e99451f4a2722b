"""Chunks of a run, which are sent as one job each: what they are, and how far they have come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from nnsight.schema.response import ResponseModel, Status

from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.jobs.events import Accepted, Arrived, Event, Failed, Sending
from lens_recipes.run.remote.jobs.failures import key_line
from lens_recipes.run.remote.wire import decode_result
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.terminal import escape_terminal, one_line

RESULT_OVERHEAD = 2**20  # most bytes of a result beside those of its batches

BATCH_OVERHEAD = 16384  # most bytes of a batch's result beside its arrays


class ChunkState(Enum):
    """How far a chunk has come, in the words of `JobStatus`."""

    NOT_SENT = "not sent"
    SENDING = "sending"  # whether it was accepted is not known
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    FINISHED = "finished"  # its result is there to be fetched
    DONE = "done"  # its result has been fetched


# By what a server reports. Whatever else it reports is said of a job that waits.
STATES_ON_SERVER = {
    Status.COMPLETED: ChunkState.FINISHED,
    Status.ERROR: ChunkState.FAILED,
    Status.RUNNING: ChunkState.RUNNING,
}


class JobChunk:
    """Some batches of a run that are sent as one job.

    A chunk goes from NOT_SENT over SENDING, QUEUED and RUNNING to FINISHED and DONE. What fails or
    is lost on the way is NOT_SENT again.

    Attributes:
        number: Its place among the chunks of the run.
        batches: The numbers of its batches.
        state: How far it has come.
        id: The id by which the server knows it, once it has accepted it.
        seen_at: When the server last knew of it, by the monotonic clock.
        bytes_up: Bytes that were sent.
        result_blob: What came back.
        cost: What the server says that it took.
        message: What else the server says.
    """

    def __init__(self, run: RecipeRun[Any], number: int, batches: range) -> None:
        self.number = number
        self.batches = batches
        self.state = ChunkState.NOT_SENT
        self.id: str | None = None
        self.seen_at = 0.0
        self.bytes_up = 0
        self.result_blob: bytes | None = None
        self.cost: dict[str, Any] = {}
        self.message = ""
        self._schemas = [run.schemas[batch_number] for batch_number in batches]
        self._digests = [run.batch_digests[batch_number] for batch_number in batches]

    # -- what happens to it --------------------------------------------

    def begin_sending(self, n_bytes: int) -> None:
        """Note that it is being sent."""
        self.state = ChunkState.SENDING
        self.bytes_up = n_bytes

    def accept(self, job_id: str) -> None:
        """Note that the server has accepted it."""
        self.id = job_id
        self.state = ChunkState.QUEUED
        self.seen_at = time.monotonic()

    def hear(self, response: ResponseModel | None) -> None:
        """Note what the server says about it; None where it knows nothing."""
        if response is None:
            return
        self.seen_at = time.monotonic()
        self.state = STATES_ON_SERVER.get(response.status, ChunkState.QUEUED)
        self.cost = {}
        for quantity, value in (response.meta or {}).items():
            if isinstance(value, int | float):
                self.cost[quantity] = value
        if self.state is ChunkState.FAILED:
            # With its lines: `diagnose` tells them apart.
            self.message = escape_terminal(response.description)
        else:
            self.message = one_line(response.description)

    def arrive(self, blob: bytes) -> None:
        """Note that its result is here."""
        self.result_blob = blob
        self.state = ChunkState.DONE

    def reset(self) -> None:
        """Note that the server will not give its result, so that it may be sent again."""
        self.id = None
        self.state = ChunkState.NOT_SENT

    # -- the same as events of a file ----------------------------------

    def replay(self, event: Event) -> None:
        """Note what a file says has happened to it."""
        match event:
            case Sending():
                self.begin_sending(event.n_bytes)
            case Accepted():
                self.accept(event.id)
                self.bytes_up = event.bytes_up
            case Arrived():
                self.arrive(event.blob)
                self.cost = event.cost
            case Failed():
                self.reset()

    def events(self) -> Iterator[Event]:
        """Yield the events that lead to where it is now."""
        if self.id is not None:
            yield self.acceptance()
        elif self.state is ChunkState.SENDING:
            yield Sending(self.number, self.bytes_up)
        if self.result_blob is not None:
            yield self.arrival()

    def acceptance(self) -> Accepted:
        """Return the event of its having been accepted."""
        return Accepted(self.number, str(self.id), self.bytes_up)

    def arrival(self) -> Arrived:
        """Return the event of its result having arrived."""
        return Arrived(self.number, self.result_blob or b"", self.cost)

    # -- its numbers ---------------------------------------------------

    @property
    def max_result_bytes(self) -> int:
        """Return the most bytes that its result can have, packed or unpacked."""
        max_bytes = RESULT_OVERHEAD
        for schema in self._schemas:
            max_bytes += sum(schema.nbytes(most=True).values()) + BATCH_OVERHEAD
        return max_bytes

    def decode(self, blob: bytes) -> list[Arrays]:
        """Return the arrays of its batches, out of what the server sent.

        Raises:
            RemoteLensError: it is no result of this chunk.
        """
        return decode_result(blob, self._schemas, self._digests, self.max_result_bytes)

    def arrays(self) -> list[Arrays]:
        """Return the arrays of its batches, out of what has arrived.

        Raises:
            RemoteLensError: a file has spoilt it; it is then fetched anew.
        """
        try:
            return self.decode(self.result_blob or b"")
        except RemoteLensError:
            self.result_blob = None
            self.state = ChunkState.NOT_SENT if self.id is None else ChunkState.QUEUED
            raise


# -- all chunks of a run -----------------------------------------------


class JobStatus(NamedTuple):
    """How far the jobs of a run are.

    Attributes:
        state: "not sent", "sending", "queued", "running", "done" or "failed".
        said: What the server says of the one that failed or is next, such as its place in the
            queue.
        done, total: Jobs that have ended well, and all of them.
    """

    state: str
    said: str
    done: int
    total: int

    def __str__(self) -> str:
        sentence = f"{self.state}, {self.done} of {self.total} jobs done"
        if self.said:
            sentence += f": {self.said}"
        return sentence


def status_of(chunks: Sequence[JobChunk]) -> JobStatus:
    """Return how far some chunks are together: the state of one that failed, else of the next."""
    n_chunks = len(chunks)
    unfinished = []
    for chunk in chunks:
        if chunk.state not in (ChunkState.FINISHED, ChunkState.DONE):
            unfinished.append(chunk)
    if not unfinished:
        return JobStatus("done", "", n_chunks, n_chunks)
    shown_chunk = unfinished[0]
    for chunk in unfinished:
        if chunk.state is ChunkState.FAILED:
            shown_chunk = chunk
            break
    return JobStatus(
        shown_chunk.state.value, key_line(shown_chunk.message), n_chunks - len(unfinished), n_chunks
    )
