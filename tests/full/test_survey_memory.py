"""A survey of ten times as many items takes no more memory while it runs than its numbers themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

SURVEYED = """
import json, resource, sys
sys.path.insert(0, {tests!r})
import numpy as np
from tiny import shared
import lens_recipes as lr

def items(n):
    rng = np.random.default_rng(0)
    for _ in range(n):
        yield {{"prompt": rng.integers(6, 101, rng.integers(2, 20)).tolist(), "target": int(rng.integers(6, 101))}}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

found = {{}}
for n in (500, 2_000, 20_000):
    survey = lr.survey(shared("llama"), items(n), path={folder!r} + "/" + str(n))
    assert len(survey) == n
    found[n] = peak()
    del survey
print(json.dumps(found))
"""

# Eleven numbers at four sites, thrice while they are joined; and what the item is called.
BYTES_OF_AN_ITEM = 3 * (11 * 4 * 4 + 40) + 1000
SLACK = 8 * 2**20


def test_twenty_thousand_items_take_the_memory_of_their_numbers(tmp_path):
    script = SURVEYED.format(tests=str(TESTS), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=3000)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    peaks = {int(n): taken for n, taken in json.loads(done.stdout).items()}
    more = peaks[20_000] - peaks[2_000]
    assert more < SLACK + 18_000 * BYTES_OF_AN_ITEM, peaks
