"""One request over HTTP, made again while that is harmless and may help.

Every fault leaves here as a `RemoteLensError`, and none of them holds the key.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential_jitter,
)

from lens_recipes.run.remote.http.addresses import is_private
from lens_recipes.run.remote.http.answers import AnswerCompressed, AnswerTooLarge
from lens_recipes.run.remote.http.faults import (
    TransientFault,
    answer_compressed,
    answer_too_large,
    broken_off,
    describe,
    not_askable,
    refusal,
    refusal_detail,
    shorten,
    unreachable,
)
from lens_recipes.run.remote.http.key import HEADER, ApiKey, hide_key
from lens_recipes.run.remote.http.settings import RemoteSettings

T = TypeVar("T")

_backoff = wait_exponential_jitter(initial=0.2, max=8.0, jitter=0.2)  # seconds


def make_patiently(request: Callable[[], T], patience_s: float) -> T:
    """Make a request, and again after longer and longer pauses while its faults are transient.

    Raises:
        RemoteLensError: the fault that remains.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(TransientFault),
        stop=stop_before_delay(patience_s),
        wait=_pause_s,
        reraise=True,
    )
    try:
        return attempts(request)
    except TransientFault as fault:
        raise fault.error from fault.__cause__


def _pause_s(state: RetryCallState) -> float:
    """Return the pause before the next attempt, which is longer if the server asked for that."""
    pause_s = _backoff(state)
    fault = None
    if state.outcome is not None:
        fault = state.outcome.exception()
    if isinstance(fault, TransientFault):
        return max(pause_s, fault.wait_s)
    return pause_s


def make_once(
    request: Callable[[], T], *, place: str, key: ApiKey | None, sends_job: bool, max_wait_s: float
) -> T:
    """Make a request once, and sort its faults.

    Args:
        request: What makes it, and raises what httpx raises; also for a status that is no success.
        place: Whom it asks, for an error's message.
        key: What no message may hold.
        sends_job: Whether it begins a job. Its fault is transient only where the server surely did
            not accept the job.
        max_wait_s: Longest pause that a server may ask for.

    Raises:
        TransientFault: the request may be made again.
        RemoteLensError: it may not, or that would be of no use.
    """
    try:
        return request()
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        _forget_key(error)
        raise unreachable(place, _reason(error, key), sends_job=sends_job) from error
    except httpx.HTTPStatusError as error:
        _forget_key(error)
        detail = shorten(hide_key(refusal_detail(error.response), key))
        raise refusal(
            error.response, detail, sends_job=sends_job, has_key=bool(key), max_wait_s=max_wait_s
        ) from error
    except AnswerTooLarge as error:
        raise answer_too_large(place, error.max_bytes) from None
    except AnswerCompressed:
        raise answer_compressed(place) from None
    except httpx.HTTPError as error:
        _forget_key(error)
        raise broken_off(place, _reason(error, key), sends_job=sends_job) from error
    # Of a proxy, a certificate or an odd name.
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        _forget_key(error)
        raise not_askable(place, _reason(error, key)) from error


def _reason(error: Exception, key: ApiKey | None) -> str:
    """Return what an exception says as a part of a sentence: it may quote a server at length."""
    return shorten(hide_key(describe(error), key))


def open_client(url: str, settings: RemoteSettings) -> httpx.Client:
    """Open a client that asks an address.

    A proxy that the environment names is not told what is meant for this machine.
    """
    return httpx.Client(
        timeout=httpx.Timeout(settings.read_s, connect=settings.connect_s),
        trust_env=urlsplit(url).scheme == "https" or not is_private(url),
        verify=_tls_context(),
    )


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return what https is checked with, made once: that takes longer than a question does."""
    return httpx.create_ssl_context()


def _forget_key(error: Exception) -> None:
    """Remove the key from an error: from its request, and from the frames that it came through."""
    error.__traceback__ = None
    if isinstance(error, httpx.HTTPError):
        with contextlib.suppress(RuntimeError):  # an error of no request
            error.request.headers.pop(HEADER, None)
