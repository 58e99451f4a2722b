"""A candidate on the bench: run in a process of its own, on a checkpoint that it has not seen, within a time limit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from answers import Answer, Check, Rejected, read
from checkpoints import save
from warm import WarmPython

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 120.0


class Ran(NamedTuple):
    """One process that has ended: its largest memory in bytes, and what it printed to stderr."""

    status: int
    seconds: float
    peak_bytes: int
    stderr: str


class Bench:
    """Where one candidate is tried.

    Attributes:
        candidate: The script.
        folder: For checkpoints, inputs and answers.
        ran: The last process.
    """

    def __init__(self, candidate: Path, folder: Path, limit_s: float = LIMIT_S, warm: WarmPython | None = None) -> None:
        """`warm` runs the candidate where torch is imported already; without one, python is started anew."""
        self.candidate, self.folder, self.limit_s, self.warm = candidate.resolve(), folder, limit_s, warm
        self.ran: Ran | None = None

    def checkpoint(self, module: PreTrainedModel, name: str = "model") -> Path:
        """A folder with the model and the tokenizer."""
        return save(module, self.folder / name)

    def run(
        self, model: Path | str, inputs: dict[str, Any], runner: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> Answer:
        """What the candidate answers: `python candidate.py MODEL OUT.json INPUTS.json`.

        Args:
            model: MODEL.
            inputs: What INPUTS.json holds.
            runner: A script, and its arguments, that runs the candidate in its own process.
            env: More environment variables; python is then started anew.

        Raises:
            Rejected: it fails, takes too long, or writes something malformed.
        """
        self.call(model, inputs, runner, env)
        return Answer(read(self.folder / "out.json"))

    def call(
        self, model: Path | str, inputs: dict[str, Any], runner: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> None:
        """As `run`, for a call that need not write an answer."""
        out, asked = self.folder / "out.json", self.folder / "inputs.json"
        out.unlink(missing_ok=True)
        asked.write_text(json.dumps(inputs), encoding="utf-8")
        command = [*runner, str(self.candidate), str(model), str(out), str(asked)]
        if self.warm is None or env:
            self.ran = self._cold(command, env)
        else:
            took = self.warm.run(command, self.limit_s, self.folder)
            self.ran = Ran(*took, (self.folder / "stderr.txt").read_text(encoding="utf-8", errors="replace"))
        if self.ran.status == -signal.SIGKILL and self.ran.seconds >= self.limit_s:
            raise Rejected(f"The script had not ended after {self.limit_s:.0f} s.")
        if self.ran.status != 0:
            last = (self.ran.stderr.strip().splitlines() or ["nothing was printed"])[-1]
            raise Rejected(f"The script ended with status {self.ran.status}: {last[:300]}")

    def _cold(self, command: list[str], env: dict[str, str] | None) -> Ran:
        log = self.folder / "stderr.txt"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *command], env=environment(env), cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            )  # fmt: skip
            process.returncode, seconds, peak = waited(process.pid, self.limit_s)
        return Ran(process.returncode, seconds, peak, log.read_text(encoding="utf-8", errors="replace"))


def waited(pid: int, limit_s: float) -> tuple[int, float, int]:
    """Wait for a process, and kill its group when its time is over: status, seconds, largest memory in bytes."""
    started, killed, peak = time.monotonic(), False, 0
    while True:
        peak = max(peak, _peak(pid))
        done, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            return os.waitstatus_to_exitcode(status), seconds, peak
        if not killed and seconds > limit_s:
            os.killpg(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.02)


def _peak(pid: int) -> int:
    """The largest memory of a process so far, in bytes; 0 where nothing says so, or it has ended.

    Not `ru_maxrss`: that of a new process begins with what its parent held.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Of a candidate: this package can be imported, and no hub is asked."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **settings, **(more or {})}


def lines_of_code(source: str) -> int:
    """Lines that hold code: not blank, no comment alone, no docstring. A call over three lines counts three.

    (A docstring is any string that is a statement by itself.) Of what is no Python, lines that are not blank.
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return sum(bool(line.strip()) for line in source.splitlines())
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    held: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type not in skipped:
            statement.append(token)
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if any(part.type != tokenize.STRING for part in statement):
                held |= {line for part in statement for line in range(part.start[0], part.end[0] + 1)}
            statement = []
    return len(held)


# -- the tasks ---------------------------------------------------------

Task = Callable[[Bench], Iterator[Check]]
TASKS: dict[str, Task] = {}


def task(function: Task) -> Task:
    """Register a task under its function's name: it runs the candidate, and yields its assertions."""
    TASKS[function.__name__] = function
    return function
