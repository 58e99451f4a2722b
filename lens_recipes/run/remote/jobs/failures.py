"""What the failure of a job means, by its server's report, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple

from lens_recipes.caller import RUN_AGAIN, say
from lens_recipes.errors import RemoteLensError
from lens_recipes.trace.pack import OWN_ERROR


class KnownFailure(NamedTuple):
    """A way in which jobs fail, and how it is told from others.

    Attributes:
        in_trace: Whether an exception in the trace can say it; else only the server itself does.
        phrases: What the line that matters holds, one of them, in lower case.
        happened, todo: For the `RemoteLensError`, where {model} and {line} stand for themselves.
        in_a_shell: What to do in a shell, where it is not `todo`.
    """

    in_trace: bool
    phrases: tuple[str, ...]
    happened: str
    todo: str
    in_a_shell: str = ""


KNOWN_FAILURES = (
    KnownFailure(
        in_trace=False,
        phrases=("could not deploy", "not deployed", "dedicated", "cannot be deployed"),
        happened="the server could not deploy {model}: {line}",
        todo="lens-recipes doctor --remote lists what it serves.",
    ),
    KnownFailure(
        in_trace=True,
        phrases=("out of memory",),
        happened="the server ran out of memory: {line}",
        todo="Ask for less at once: fewer positions or layers, a smaller max_bytes; an estimate "
        "says what a run needs.",
        in_a_shell="Ask for less at once: fewer --positions or --layers.",
    ),
    KnownFailure(
        in_trace=False,
        phrases=("exceeded the execution timeout", "timed out"),
        happened="the server stopped the job for its time limit: {line}",
        todo="Pass fewer tokens per job (lens_recipes.remote_settings.tokens_per_job), fewer "
        "layers or fewer positions.",
        in_a_shell="Ask for less at once: fewer prompts, --positions or --layers.",
    ),
    KnownFailure(
        in_trace=True,
        phrases=("unknownpersistentid", "architecture on this server"),
        happened="the server's {model} has not the modules that are known here: {line}",
        todo="Load the same revision as the server; lens-recipes doctor --remote compares the "
        "versions of transformers.",
    ),
    # nnsight 0.8.1 with transformers 5.23 or newer, for a key that is not trusted.
    KnownFailure(
        in_trace=True,
        phrases=("impossible to guess which tokenizer",),
        happened="the server cannot build its model apart from the weights: {line}",
        todo="Ask those who run it for transformers 5.22, or to trust your key.",
    ),
    KnownFailure(
        in_trace=False,
        phrases=("submitting request to model deployment", "evicted", "preempted", "cancelled"),
        happened="the server's model went away while the job ran: {line}",
        todo="job.result() sends this part again.",
        in_a_shell=RUN_AGAIN,
    ),
)


def diagnose(report: str, model: str) -> RemoteLensError:
    """Return what a job's failure means, by the server's report of it."""
    line = key_line(report) or "it says nothing"
    if OWN_ERROR in line:
        _, _, own_words = line.partition(OWN_ERROR)
        return RemoteLensError(own_words, "Nothing was computed.")
    from_trace = _is_traceback(report)
    for failure in KNOWN_FAILURES:
        if from_trace and not failure.in_trace:
            continue
        if any(phrase in line.lower() for phrase in failure.phrases):
            todo = say(python=failure.todo, shell=failure.in_a_shell or failure.todo)
            return RemoteLensError(failure.happened.format(model=model, line=line), todo)
    return RemoteLensError(
        f"the job failed on the server: {line}",
        "The server's whole answer is in this error's __cause__. "
        "lens-recipes doctor --remote compares versions.",
    )


def key_line(report: str) -> str:
    """Return the line of a report that matters: the last of a traceback, else the first."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    if not lines:
        return ""
    if _is_traceback(lines[0]):
        return lines[-1]
    return lines[0]


def _is_traceback(report: str) -> bool:
    """Return whether a report shows an exception in the trace, with Python's own first line."""
    return report.startswith("Traceback")
