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


def test_every_case_of_every_shape_says_something():
    first, *lines, last = lines_of("--repeat", "1", "--seconds", "600")
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
            assert line["bound_seconds"] < min(line["seconds_of_prompt"].values())
        if line.get("case") == "waits":
            # On a processor links are asked for one by one; tiles and chunks ask for nothing.
            assert len(set(line["grows"].values())) <= 1


def test_what_there_was_no_time_for_is_named():
    *_, last = lines_of("--seconds", "0", "--case", "grid", "last")
    assert last["skipped"] == [f"{shape} {case}" for shape in ("llama", "gemma", "moe") for case in ("grid", "last")]  # fmt: skip
