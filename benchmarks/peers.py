"""Time other tools at the same work: each has a process of its own, they take turns, and only equal numbers count.

    python benchmarks/peers.py                      # all works; JSON on stdout, one line each
    python benchmarks/peers.py --only "grid of 16 tokens" --repeat 3

TransformerLens lives in the environment that `make bench` and `make test-peers` install. The first line has its version
and that of its torch. What stands on each other line: the median seconds of each tool, the ratios of ours to theirs turn
by turn, and the largest distances of the numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from lens import text_ids

SIDES = Path(__file__).resolve().parent / "sides"
sys.path.insert(0, str(SIDES))
from works import LENS_LAYERS, WORKS, Work  # noqa: E402

import lens_recipes as lr  # noqa: E402
from lens_recipes.models import smollm2  # noqa: E402

PEERS = SIDES.parents[1] / ".venv-peers" / "bin" / "python"
OURS, THEIRS = "ours", "TransformerLens"
NEAR = 2e-3  # of log-probabilities, logits and entropies, in nats; of Jacobians, of their largest entry
LONG, MINUTE = 5, 60  # seconds
PROMPTS = ("I have been to Paris, the capital of", "I have been to Rome, the capital of")


class Tool:
    """A process that does works when it is told to."""

    def __init__(self, python: Path, script: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if python == PEERS:
            environment.pop("PYTHONPATH", None)  # theirs goes without this package
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [python, SIDES / script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env=environment,
        )

    def ask(self, request: dict[str, Any]) -> float | None:
        """Return the seconds of a work; None for a tool that has no such thing."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.said.seek(0)
            raise SystemExit(
                f"{self.process.args[1]} ended at {request['name']!r}:\n{self.said.read()[-2000:]}"
            )
        return json.loads(answer)["seconds"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.said.close()


def tools() -> dict[str, Tool]:
    """Start all tools."""
    if not PEERS.exists():
        raise SystemExit("TransformerLens is not installed: make test-peers installs it")
    python = Path(sys.executable)
    return {
        OURS: Tool(python, "own_side.py"),
        "transformers by hand": Tool(python, "hand_side.py", "transformers"),
        "nnsight by hand": Tool(python, "hand_side.py", "nnsight"),
        THEIRS: Tool(PEERS, "peer_side.py", str(smollm2.folder())),
    }


def their_versions() -> dict[str, str]:
    """Return the versions of what the other environment holds."""
    ask = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))"
    names = ["transformer-lens", "torch", "transformers"]
    done = subprocess.run([PEERS, "-c", ask % names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# -- what is asked -----------------------------------------------------


def request_of(work: Work, tokenizer: Any, lens: Path, folder: Path) -> dict[str, Any]:
    """Return what the tools are asked."""
    settings = work.settings
    if work.kind == "patch_map":
        ids = [tokenizer(text).input_ids[-settings["tokens"] :] for text in PROMPTS]
    else:
        ids = text_ids(tokenizer, settings.get("prompts", 1), settings["tokens"])
    target, against = (tokenizer(word).input_ids[0] for word in (" France", " Italy"))
    return {
        "name": work.name,
        "ids": ids,
        "folder": str(folder),
        "lens": str(lens),
        "target": target,
        "against": against,
    }


def saved_lens(folder: Path) -> Path:
    """Write a Jacobian lens that both tools read, fitted on one prompt."""
    model = lr.load("smollm2")
    path = folder / "lens.pt"
    ids = text_ids(model.tokenizer, 1, 24)
    lens = lr.fit_lens(model, ids, kind="jacobian", layers=LENS_LAYERS, quality_tokens=0)
    lens.save(path, format="jacobian")
    return path


# -- what comes of it --------------------------------------------------


def distance(ours: Any, theirs: Any) -> float:
    """Return how far two tools' numbers are apart at most, and infinity where they cannot be compared.

    Of the likeliest tokens, it is the distance of their log-probabilities, in order; where the first is well above
    the second, both tools must name the same one.
    """
    if not set(theirs) or not set(theirs) <= set(ours):
        return math.inf
    largest = 0.0
    for name in theirs:
        mine, other = (np.asarray(found[name], dtype=np.float64) for found in (ours, theirs))
        if mine.shape != other.shape or not np.isfinite(mine).all() or not np.isfinite(other).all():
            return math.inf
        if name == "top_ids":
            if not same_clear_tokens(ours, theirs):
                return math.inf
            continue
        scale = np.abs(mine).max() if name == "jacobians" else 1.0
        largest = max(largest, float(np.abs(mine - other).max() / scale))
    return largest


def same_clear_tokens(ours: Any, theirs: Any) -> bool:
    """Return whether both tools name the same top token wherever ours is well above the second."""
    logprobs = ours["top_logprobs"]
    is_clear = logprobs[..., 0] - logprobs[..., 1] > 2 * NEAR
    differs = ours["top_ids"][..., 0] != theirs["top_ids"][..., 0]
    return not (differs & is_clear).any()


def compared(work: Work, running: dict[str, Tool], request: dict[str, Any], repeat: int) -> dict:
    """Let the tools take turns at a work; the first turn shows that they agree.

    The first turn also warms up, and is not counted; but it is, for works so long that nothing of it is seen. Where a
    turn takes a minute, two are made.
    """
    seconds: dict[str, list[float]] = {}
    distances = {}
    folder = Path(request["folder"])
    while not seconds or len(seconds[OURS]) < repeat:
        is_first = not distances
        took_each = {}
        for name, tool in running.items():
            took = tool.ask(request | ({"keep": f"{name}.npz"} if is_first else {}))
            if took is None:
                continue
            took_each[name] = took
            if is_first and name != OURS:
                found = [dict(np.load(folder / f"{each}.npz")) for each in (OURS, name)]
                distances[name] = distance(*found)
        if is_first and sum(took_each.values()) > MINUTE:
            repeat = min(repeat, 2)
        if not is_first or max(took_each.values()) > LONG:
            for name, took in took_each.items():
                seconds.setdefault(name, []).append(took)
    far = {name: how_far for name, how_far in distances.items() if not how_far <= NEAR}
    if far:
        raise SystemExit(f"{work.name}: other numbers: {far}")
    ratios = {
        name: [round(mine / other, 3) for mine, other in zip(seconds[OURS], took, strict=True)]
        for name, took in seconds.items()
        if name != OURS
    }
    return {
        "work": work.name,
        "seconds": {name: round(statistics.median(took), 3) for name, took in seconds.items()},
        "ratios": ratios,
        "distances": {name: float(f"{how_far:.1e}") for name, how_far in distances.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    chosen = [work for work in WORKS if options.only is None or work.name in options.only]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lens = saved_lens(folder) if any(w.kind == "jacobian_read" for w in chosen) else Path()
        tokenizer = lr.load("smollm2").tokenizer
        running = tools()
        print(json.dumps({"versions": their_versions()}), flush=True)
        try:
            for work in chosen:
                request = request_of(work, tokenizer, lens, folder)
                asked = {n: t for n, t in running.items() if n in (OURS, THEIRS, *work.by_hand)}
                print(json.dumps(compared(work, asked, request, options.repeat)), flush=True)
        finally:
            for tool in running.values():
                tool.end()


if __name__ == "__main__":
    main()
