"""One tool in a process of its own that does works when it is told to, so that several take turns.

A line of JSON on standard input names a work; the answer, a line on standard output, has the seconds that it took.
The numbers that it found go into a file, once, so that tools are only timed where they agree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from works import work_named

# What a work needs of a request, and what is then timed: it returns the numbers that were found.
Prepare = Callable[[dict[str, Any], dict[str, int]], Callable[[], dict[str, Any]]]


def serve(prepared: dict[str, Prepare]) -> None:
    """Do works until the standard input ends.

    Args:
        prepared: What prepares each kind of work, outside the time that is measured.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a tool prints is no answer
    runs: dict[str, Callable[[], dict[str, Any]]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        work = work_named(asked["name"])
        if work.kind not in prepared:
            print(json.dumps({"seconds": None}), file=answers, flush=True)
            continue
        if work.name not in runs:
            runs.clear()  # one work's inputs at a time
            runs[work.name] = prepared[work.kind](asked, work.settings)
        started = time.perf_counter()
        found = runs[work.name]()
        seconds = time.perf_counter() - started
        if asked.get("keep"):
            np.savez(Path(asked["folder"]) / asked["keep"], **found)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
