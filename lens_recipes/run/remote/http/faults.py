"""Errors of a server that cannot be reached, refuses or answers oddly: what to do about each."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from lens_recipes.caller import say
from lens_recipes.errors import RemoteLensError
from lens_recipes.terminal import one_line

RUN_LATER = "Run it again later."

GET_A_KEY = (
    "Get one at https://login.ndif.us and set it once: "
    "python -c 'import nnsight; nnsight.login()', or export NDIF_API_KEY=…"
)

ABOUT_API = (
    "Is it the address of an NDIF server's API, with https, and is the server up to date? "
    "lens-recipes doctor --remote looks."
)

BUSY = (429, 503)


def goes_on() -> str:
    """Return how a run goes on whose server could not be asked."""
    return "Ask again in a few minutes. " + say(
        python="Then job.result() goes on.", shell="Run the command again."
    )


# -- a request that failed ---------------------------------------------


class TransientFault(Exception):
    """A fault after which the same request may be made again, because it accepted nothing.

    Attributes:
        error: What to raise when it is not made again.
        wait_s: How long the server asks to wait.
    """

    def __init__(self, error: RemoteLensError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


def unreachable(place: str, reason: str, *, sends_job: bool) -> TransientFault:
    """Return the fault of a connection that was never made."""
    next_step = RUN_LATER if sends_job else goes_on()
    return TransientFault(
        RemoteLensError(
            f"{place} cannot be reached ({reason}).",
            "Is the address right (NDIF_HOST), the server up and this machine online? Look also at "
            "HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE, if they are set. "
            f"lens-recipes doctor --remote looks. {next_step}",
            may_finish=not sends_job,
        )
    )


def broken_off(place: str, reason: str, *, sends_job: bool) -> Exception:
    """Return the fault of a connection that ended too early: transient, unless it sent a job."""
    happened = f"the connection to {place} broke off ({reason})."
    if not sends_job:
        return TransientFault(RemoteLensError(happened, goes_on(), may_finish=True))
    return RemoteLensError(
        happened,
        "The server may have accepted it, so it is not sent again by itself: run it again if you "
        "want to.",
        may_finish=True,
    )


def not_askable(place: str, reason: str) -> RemoteLensError:
    """Return the error of a request that could not even be tried."""
    return RemoteLensError(
        f"{place} cannot be asked ({reason}).",
        "Look at the address, and at HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE in the environment.",
    )


def refusal(
    response: httpx.Response, detail: str, *, sends_job: bool, has_key: bool, max_wait_s: float
) -> Exception:
    """Return what an answer that is not a success means.

    Args:
        response: The answer.
        detail: The server's own words, without the key.
        sends_job: Whether the request was to begin a job.
        has_key: Whether a key was sent.
        max_wait_s: Longest pause that a server may ask for.
    """
    status = response.status_code
    answer = f"{urlsplit(str(response.url)).netloc} answered {status}: {detail}."
    if status in (401, 403) or "api key" in detail.lower():
        key_state = "the key that is set was not accepted" if has_key else "no key is set"
        return RemoteLensError(
            f"{answer} It wants a valid API key, and {key_state}.",
            f"{GET_A_KEY}. lens-recipes doctor --remote looks.",
        )
    if status in BUSY or (status >= 500 and not sends_job):
        state = "It has no room for requests now." if status in BUSY else "It is in trouble."
        next_step = RUN_LATER if sends_job else goes_on()
        error = RemoteLensError(f"{answer} {state}", next_step, may_finish=not sends_job)
        return TransientFault(error, min(_retry_after(response), max_wait_s))
    if status == 413:
        return RemoteLensError(f"{answer} The request is too large.", "Give fewer prompts at once.")
    if "version" in detail.lower():
        return RemoteLensError(
            answer, "Install what the server asks for; lens-recipes doctor --remote compares."
        )
    if status >= 500:  # the job was sent, and may have been accepted
        return RemoteLensError(answer, "It is not sent a second time by itself.", may_finish=True)
    return RemoteLensError(answer, ABOUT_API)


def refusal_detail(response: httpx.Response) -> str:
    """Return a server's own words about its refusal."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        if not response.text or response.text.lstrip().startswith("<"):  # a page, or a store's XML
            return response.reason_phrase
        return response.text
    if isinstance(body, dict):
        body = body.get("detail", body)
    return str(body)


def shorten(text: str) -> str:
    """Return a server's words as one line that is not too long, without their last full stop."""
    return one_line(text).rstrip(".")


def describe(error: Exception) -> str:
    """Return the kind of an exception, and its words if it has any."""
    class_name = type(error).__name__
    return f"{class_name}: {error}" if str(error) else class_name


def _retry_after(response: httpx.Response) -> float:
    """Return the pause that a server asks for, in seconds."""
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


# -- an answer that is none --------------------------------------------


def strange_answer(host: str) -> RemoteLensError:
    """Return the error of an answer that does not read as one of NDIF's."""
    return RemoteLensError(
        f"{host} answered with something that NDIF servers do not say.", ABOUT_API
    )


def unknown_path(host: str, path: str) -> RemoteLensError:
    """Return the error of a server that lacks a path which every NDIF server has."""
    return RemoteLensError(
        f"{host} has no {path}: it is no NDIF server, or an old one.", "Check the address."
    )


def answer_for_another_job(host: str) -> RemoteLensError:
    """Return the error of a state that belongs to another job."""
    return RemoteLensError(
        f"{host} was asked for one job, and answered for another.",
        "Tell those who run the server.",
    )


def result_nowhere(host: str) -> RemoteLensError:
    """Return the error of a finished job whose result has no address."""
    return RemoteLensError(
        f"{host} says that the job is done, but not where its result is.", ABOUT_API
    )


def result_in_the_clear(host: str, store: str | None) -> RemoteLensError:
    """Return the error of a result that others could change on its way."""
    return RemoteLensError(
        f"{host} sends its result over plain http ({store}), where it could be changed.",
        "Ask those who run the server to use https for its store.",
    )


def answer_too_large(place: str, max_bytes: int) -> RemoteLensError:
    """Return the error of an answer that is larger than it can be."""
    return RemoteLensError(
        f"{place} sends more than the {max_bytes} bytes that its answer can have.",
        "It is no answer to what was asked. Tell those who run the server.",
    )


def answer_compressed(place: str) -> RemoteLensError:
    """Return the error of an answer that would have to be unpacked to know how large it is."""
    return RemoteLensError(
        f"{place} sends a compressed answer, which was not asked for and is not unpacked.",
        "Tell those who run the server, or a proxy on the way to it.",
    )


# -- a key that may not travel, or is missing --------------------------


def key_in_the_clear(host: str) -> RemoteLensError:
    """Return the error of a key that would travel where others can read it."""
    return RemoteLensError(
        f"{host} is plain http to another machine, where everybody on the way can read your NDIF "
        "key.",
        "Use https, or a tunnel to localhost; or unset NDIF_API_KEY if this server needs none.",
    )


def key_for_a_stranger(host: str) -> RemoteLensError:
    """Return the error of a key that would go to a server which only a file has named."""
    return RemoteLensError(
        f"{host} is named by a job's file alone, and your NDIF key would be sent there.",
        "If it is yours, name it: pass the model with it, Job.load(path, load(hub_id, "
        f"remote={host!r})), or set NDIF_HOST.",
    )


def key_missing(host: str) -> RemoteLensError:
    """Return the error of a server that is useless without a key."""
    return RemoteLensError(f"{host} needs an API key, and none is set.", GET_A_KEY)
