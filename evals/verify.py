"""Try a candidate script on a task: python evals/verify.py TASK candidate.py [--time-limit SECONDS]

The task's checkpoints are made anew, the script runs in a process of its own, and its numbers are compared with those
that plain torch and the Hugging Face model give. Prints each assertion, and the candidate's lines of code: lines that
are not blank, no comment and no docstring. Status 0: all hold; 1: one does not; 2: no such task or file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import tasks_images  # noqa: F401 - each of these registers its tasks
import tasks_lens  # noqa: F401
import tasks_parts  # noqa: F401
import tasks_running  # noqa: F401
import tasks_server  # noqa: F401
from answers import Check, Rejected
from bench import LIMIT_S, TASKS, Bench, lines_of_code
from warm import WarmPython


@dataclass(frozen=True)
class Verdict:
    """What came of one candidate at one task. `seconds` and `stderr` are of its last process."""

    task: str
    checks: list[Check]
    lines: int
    seconds: float
    stderr: str = ""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if not check.passed]

    def __str__(self) -> str:
        rows = [f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}" for check in self.checks]
        kept = sum(check.passed for check in self.checks)
        end = f"{kept} of {len(self.checks)} assertions hold"
        return "\n".join([*rows, f"{self.task}: {end}; {self.lines} lines of code, {self.seconds:.1f} s"])


def verify(task: str, candidate: Path, limit_s: float = LIMIT_S, warm: WarmPython | None = None) -> Verdict:
    """Run one candidate, and judge it. The first assertion, "answer", is that it runs and writes what was asked for."""
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(candidate, Path(folder), limit_s, warm)
        try:
            for check in TASKS[task](bench):
                checks.append(check)  # what was judged before a rejection is kept
            checks.insert(0, Check("answer", True, "it ran, and wrote what was asked for"))
        except Rejected as rejected:
            checks.append(Check(rejected.assertion, False, str(rejected)))
    lines = lines_of_code(candidate.read_text(encoding="utf-8", errors="replace"))
    seconds, stderr = (bench.ran.seconds, bench.ran.stderr) if bench.ran else (0.0, "")
    return Verdict(task, checks, lines, seconds, stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"tasks: {', '.join(TASKS)}")
    parser.add_argument("task", choices=TASKS, metavar="TASK")
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--time-limit", type=float, default=LIMIT_S, help="seconds for one run of the script")
    options = parser.parse_args()
    if not options.candidate.is_file():
        parser.error(f"{str(options.candidate)!r} is no file: name the script that is to be tried.")
    verdict = verify(options.task, options.candidate, options.time_limit)
    print(verdict)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
