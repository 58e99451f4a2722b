"""Contenders run in turn in one process, each beside the floor of its own turn: machines are noisy, ratios count."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable


def side_by_side(runs: dict[str, Callable[[], object]], repeat: int, floor: str = "floor") -> dict[str, dict]:
    """Median seconds of each contender, and the median of its ratios to the floor; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: statistics.median(v / f for v, f in zip(values, seconds[floor], strict=True))
        for name, values in seconds.items()
        if name != floor
    }
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio_to_floor": {name: round(value, 3) for name, value in ratios.items()},
    }


def peak_mb() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
