"""What a recipe says when it will not go on."""

from __future__ import annotations

from typing import Any


class LensError(Exception):
    """The model or the run does not allow a lens that is right.

    A wrong *argument* is a `ValueError`; a `LensError` is about the model (its structure, its weights, where
    they are) or about numbers that failed their own check. The message says what was found and what to do.
    """


class RemoteLensError(LensError):
    """A server could not be used, or its job failed.

    Attributes:
        happened: What went wrong.
        todo: What to do.
        may_finish: Whether a job that the server accepted may still finish there.
        job: The `Job` that it is about, with all that has arrived; None where nothing was sent.
            `error.job.result()` goes on, and computes nothing twice.
    """

    def __init__(
        self, happened: str, todo: str, *, may_finish: bool = False, job: Any = None
    ) -> None:
        super().__init__(happened, todo)
        self.happened, self.todo, self.may_finish, self.job = happened, todo, may_finish, job

    def __str__(self) -> str:
        still = " The job may still finish on the server." if self.may_finish else ""
        return f"{self.happened}{still} {self.todo}"

    def __reduce__(self) -> Any:
        return _rebuilt, (self.happened, self.todo, self.may_finish)


def _rebuilt(happened: str, todo: str, may_finish: bool) -> RemoteLensError:
    return RemoteLensError(happened, todo, may_finish=may_finish)
