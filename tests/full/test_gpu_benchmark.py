"""The benchmark for GPUs runs as a whole where there is none: its times mean nothing, its cases are all there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
CASES = {
    "grid", "last", "waits", "generation", "memory", "heads", "tiles", "jacobian", "profile", "linear",
}  # fmt: skip


def lines_of(*options: str) -> list[dict]:
    """What it prints, line by line."""
    command = [sys.executable, BENCHMARK, "--shape", "tiny", "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


PEAK_FLOPS = 1e9
# Of the small llama, from its shapes: the weights of three blocks, and four products of attention that pull back
# its two, for 24 - 17 sources and 32 dimensions.
LLAMA_OPERATIONS = 32 * 7 * (2 * 3 * (3072 + 6144 + 64) + 8 * 7 * 3 * 32)


def test_every_case_of_every_shape_says_something():
    limits = ("--repeat", "1", "--seconds", "1e6", "--peak-tflops", str(PEAK_FLOPS / 1e12))
    first, *lines, last = lines_of(*limits)
    assert first["is_a_measurement"] is False
    assert last == {"skipped": [], "failed": []}
    seen = set()
    for line in lines:
        assert "error" not in line, line
        if "case" in line:
            seen.add((line["shape"], line["case"]))
    assert seen == {(shape, case) for shape in ("llama", "gemma", "moe") for case in CASES}
    for line in lines:
        if line.get("case") == "grid":
            assert line["certificate_passed"]
        if line.get("case") == "jacobian":
            assert line["sources"] == 7
            assert line["bound_seconds"] == line["operations"] / PEAK_FLOPS
            for name, seconds in line["seconds_of_prompt"].items():
                assert line["ratio_to_bound"][name] == seconds / line["bound_seconds"]
        if (line.get("shape"), line.get("case")) == ("llama", "jacobian"):
            assert line["operations"] == LLAMA_OPERATIONS
        if line.get("case") == "waits":
            # On a processor links are asked for one by one; tiles and chunks ask for nothing.
            assert len(set(line["grows"].values())) <= 1


def test_what_there_was_no_time_for_is_named():
    *_, last = lines_of("--seconds", "0", "--case", "grid", "last")
    assert last["skipped"] == [f"{shape} {case}" for shape in ("llama", "gemma", "moe") for case in ("grid", "last")]  # fmt: skip
