"""One NDIF server over HTTP: send a job, ask for its state, fetch what it gave. Every fault is a `RemoteLensError`.

nnsight's own client waits on a websocket, and a cut connection loses the job with it. Here each job is sent once and
then asked for by its id, so whatever fails in between can be asked again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import ssl
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential_jitter,
)

from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.addresses import is_address, is_private
from lens_recipes.run.remote.faults import _detail, _reason, _retry_after, _short
from lens_recipes.run.remote.settings import (
    PUBLIC,
    RemoteSettings,
    address,
    api_key,
    remote_settings,
)

T = TypeVar("T")

_AGAIN = "Ask again later: job.result() goes on."


class _Transient(Exception):
    """Worth asking again: nothing was accepted, or nothing was asked for."""

    def __init__(self, problem: RemoteLensError, wait_s: float = 0.0) -> None:
        super().__init__(str(problem))
        self.problem, self.wait_s = problem, wait_s


class Server:
    """One NDIF server.

    Attributes:
        host: Its address, as the user named it.
        deadline: When its caller's time is over, by the monotonic clock: after that, nothing is asked a second time.
    """

    deadline: float | None = None

    def __init__(self, remote: bool | str, settings: RemoteSettings = remote_settings) -> None:
        """The address is looked up now, the key for each request: one that was refused may be replaced.

        Raises:
            RemoteLensError: the key would travel where others can read it, or NDIF is asked without one.
        """
        self.host, self._settings = address(remote), settings
        _ = self._key

    @property
    def _key(self) -> str | None:
        key = api_key()
        if key and not is_private(self.host):
            raise RemoteLensError(
                f"{self.host} is plain http to another machine, where everybody on the way can read your NDIF key.",
                "Use https, or a tunnel to localhost; or unset NDIF_API_KEY if this server needs none.",
            )
        if not key and self.host == PUBLIC:
            raise RemoteLensError(
                f"{self.host} needs an API key, and none is set.",
                "Get one at https://login.ndif.us and set it once: python -c 'import nnsight; nnsight.login()', or "
                "export NDIF_API_KEY=…",
            )
        return key

    def __repr__(self) -> str:
        return f"Server({self.host!r})"

    # -- jobs ----------------------------------------------------------

    def submit(self, model_key: str, env: dict[str, Any], blob: bytes) -> str:
        """Send a job; its id. Sent again only if the server surely did not accept it."""
        request = RequestModel(model_key=model_key, compress=True, env=env)
        headers = {
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }

        def post() -> httpx.Response:
            with _client(self.host, self._settings) as client:
                return client.post(
                    f"{self.host}/request",
                    data={"data": request.metadata()},
                    files={"blob": ("request", blob, "application/octet-stream")},
                    headers={**self._headers(), **headers},
                )

        response = self._patiently(lambda: self._answer(post, sends=True))
        return self._read(response).id

    def state(self, job: str) -> ResponseModel | None:
        """What the server last said of a job; None if nothing yet."""
        answer = self._get(f"/response/{quote(job, safe='')}")
        if answer is None:
            return None
        response = self._read(answer)
        if response.id != job:
            raise RemoteLensError(
                f"{self.host} was asked for one job, and answered for another.",
                "Tell those who run the server.",
            )
        return response

    def fetch(self, url: Any, most: int | None = None) -> bytes | None:
        """The result of a finished job, of at most so many bytes; None if the store has it no more.

        NDIF's addresses of results last an hour.
        """
        if not is_address(url):
            raise RemoteLensError(
                f"{self.host} says that the job is done, but not where its result is.",
                "Is it the address of an NDIF server's API? lens-recipes doctor --remote looks.",
            )
        if urlsplit(self.host).scheme == "https" and urlsplit(url).scheme != "https":
            raise RemoteLensError(
                f"{self.host} sends its result over plain http ({urlsplit(url).hostname}), where it could be changed.",
                "Ask those who run the server to use https for its store.",
            )

        def get() -> bytes | None:
            pieces, size = [], 0
            bound = most or self._settings.max_back_bytes
            # No key is sent: this is the store.
            with _client(url, self._settings) as client, client.stream("GET", url) as response:
                if response.status_code in (403, 404, 410):
                    return None
                response.raise_for_status()
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    size += len(piece)
                    if size > bound:
                        raise RemoteLensError(
                            f"the store sends more than the {bound} bytes that this result can have.",
                            "It is not the result of this job. Tell those who run the server.",
                        )
            return b"".join(pieces)

        return self._patiently(
            lambda: self._answer(get, sends=False, at=f"the store {urlsplit(url).netloc}")
        )

    # -- questions -----------------------------------------------------

    def ask(self, path: str) -> Any:
        """The JSON that the server answers to a GET."""
        answer = self._get(path)
        if answer is None:
            raise RemoteLensError(
                f"{self.host} has no {path}: it is no NDIF server, or an old one.",
                "Check the address.",
            )
        try:
            return json.loads(self._without_key(answer.text))
        except ValueError as error:
            raise self._strange() from error

    # -- one request ---------------------------------------------------

    def _headers(self) -> dict[str, str]:
        return {"ndif-api-key": self._key} if self._key else {}

    def _get(self, path: str) -> httpx.Response | None:
        def get() -> httpx.Response:
            with _client(self.host, self._settings) as client:
                return client.get(f"{self.host}{path}", headers=self._headers())

        return self._patiently(lambda: self._answer(get, sends=False, absent=True))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call again, with longer and longer pauses, while it is worth it."""
        left = self._settings.patience_s
        if self.deadline is not None:
            left = min(left, self.deadline - time.monotonic())
        again = Retrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_before_delay(left),
            wait=_pause,
            reraise=True,
        )
        try:
            return again(call)
        except _Transient as error:
            raise error.problem from error.__cause__

    def _answer(
        self, call: Callable[[], Any], *, sends: bool, absent: bool = False, at: str | None = None
    ) -> Any:
        """What a request gave, its faults sorted. One that `sends` begins a job; 404 may mean that it is `absent`."""
        again, place = "Run it again later." if sends else _AGAIN, at or self.host
        try:
            answer = call()
            if isinstance(answer, httpx.Response) and not (absent and answer.status_code == 404):
                answer.raise_for_status()
            return (
                None if isinstance(answer, httpx.Response) and answer.status_code == 404 else answer
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            _forget_key(error)
            raise _Transient(
                RemoteLensError(
                    f"{place} cannot be reached ({self._without_key(_reason(error))}).",
                    f"Is the address right, and the server up? lens-recipes doctor --remote looks. {again}",
                    may_finish=not sends,
                )
            ) from error
        except httpx.HTTPStatusError as error:
            _forget_key(error)
            raise self._refusal(error.response, sends=sends) from error
        except httpx.HTTPError as error:
            _forget_key(error)
            problem = RemoteLensError(
                f"the connection to {place} broke off ({self._without_key(_reason(error))}).",
                "The server may have accepted it, so it is not sent again by itself: run it again if you want to."
                if sends
                else again,
                may_finish=True,
            )
            raise problem if sends else _Transient(problem) from error
        except (
            httpx.InvalidURL,
            ImportError,
            OSError,
            ValueError,
        ) as error:  # a proxy, a certificate, an odd name
            raise RemoteLensError(
                f"{place} cannot be asked ({self._without_key(_reason(error))}).",
                "Look at the address, and at HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE in the environment.",
            ) from error

    def _refusal(self, response: httpx.Response, *, sends: bool) -> Exception:
        """What an answer that is not a success means."""
        status, detail = response.status_code, _short(self._without_key(_detail(response)))
        said = f"{urlsplit(str(response.url)).netloc} answered {status}: {detail}."
        if status in (401, 403) or "api key" in detail.lower():
            have = "the key that is set was not accepted" if self._key else "no key is set"
            return RemoteLensError(
                f"{said} It wants a valid API key, and {have}.",
                "Set another with NDIF_API_KEY or nnsight.login(), and see lens-recipes doctor --remote.",
            )
        if status in (429, 503) or (status >= 500 and not sends):
            why = (
                "It has no room for requests now." if status in (429, 503) else "It is in trouble."
            )
            todo = "Run it again later." if sends else _AGAIN
            return _Transient(
                RemoteLensError(f"{said} {why}", todo, may_finish=not sends),
                _retry_after(response, self._settings.patience_s),
            )
        if status == 413:
            return RemoteLensError(
                f"{said} The request is too large.", "Pass fewer prompts at once."
            )
        if "version" in detail.lower():
            return RemoteLensError(
                said, "Install what the server asks for; lens-recipes doctor --remote compares."
            )
        if sends and status >= 500:
            return RemoteLensError(said, "It is not sent a second time by itself.", may_finish=True)
        return RemoteLensError(said, "See what lens-recipes doctor --remote says of this server.")

    def _read(self, response: httpx.Response) -> ResponseModel:
        try:
            said = ResponseModel.model_validate_json(response.text)
        except ValueError:  # which shows what was said
            raise self._strange() from None
        said.description = self._without_key(said.description)
        return said

    def _strange(self) -> RemoteLensError:
        return RemoteLensError(
            f"{self.host} answered with something that NDIF servers do not say.",
            "Is it the address of an NDIF server's API? lens-recipes doctor --remote looks.",
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "<key>") if self._key else text


_backoff = wait_exponential_jitter(initial=0.2, max=8.0, jitter=0.2)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), error.wait_s if isinstance(error, _Transient) else 0.0)


def _client(url: str, settings: RemoteSettings = remote_settings) -> httpx.Client:
    """What asks an address; a proxy that the environment names is not told what is meant for this machine."""
    timeout = httpx.Timeout(settings.read_s, connect=settings.connect_s)
    trust_env = urlsplit(url).scheme == "https" or not is_private(url)
    return httpx.Client(timeout=timeout, trust_env=trust_env, verify=_tls())


@functools.cache
def _tls() -> ssl.SSLContext:
    """What https is checked with: made once, as it takes longer than a question does."""
    return httpx.create_ssl_context()


def _forget_key(error: httpx.HTTPError) -> None:
    """What is known of a request goes on with its error, but not the key."""
    with contextlib.suppress(RuntimeError):  # an error of no request
        error.request.headers.pop("ndif-api-key", None)
