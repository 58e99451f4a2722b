"""What the failure of a job means, by what its server says of it."""

from __future__ import annotations

import httpx

from lens_recipes.errors import RemoteLensError
from lens_recipes.trace.pack import OWN_ERROR


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _detail(response: httpx.Response) -> str:
    """What a server says of its refusal, in one short line."""
    try:
        response.read()
    except (httpx.HTTPError, httpx.StreamError):  # a store's answer is not kept
        return response.reason_phrase
    try:
        body = response.json()
        text = str(body.get("detail", body) if isinstance(body, dict) else body)
    except ValueError:
        text = (
            response.reason_phrase
            if "<html" in response.text.lower()
            else response.text or response.reason_phrase
        )
    return text


def _short(text: str) -> str:
    """One line that is not too long."""
    return " ".join(text.split())[:500].rstrip(".")


def _retry_after(response: httpx.Response, most: float) -> float:
    try:
        return min(float(response.headers.get("retry-after", 0)), most)
    except ValueError:
        return 0.0


def diagnose(said: str, model: str) -> RemoteLensError:
    """What a job's failure means, by what the server says of it."""
    last = key_line(said) or "it says nothing"
    if OWN_ERROR in last:
        return RemoteLensError(
            last[last.index(OWN_ERROR) + len(OWN_ERROR) :], "Nothing was computed."
        )
    low = last.lower()
    for in_block, words, happened, todo in _FAILURES:
        if (in_block or not said.startswith("Traceback")) and any(word in low for word in words):
            return RemoteLensError(happened.format(model=model, last=last), todo)
    return RemoteLensError(
        f"the job failed on the server: {last}",
        "The server's whole answer is in this error's __cause__. lens-recipes doctor --remote compares versions.",
    )


# Whether a block can raise it, words of what is said, what happened, what to do.
_FAILURES: tuple[tuple[bool, tuple[str, ...], str, str], ...] = (
    (
        False,
        ("could not deploy", "not deployed", "dedicated", "cannot be deployed"),
        "the server could not deploy {model}: {last}",
        "lens-recipes doctor --remote lists what it serves.",
    ),
    (
        True,
        ("out of memory",),
        "the server ran out of memory: {last}",
        "Ask for less at once: fewer positions or layers, a smaller max_bytes; an estimate says what a run needs.",
    ),
    (
        False,
        ("exceeded the execution timeout", "timed out"),
        "the server stopped the job for its time limit: {last}",
        "Pass fewer tokens per job (lens_recipes.remote_settings.tokens_per_job), fewer layers or fewer positions.",
    ),
    (
        True,
        ("unknownpersistentid", "architecture on this server"),
        "the server's {model} has not the modules that are known here: {last}",
        "Load the same revision as the server; lens-recipes doctor --remote compares the versions of transformers.",
    ),
    (
        False,
        ("submitting request to model deployment", "evicted", "preempted", "cancelled"),
        "the server's model went away while the job ran: {last}",
        "job.result() sends this part again.",
    ),
)


def key_line(said: str) -> str:
    """The line that matters of what a server says: of a traceback the last, of sentences the first."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [""]
    return lines[-1 if lines[0].startswith("Traceback") else 0]
