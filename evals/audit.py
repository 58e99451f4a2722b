"""Try every reference solution and every classic wrong answer, without any language model.

    python evals/audit.py [TASK …]

A solution must pass in under ten lines; a wrong answer must be rejected, and for its reason: its docstring names the
task, the assertions that it fails and, where it gives no answer that could be judged, a pattern of what is said of
that. Also checks the form of evals.json and triggers.json. Status 1 when anything is unexpected.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench import TASKS, environment
from forms import complaints, expectations, solution
from verify import Verdict, verify
from warm import WarmPython

HERE = Path(__file__).resolve().parent
MOST_LINES = 9
AT_ONCE = 2  # processes; each takes one core


class Trial(NamedTuple):
    """One script at one task.

    Attributes:
        fails: The assertions that it must fail, none for a reference solution.
        says: A pattern in what it prints to stderr, or in the sentence with which it is rejected.
    """

    task: str
    script: Path
    fails: tuple[str, ...] = ()
    says: str = ""


class Outcome(NamedTuple):
    """What came of a trial, and what is unexpected in that; empty when nothing is."""

    trial: Trial
    verdict: Verdict
    surprise: str


def trials(tasks: list[str]) -> list[Trial]:
    """All solutions and wrong answers of some tasks, task by task."""
    wrong = [_wrong(path) for path in sorted((HERE / "wrong").glob("[!_]*.py"))]
    found: list[Trial] = []
    for task in tasks:
        found += [Trial(task, solution(task)), *(trial for trial in wrong if trial.task == task)]
    return found


def _wrong(path: Path) -> Trial:
    text = path.read_text(encoding="utf-8")
    task, fails, says = (re.search(rf"^{key}: (.+)$", text, re.MULTILINE) for key in ("task", "fails", "says"))
    if not task or not fails or task[1] not in TASKS:
        raise SystemExit(f"{path} must name a task and what it fails in its docstring: `task: …`, `fails: …, …`.")
    if fails[1] == "answer" and not says:
        raise SystemExit(f"{path} fails as any crash does: its docstring must tell it apart by `says: REGEX`.")
    return Trial(task[1], path, tuple(fails[1].split(", ")), says[1] if says else "")


def surprise_of(trial: Trial, verdict: Verdict) -> str:
    """What a verdict should not be, in words."""
    if trial.fails:
        if verdict.passed:
            return "a wrong answer passed"
        failed = {*verdict.failed, *map(expectation_of, verdict.failed)}
        if lost := [name for name in trial.fails if name not in failed]:
            return f"rejected for {', '.join(verdict.failed)}, not for {', '.join(lost)}"
        said = "\n".join([verdict.stderr, *(check.detail for check in verdict.checks if not check.passed)])
        return "" if re.search(trial.says, said) else f"rejected, but nothing says {trial.says!r}: {said[-200:]}"
    if not verdict.passed:
        return "; ".join(f"{check.name}: {check.detail}" for check in verdict.checks if not check.passed)
    if verdict.lines > MOST_LINES:
        return f"{verdict.lines} lines"
    unnamed = {expectation_of(check.name) for check in verdict.checks} ^ expectations()[trial.task]
    return f"assertions and expectations in evals.json differ in {', '.join(sorted(unnamed))}" if unnamed else ""


def expectation_of(assertion: str) -> str:
    """The expectation "ranks" of the assertion "ranks of mamba": what is said of several cases is one."""
    return assertion.split(" of ")[0]


_warm: list[WarmPython] = []


def _start() -> None:
    _warm.append(WarmPython(environment({"OMP_NUM_THREADS": "1"})))


def _try(trial: Trial) -> Outcome:
    verdict = verify(trial.task, trial.script, warm=_warm[0])
    return Outcome(trial, verdict, surprise_of(trial, verdict))


def outcomes(asked: list[Trial], at_once: int = AT_ONCE) -> Iterator[Outcome]:
    """The trials in order, some of them at once, in forks of this process: nothing may have run in it yet."""
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("fork"), _start) as pool:
        yield from pool.map(_try, asked)


def row(outcome: Outcome) -> str:
    """One line of the table."""
    trial, verdict, surprise = outcome
    name = f"{trial.script.parent.name}/{trial.script.stem}"
    said = "passed" if verdict.passed else f"rejected: {', '.join(dict.fromkeys(map(expectation_of, verdict.failed)))}"
    end = f"   UNEXPECTED: {surprise}" if surprise else ""
    return f"{trial.task:27} {name:45} {verdict.lines:3} lines {verdict.seconds:5.1f} s   {said}{end}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"tasks: {', '.join(TASKS)}")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="all where none is named")
    options = parser.parse_args()
    if unknown := [task for task in options.tasks if task not in TASKS]:
        parser.error(f"no such task: {', '.join(unknown)}")
    started, bad, lines, rejected = time.monotonic(), complaints(), [], 0
    for complaint in bad:
        print(complaint)
    for outcome in outcomes(trials(options.tasks or list(TASKS))):
        print(row(outcome), flush=True)
        bad += [outcome.surprise] if outcome.surprise else []
        if outcome.trial.fails:
            rejected += not outcome.verdict.passed
        else:
            lines.append(outcome.verdict.lines)
    print(
        f"{len(lines)} solutions, {sum(lines)} lines, at most {max(lines)}; {rejected} wrong answers rejected; "
        f"{len(bad)} surprises; {time.monotonic() - started:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
