"""How the benchmarks measure: contenders in turn beside the floor of their turn (ratios count), memory each alone."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def side_by_side(
    runs: dict[str, Callable[[], object]],
    repeat: int,
    floor: str = "floor",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict]:
    """Median seconds of each contender, its ratios to the floor turn by turn, and their median; the first turn warms up.

    `time.process_time` as the clock counts the processor's own time, where others are at work on the machine.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if turn:
                seconds[name].append(clock() - started)
    ratios = {
        name: [round(v / f, 3) for v, f in zip(values, seconds[floor], strict=True)]
        for name, values in seconds.items()
        if name != floor
    }
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio_to_floor": {
            name: round(statistics.median(values), 3) for name, values in ratios.items()
        },
        "ratios": ratios,
    }


def grown(run: Callable[[], object]) -> dict[str, int]:
    """Peak resident megabytes of this process before and after a run: a peak can only be seen to grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"before_mb": before, "peak_mb": after, "grown_mb": after - before}


def peak_beyond(run: Callable[[], object]) -> dict[str, float]:
    """Resident megabytes of this process before a run, and at its peak: Linux forgets the peak of what was before."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return grown(run)
    before = status_mb("VmRSS")
    run()
    peak = status_mb("VmHWM")
    return {"before_mb": before, "peak_mb": peak, "grown_mb": round(peak - before, 1)}


def status_mb(name: str) -> float:
    """A number of megabytes that Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def each_alone(script: str, cases: Iterable[object]) -> None:
    """Print what `script --memory-of CASE` says of each case, each in a fresh process."""
    for case in cases:
        command = [sys.executable, script, "--memory-of", str(case)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(json.dumps({str(case): json.loads(out)}), flush=True)
