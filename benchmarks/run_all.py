"""Run the measurements, hold each ratio against its goal, and write docs/performance.md.

    make bench                                      # all, in under 25 minutes on two cores
    python benchmarks/run_all.py --only peers pages   # these again; the page keeps what was measured of the others
    python benchmarks/run_all.py --page               # the page alone, from what was measured

The program ends with 1 where a goal is missed (see `performance/goals.py`) or a script fails; the page is written all the
same. What each script printed is kept in `benchmarks/measured/`, with the machine and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from performance.goals import Line  # noqa: E402
from performance.page import MEASURED, PAGE, VERSIONS, page, ratios_of  # noqa: E402
from performance.sections import SECTIONS, Section  # noqa: E402

MINUTES = 25  # that all of it should take on two cores


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(section: Section) -> bool:
    """Run a section's scripts and keep what they print; return whether all of them ended well."""
    started = time.monotonic()
    lines: list[Line] = []
    for script, *arguments in section.commands:
        print(f"{section.name}: {' '.join([script, *arguments])}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, HERE / script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode:
            print(f"{script} ended with {done.returncode}: its section keeps what it had", file=sys.stderr)  # fmt: skip
            return False
    kept = {"machine": machine(), "seconds": round(time.monotonic() - started), "lines": lines}
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / f"{section.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return True


def main() -> None:
    """Measure, write the page, and say which goals are missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    chosen = [] if options.page else [each for each in SECTIONS if each.name in options.only]
    started = time.monotonic()
    ended_well = [measure(section) for section in chosen]
    minutes = (time.monotonic() - started) / 60
    PAGE.write_text(page(), encoding="utf-8")
    missed = [ratio for section in chosen for ratio in ratios_of(section) if ratio.misses()]
    for ratio in missed:
        print(f"missed: {ratio.work} beside {ratio.beside}: {ratio.turns}, goal {ratio.goal}")
    if chosen:
        print(f"{minutes:.1f} minutes{f': more than {MINUTES}' if minutes > MINUTES else ''}")
    sys.exit(1 if missed or not all(ended_well) else 0)


if __name__ == "__main__":
    main()
