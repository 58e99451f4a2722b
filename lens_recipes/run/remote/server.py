"""One NDIF server over HTTP: send a job, ask for its state, fetch its result.

nnsight's own client waits on a websocket, and a cut connection loses the job with it. Here each job
is sent once and then asked for by its id, so whatever fails in between can be asked again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel

from lens_recipes.run.remote.http.addresses import is_address, is_private, shown_address
from lens_recipes.run.remote.http.answers import SLOWEST_BYTES_PER_S, AnswerLimits, exchange
from lens_recipes.run.remote.http.faults import (
    answer_for_another_job,
    key_for_a_stranger,
    key_in_the_clear,
    key_missing,
    result_in_the_clear,
    result_nowhere,
    strange_answer,
    unknown_path,
)
from lens_recipes.run.remote.http.http_requests import make_once, make_patiently, open_client
from lens_recipes.run.remote.http.key import ApiKey, hide_key
from lens_recipes.run.remote.http.settings import (
    PUBLIC,
    RemoteSettings,
    address,
    api_key,
    remote_settings,
)

T = TypeVar("T")

GONE = (403, 404, 410)  # what a store answers for a result that it keeps no longer

MAX_ANSWER_BYTES = 4 * 2**20  # of what a server says: a state with a traceback, a list of models

SHORTEST_REQUEST_S = 1.0  # which a first question gets also where the time is over


class Server:
    """One NDIF server. Every fault of it is a `RemoteLensError`.

    Attributes:
        host: Its address, as the user named it.
        is_named: Whether the user has named this server, and not only a file.
        deadline: When the caller's time is over, by the monotonic clock. A request ends then, and
            nothing is asked a second time.
    """

    deadline: float | None = None

    def __init__(
        self,
        remote: bool | str,
        settings: RemoteSettings = remote_settings,
        *,
        is_named: bool = True,
    ) -> None:
        """Look up the server's address now; the key is looked up for each request.

        A key that was refused may be replaced meanwhile.

        Raises:
            RemoteLensError: the key would travel where others can read it, or NDIF is asked
                without one.
        """
        self.host = address(remote)
        self.is_named = is_named
        self._settings = settings
        _ = self.key  # which says where it may not travel

    def __repr__(self) -> str:
        return f"Server({self.host!r})"

    # -- jobs ----------------------------------------------------------

    def submit(self, model_key: str, env: dict[str, Any], blob: bytes) -> str:
        """Send a job and return its id. It is sent again only if the server did not accept it.

        Args:
            model_key: The key by which the server finds the model.
            env: What it is to apply to the model before the job.
            blob: The serialized job.
        """
        request = RequestModel(model_key=model_key, compress=True, env=env)
        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }

        def post() -> httpx.Response:
            with open_client(self.host, self._settings) as client:
                message = client.build_request(
                    "POST",
                    f"{self.host}/request",
                    data={"data": request.metadata()},
                    files={"blob": ("request", blob, "application/octet-stream")},
                    headers=headers,
                )
                limits = self._limits(MAX_ANSWER_BYTES, n_sent=len(blob))
                return exchange(client, message, limits, self.key).raise_for_status()

        return self._read_state(self._make_request(post, sends_job=True)).id

    def state(self, job_id: str) -> ResponseModel | None:
        """Return what the server last said about a job; None if it knows nothing of it."""
        answer = self._get(f"/response/{quote(job_id, safe='')}")
        if answer is None:
            return None
        response = self._read_state(answer)
        if response.id != job_id:
            raise answer_for_another_job(self.host)
        return response

    def fetch(self, url: Any, max_bytes: int | None = None) -> bytes | None:
        """Download the result of a finished job; None if the store keeps it no longer.

        NDIF's addresses of results last an hour.

        Args:
            url: Where the server says that the result is.
            max_bytes: Most bytes to accept; None for `max_back_bytes` of the settings.
        """
        if not is_address(url):
            raise result_nowhere(self.host)
        if urlsplit(self.host).scheme == "https" and urlsplit(url).scheme != "https":
            raise result_in_the_clear(self.host, urlsplit(url).hostname)
        limit = max_bytes or self._settings.max_back_bytes

        def download() -> bytes | None:
            with open_client(url, self._settings) as client:
                message = client.build_request("GET", url)
                # No key is sent: this is the store.
                answer = exchange(client, message, self._limits(limit), key=None)
            if answer.status_code in GONE:
                return None
            return answer.raise_for_status().content

        store = hide_key(shown_address(urlsplit(url).netloc), self.key)
        return self._make_request(download, place=f"the store {store}")

    # -- questions -----------------------------------------------------

    def ask(self, path: str) -> Any:
        """Return the JSON that the server answers to a GET."""
        answer = self._get(path)
        if answer is None:
            raise unknown_path(self.host, path)
        try:
            return json.loads(hide_key(answer.text, self.key))
        except (ValueError, RecursionError):
            raise strange_answer(self.host) from None

    def _get(self, path: str) -> httpx.Response | None:
        """Return the answer to a GET; None if there is no such place."""

        def get() -> httpx.Response | None:
            with open_client(self.host, self._settings) as client:
                message = client.build_request("GET", f"{self.host}{path}")
                answer = exchange(client, message, self._limits(MAX_ANSWER_BYTES), self.key)
            if answer.status_code == 404:
                return None
            return answer.raise_for_status()

        return self._make_request(get)

    def _limits(self, n_bytes: int, n_sent: int = 0) -> AnswerLimits:
        """Return the limits of one request, which ends when the caller's time is over.

        Args:
            n_bytes: Most bytes of the answer.
            n_sent: Bytes that are sent.
        """
        settings = self._settings
        seconds = settings.connect_s + settings.read_s + (n_bytes + n_sent) / SLOWEST_BYTES_PER_S
        if self.deadline is not None:
            remaining_s = self.deadline - time.monotonic()
            seconds = min(seconds, max(SHORTEST_REQUEST_S, remaining_s))
        return AnswerLimits(n_bytes, seconds)

    def _make_request(
        self, request: Callable[[], T], *, place: str | None = None, sends_job: bool = False
    ) -> T:
        """Make a request with the patience of the settings, and no longer than the caller has time.

        Args:
            request: What makes it once.
            place: Whom it asks, if that is not this server.
            sends_job: Whether it begins a job.
        """
        settings = self._settings
        patience_s = settings.patience_s
        if self.deadline is not None:
            patience_s = min(patience_s, self.deadline - time.monotonic())

        def attempt() -> T:
            return make_once(
                request,
                place=place or self.host,
                key=self.key,
                sends_job=sends_job,
                max_wait_s=settings.patience_s,
            )

        return make_patiently(attempt, patience_s)

    def _read_state(self, answer: httpx.Response) -> ResponseModel:
        """Read what the server says about a job, and leave out the key, should it say it."""
        try:
            response = ResponseModel.model_validate_json(answer.text)
        except ValueError:
            # This error would show what the server said.
            raise strange_answer(self.host) from None
        response.description = hide_key(response.description, self.key)
        return response

    # -- the key -------------------------------------------------------

    @property
    def key(self) -> ApiKey | None:
        """Return the user's key of this moment, if there is one.

        It is asked for at each request, so that what decides is what holds when it is sent.

        Raises:
            RemoteLensError: it would travel where others can read it or to a server that the user
                has not named, or NDIF is asked without one.
        """
        key = api_key()
        if key and not is_private(self.host):
            raise key_in_the_clear(self.host)
        if key and not self.is_named and self.host != address(True):
            raise key_for_a_stranger(self.host)
        if not key and self.host == PUBLIC:
            raise key_missing(self.host)
        return key
