"""The errors that recipes raise when they will not go on."""

from __future__ import annotations

from typing import Any

from lens_recipes.terminal import escape_terminal


class LensError(Exception):
    """The model or the run does not allow a lens that is right.

    A wrong *argument* is a `ValueError`. A `LensError` is about the model (its structure, its
    weights, where they are) or about numbers that failed their own check. The message says what was
    found and what to do. Whatever it quotes has no effect on the terminal that shows it.
    """

    def __init__(self, *words: object) -> None:
        super().__init__(*(escape_terminal(str(word)) for word in words))


class RemoteLensError(LensError):
    """A server could not be used, or its job failed.

    Attributes:
        happened: What went wrong.
        todo: What to do.
        may_finish: Whether a job that the server accepted may still finish there.
        job: The `Job` in question, with all that has arrived; None where nothing was sent.
            `error.job.result()` goes on, and computes nothing twice.
    """

    def __init__(
        self, happened: str, todo: str, *, may_finish: bool = False, job: Any = None
    ) -> None:
        super().__init__(happened, todo)
        self.happened: str = self.args[0]
        self.todo: str = self.args[1]
        self.may_finish = may_finish
        self.job = job

    def __str__(self) -> str:
        if self.may_finish:
            return f"{self.happened} The job may still finish on the server. {self.todo}"
        return f"{self.happened} {self.todo}"

    def __reduce__(self) -> Any:
        # By a function, because of the keyword argument. The job is left out: it holds the model.
        return _rebuild_remote_error, (self.happened, self.todo, self.may_finish)


def _rebuild_remote_error(happened: str, todo: str, may_finish: bool) -> RemoteLensError:
    """Return the error that was pickled, without its job."""
    return RemoteLensError(happened, todo, may_finish=may_finish)
