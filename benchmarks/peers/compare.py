"""How long do other tools take for the same work? Each tool has a process, they take turns, and only equal numbers count.

    python benchmarks/peers/compare.py                      # all works; JSON on stdout, one line each
    python benchmarks/peers/compare.py --only "grid of 16 tokens" --repeat 3

TransformerLens lives in the environment that `make test-peers` installs. What stands on a line: the median seconds of
each tool, the ratios of ours to theirs turn by turn, and the largest distances of the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from works import LENS_LAYERS, WORKS, Work

import lens_recipes as lr
from lens_recipes.models import smollm2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
PEERS = HERE.parents[1] / ".venv-peers" / "bin" / "python"
OURS, THEIRS = "ours", "TransformerLens"
NEAR = 2e-3  # of log-probabilities, logits and entropies, in nats; of Jacobians, of their largest entry
PROMPTS = ("I have been to Paris, the capital of", "I have been to Rome, the capital of")


class Tool:
    """A process that does works when it is told to."""

    def __init__(self, python: Path, script: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if python == PEERS:
            environment.pop("PYTHONPATH", None)  # theirs goes without this package
        self.process = subprocess.Popen(
            [python, HERE / script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, request: dict[str, Any]) -> float | None:
        """Return the seconds of a work; None for a tool that has no such thing."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args[1]} ended at {request['name']!r}")
        return json.loads(answer)["seconds"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def tools() -> dict[str, Tool]:
    """Start all tools; TransformerLens where it is installed."""
    python = Path(sys.executable)
    started = {
        OURS: Tool(python, "own_side.py"),
        "transformers by hand": Tool(python, "hand_side.py", "transformers"),
        "nnsight by hand": Tool(python, "hand_side.py", "nnsight"),
    }
    if PEERS.exists():
        started[THEIRS] = Tool(PEERS, "peer_side.py", str(smollm2.folder()))
    else:
        print("no TransformerLens: make test-peers installs it", file=sys.stderr)
    return started


# -- what is asked -----------------------------------------------------


def manual_ids(tokenizer: Any, prompts: int, tokens: int) -> list[list[int]]:
    """Return English prose from Python's own manual, cut into prompts of one length."""
    import pydoc_data.topics

    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = tokenizer(words[: 40 * prompts * tokens]).input_ids
    return [ids[i * tokens : (i + 1) * tokens] for i in range(prompts)]


def request_of(work: Work, tokenizer: Any, lens: Path, folder: Path) -> dict[str, Any]:
    """Return what the tools are asked."""
    settings = work.settings
    if work.kind == "patch_map":
        ids = [tokenizer(text).input_ids[-settings["tokens"] :] for text in PROMPTS]
    else:
        ids = manual_ids(tokenizer, settings.get("prompts", 1), settings["tokens"])
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
    ids = manual_ids(model.tokenizer, 1, 24)
    lens = lr.fit_lens(model, ids, kind="jacobian", layers=LENS_LAYERS, quality_tokens=0)
    lens.save(path, format="jacobian")
    return path


# -- what comes of it --------------------------------------------------


def distance(ours: Any, theirs: Any) -> float:
    """Return how far two tools' numbers are apart; of tokens, the share that differ where no logits tie."""
    largest = 0.0
    for name in set(ours) & set(theirs):
        mine, other = (np.asarray(found[name], dtype=np.float64) for found in (ours, theirs))
        if mine.shape != other.shape:
            raise SystemExit(f"{name}: {mine.shape} is not {other.shape}")
        if name == "top_ids":
            largest = max(largest, untied(ours, theirs))
        else:
            scale = np.abs(mine).max() if name == "jacobians" else 1.0
            largest = max(largest, float(np.abs(mine - other).max() / scale))
    return largest


def untied(ours: Any, theirs: Any) -> float:
    """Return the share of cells whose top token differs, though the second is well below it."""
    logprobs = ours["top_logprobs"]
    is_clear = logprobs[..., 0] - logprobs[..., 1] > NEAR
    differs = ours["top_ids"][..., 0] != theirs["top_ids"][..., 0]
    return float((differs & is_clear).mean())


def compared(work: Work, running: dict[str, Tool], request: dict[str, Any], repeat: int) -> dict:
    """Let the tools take turns at a work; the first turn warms up, and shows that they agree."""
    seconds: dict[str, list[float]] = {}
    distances = {}
    folder = Path(request["folder"])
    for turn in range(repeat + 1):
        for name, tool in running.items():
            keep = {"keep": f"{name}.npz"} if turn == 0 else {}
            took = tool.ask(request | keep)
            if took is not None and turn:
                seconds.setdefault(name, []).append(took)
            if took is not None and turn == 0 and name != OURS:
                found = [dict(np.load(folder / f"{each}.npz")) for each in (OURS, name)]
                distances[name] = distance(*found)
    far = {name: how_far for name, how_far in distances.items() if how_far > NEAR}
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
        try:
            for work in chosen:
                request = request_of(work, tokenizer, lens, folder)
                print(json.dumps(compared(work, running, request, options.repeat)), flush=True)
        finally:
            for tool in running.values():
                tool.end()


if __name__ == "__main__":
    main()
