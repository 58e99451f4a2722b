"""Does a survey that is killed again and again come to the same numbers, and what memory does it take?

    python benchmarks/survey_killed.py smollm2 [N]      # 2,000 items of about 20 tokens
    python benchmarks/survey_killed.py tiny [N]         # 20,000 items of a small random model

One process makes the whole survey. Another one is killed by SIGKILL at random moments, five times, and started
again in the same folder until it ends. Both must agree to the last bit. The peak of memory of a tenth of the items
stands beside that of all.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import lens_recipes as lr
from lens_recipes.arrays.survey.arrays import SURVEY_AXES

ROOT = Path(__file__).parents[1]
N_ITEMS = {"smollm2": 2000, "tiny": 20_000}
N_KILLS = 5

CHILD = """
import json, resource, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import numpy as np
import lens_recipes as lr

def items(n, highest):
    rng = np.random.default_rng(0)
    for _ in range(n):
        prompt = rng.integers(6, highest, rng.integers(15, 26)).tolist()
        yield {{"prompt": prompt, "target": int(rng.integers(6, highest))}}

name, n, folder, file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
if name == "tiny":
    from tiny import shared
    model, highest = shared("llama"), 101
else:
    model, highest = lr.load(name), 40_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = lr.survey(model, items(n, highest), path=folder)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found.save(file)
print(json.dumps([before / 1024, after / 1024]))
"""


def child(name: str, n: int, folder: Path) -> subprocess.Popen:
    """Start a process that makes a survey in a folder."""
    script = CHILD.format(root=str(ROOT))
    command = [sys.executable, "-c", script, name, str(n), str(folder), f"{folder}.npz"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def peaks(process: subprocess.Popen) -> tuple[float, float]:
    """MB before and after the survey of a process, which must end well."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}")
    before, after = json.loads(out)
    return before, after


def main(name: str = "smollm2", n_items: int | None = None) -> None:
    n = N_ITEMS[name] if n_items is None else n_items
    random.seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for count in (n // 10, n):
            started = time.monotonic()
            before, after = peaks(child(name, count, folder / f"whole-{count}"))
            seconds = time.monotonic() - started
            print(
                f"{count} items: {seconds:.0f} s, peak {before:.0f} MB before, {after:.0f} MB after"
            )
        kills = 0
        while kills < N_KILLS:
            process = child(name, n, folder / "killed")
            try:
                process.wait(timeout=random.uniform(0.15, 0.6) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                done = len(list((folder / "killed").glob("block-*.npz")))
                print(f"killed by signal {-process.returncode}, {done} blocks done")
            else:
                break
        peaks(child(name, n, folder / "killed"))
        one, other = (
            lr.Survey.load(folder / f"whole-{n}.npz"),
            lr.Survey.load(folder / "killed.npz"),
        )
    for each in SURVEY_AXES:
        np.testing.assert_array_equal(getattr(one, each), getattr(other, each), err_msg=each)
    assert (one.names, one.left_out, one.texts) == (other.names, other.left_out, other.texts)
    assert one.certificate == other.certificate
    print(f"killed {kills} times and resumed: equal to the last bit, {len(one)} items")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
