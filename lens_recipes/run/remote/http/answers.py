"""Read what a server answers: at most so many bytes, in at most so much time, never compressed.

A few bytes that unpack to gigabytes, an answer that never ends and one that comes byte by byte all
end here, before they cost memory or patience.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import httpx

from lens_recipes.run.remote.http.key import ApiKey

UNCOMPRESSED = "identity"

# A server may be as slow as this: a request takes no longer than its bytes at this rate.
SLOWEST_BYTES_PER_S = 2**18


class AnswerLimits(NamedTuple):
    """How large an answer may be, and how long a request may take in all.

    Attributes:
        n_bytes: Most bytes of the answer's body.
        seconds: From the first byte that is sent to the last that is received.
    """

    n_bytes: int
    seconds: float


class AnswerTooLarge(Exception):
    """A server sends more than it may.

    Attributes:
        max_bytes: How many bytes it may send.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.max_bytes = max_bytes


class AnswerCompressed(Exception):
    """A server sends a compressed answer, which was not asked for."""


class RequestTimer:
    """Ends the connection of a request when its time is over.

    A timeout of httpx begins anew with each piece that arrives. This one does not.

    Attributes:
        is_over: Whether the time was over before the request was.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(max(seconds, 0.0), self._end)
        self._timer.daemon = True

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the sockets that httpx opens; httpx calls this for each event of a request."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        self._sockets.append(info["return_value"].get_extra_info("socket"))
        if self.is_over:
            self._end()

    def _end(self) -> None:
        """Shut the sockets down, so that whoever waits for them goes on."""
        self.is_over = True
        for opened in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                # Not `opened.shutdown`: that of TLS takes its state from under its reader.
                socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def __enter__(self) -> RequestTimer:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()


def exchange(
    client: httpx.Client, request: httpx.Request, limits: AnswerLimits, key: ApiKey | None
) -> httpx.Response:
    """Send a request, with the key if there is one, and return the whole answer.

    Raises:
        httpx.ReadTimeout: the answer was not whole in the time that it may take.
        httpx.HTTPError: the connection failed.
        AnswerTooLarge, AnswerCompressed: the server answers what it may not.
    """
    request.headers["accept-encoding"] = UNCOMPRESSED
    with RequestTimer(limits.seconds) as timer:
        request.extensions["trace"] = timer.trace
        try:
            answer = client.send(request, stream=True, auth=key)
            try:
                body = read_body(answer, limits.n_bytes)
            finally:
                answer.close()
        except httpx.HTTPError:
            if not timer.is_over:
                raise
        if timer.is_over:  # also where the end of the connection looks like that of the answer
            raise httpx.ReadTimeout(
                f"no whole answer within {limits.seconds:.0f} s", request=request
            )
    whole = httpx.Response(
        answer.status_code,
        headers=answer.headers,
        content=body,
        request=request,
        extensions={"reason_phrase": answer.reason_phrase.encode("ascii", "replace")},
    )
    # Not what the server names: to Python a charset may also be zlib, which unpacks.
    whole.encoding = "utf-8"
    return whole


def read_body(answer: httpx.Response, max_bytes: int) -> bytes:
    """Read the body of an answer piece by piece, and stop where it becomes too large.

    Raises:
        AnswerTooLarge, AnswerCompressed: the server answers what it may not.
    """
    if answer.headers.get("content-encoding", UNCOMPRESSED) != UNCOMPRESSED:
        raise AnswerCompressed
    body = bytearray()
    for piece in answer.iter_raw():
        body += piece
        if len(body) > max_bytes:
            raise AnswerTooLarge(max_bytes)
    return bytes(body)
