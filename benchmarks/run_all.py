"""Run the measurements, hold each ratio against its goal, and write docs/performance.md.

    make bench                                      # all, in under 25 minutes on two cores
    python benchmarks/run_all.py --only peers pages   # these again; the page keeps what was measured of the others
    python benchmarks/run_all.py --page               # the page alone, from what was measured

A ratio misses its goal where it is more than 15 % above it in two of three turns: then the page is written, and the
program ends with 1. What each script printed is kept in `benchmarks/measured/`, with the machine and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MEASURED = HERE / "measured"
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(HERE / "peers"))
from works import WORKS  # noqa: E402

Line = dict[str, Any]
LEEWAY = 1.15  # above a goal: these machines are noisy
VERSIONS = ("torch", "transformers", "nnsight", "plotly")


class Ratio(NamedTuple):
    """How many times as long as something else a work takes, turn by turn; the goal, if there is one."""

    work: str
    beside: str
    turns: list[float]
    goal: float | None

    @property
    def median(self) -> float:
        """The middle one of the turns."""
        return statistics.median(self.turns)

    def misses(self) -> bool:
        """Return whether it is well above its goal in two of three turns."""
        if self.goal is None:
            return False
        n_above = sum(ratio > self.goal * LEEWAY for ratio in self.turns)
        return 3 * n_above >= 2 * len(self.turns)


class Section(NamedTuple):
    """What is measured together.

    name: What it is called in the shell.
    title: What it is called on the page.
    commands: The scripts of this folder with their arguments.
    read: What turns a line that they print into ratios.
    tables: What makes tables of the lines, where ratios do not say it all.
    """

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    read: Callable[[Line], Iterator[Ratio]]
    tables: Callable[[list[Line]], str] | None = None


# -- what the scripts print --------------------------------------------


def of_peers(line: Line) -> Iterator[Ratio]:
    """Ours beside each other tool; only TransformerLens is held against a goal."""
    goals = {work.name: work.goal for work in WORKS}
    for tool, turns in line["ratios"].items():
        goal = goals[line["work"]] if tool == "TransformerLens" else None
        yield Ratio(line["work"], tool, turns, goal)


# Beside the floor of the same process: SmolLM2, float32, two cores.
FLOOR_GOALS = {
    ("grid of 16 tokens", "basic"): 1.6,
    ("grid of 128 tokens", "basic"): 1.25,
    ("grid of 1,024 tokens", "basic"): 1.2,
    ("last of 64 prompts of 16 tokens", "basic"): 1.2,
}
ASKED = {
    "basic": "top five, entropy",
    "all": "and two targets, tracking",
    "unchecked": "top five, not proved",
    "plain": "softmax of all, in a plain trace",
}


def of_lens(line: Line) -> Iterator[Ratio]:
    """A lens beside a forward pass and the product with the unembedding."""
    tokens = f"{line['tokens']:,} tokens"
    if line["positions"] == "all":
        work = f"grid of {tokens}"
    elif line["prompts"] > 1:
        work = f"last of {line['prompts']} prompts of {tokens}"
    else:
        work = f"last of {tokens}"
    for contender, turns in line["ratios"].items():
        goal = FLOOR_GOALS.get((work, contender))
        yield Ratio(f"{work}: {ASKED[contender]}", "floor", turns, goal)


def of_generation(line: Line) -> Iterator[Ratio]:
    """A lens while the model writes, beside `generate` and that with the product at each step."""
    work = f"{line['new']} tokens after {line['tokens']}"
    goal = 1.2 if line["new"] >= 64 else 1.45
    for contender in ("basic", "all"):
        turns = line["ratios"][contender]
        yield Ratio(
            f"{work}: {ASKED[contender]}", "floor", turns, goal if contender == "basic" else None
        )


PART_GOALS = {
    "attribution by layer": 1.5,
    "attribution by component": 1.8,
    "attribution by head": 2.5,
    "attribution by token": 3.5,
    "attribution by head, as sent": 6.0,
    "lens": 1.25,
    "components": 1.25,
}


def of_components(line: Line) -> Iterator[Ratio]:
    """Attribution beside one forward pass, components beside their own floor."""
    for work, found in line.items():
        if isinstance(found, dict):
            beside = "a forward pass" if work.startswith("attribution") else "floor"
            yield Ratio(
                f"{work}, {line['tokens']} tokens", beside, found["ratios"], PART_GOALS.get(work)
            )


def of_pages(line: Line) -> Iterator[Ratio]:
    """A page beside the same with all of plotly.js: bytes, and seconds until its figure is drawn."""
    yield Ratio(f"{line['page']}: bytes", "plotly's", [line["bytes"] / line["floor_bytes"]], 0.33)
    goal = 0.6 if line["page"] == "report" else 0.7
    yield Ratio(f"{line['page']}: until drawn", "plotly's", line["ratios"]["ours"], goal)


# -- how things grow, and what a server would need ----------------------


def of_growth(line: Line) -> Iterator[Ratio]:
    """Memory beyond that of a forward pass, beside the bound that was asked for."""
    for work, found in line.items():
        if isinstance(found, dict) and "beyond_mb" in found:
            yield Ratio(work, "max_bytes", [found["beyond_mb"] / found["max_mb"]], 1.0)


def growth_tables(lines: list[Line]) -> str:
    """Return the slopes of time."""
    rows = []
    for line in lines:
        if "growth" in line:
            slopes = [
                f"{line[of]['slope']:.2f} ({line[of]['low']:.2f}–{line[of]['high']:.2f})"
                for of in ("lens", "floor")
            ]
            sizes = f"{line['sizes'][0]:,}–{line['sizes'][-1]:,}"
            rows.append([line["growth"], sizes, *slopes])
    return markdown(["time grows with", "sizes", "slope of the lens", "of the floor"], rows)


def of_estimates(line: Line) -> Iterator[Ratio]:
    """What was estimated, divided by what was measured."""
    if "bytes" in line:
        work = f"{line['model']}, {line['bytes']}"
        yield Ratio(f"{work}: bytes sent", "measured", [line["ratio_up"]], None)
        yield Ratio(f"{work}: bytes back", "measured", [line["ratio_back"]], None)
    elif "time" in line:
        work = f"{line['model']}, {line['time']}"
        yield Ratio(f"{work}: seconds here", "measured", [line["ratio_here"]], None)
        yield Ratio(f"{work}: seconds of a rehearsal", "measured", [line["ratio_there"]], None)
    else:
        for case, found in line.items():
            if isinstance(found, dict) and "estimated_mb" in found:
                grown = max(0.1, found["grown_mb"] - found["of_any_job_mb"])
                yield Ratio(f"{case}: memory", "measured", [found["estimated_mb"] / grown], None)


def estimate_tables(lines: list[Line]) -> str:
    """Return what a 70B would take, from shapes alone."""
    rows = []
    assuming = ""
    for line in lines:
        if "estimate" in line:
            work = "?" if line["work_s"] is None else f"{line['work_s']:,} s"
            rows.append(
                [
                    line["estimate"],
                    f"{line['jobs']:,}",
                    f"{line['up_mb']:,} MB",
                    f"{line['back_mb']:,} MB",
                    f"{line['server_memory_mb']:,.0f} MB",
                    work,
                    f"{line['way_s']:,} s",
                ]
            )
            assuming = f"{line['model']}, {line['weights_gb']} GB of weights; {line['assuming']}."
    heads = ["", "jobs", "sent", "back", "memory beside the weights", "work", "on the way"]
    return f"{assuming}\n\n{markdown(heads, rows)}"


SECTIONS = (
    Section("peers", "Beside other tools", (("peers/compare.py",),), of_peers),
    Section(
        "lens",
        "The lens, beside its floor",
        (
            ("lens.py", "--tokens", "16", "128", "1024", "--without", "plain", "unchecked"),
            (
                "lens.py",
                *("--prompts", "64", "--tokens", "16", "--positions", "last"),
                *("--without", "plain", "unchecked"),
            ),
        ),
        of_lens,
    ),
    Section(
        "generation",
        "Generation, beside its floor",
        (
            ("generation.py", "--repeat", "3"),
            ("generation.py", "--tokens", "8", "--new", "24", "--repeat", "3"),
        ),
        of_generation,
    ),
    Section("components", "Components and attribution", (("components.py",),), of_components),
    Section("growth", "How it grows", (("growth.py",),), of_growth, growth_tables),
    Section(
        "estimates",
        "A 70B model, on paper",
        (("estimates.py",), ("estimates.py", "--measured", "--repeat", "1")),
        of_estimates,
        estimate_tables,
    ),
    Section("pages", "Pages that need no network", (("pages.py", "--repeat", "5"),), of_pages),
)


# -- measuring ---------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else ()
    ):
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


def measure(section: Section) -> None:
    """Run a section's scripts, and keep what they print."""
    started = time.monotonic()
    lines: list[Line] = []
    for script, *arguments in section.commands:
        print(f"{section.name}: {' '.join([script, *arguments])}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, HERE / script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kept = {"machine": machine(), "seconds": round(time.monotonic() - started), "lines": lines}
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / f"{section.name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def measured(section: Section) -> Line | None:
    """Return what was kept of a section; None if it has never been measured."""
    path = MEASURED / f"{section.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def ratios_of(section: Section) -> list[Ratio]:
    """Return the ratios of a section."""
    found = measured(section)
    if found is None:
        return []
    return [ratio for line in found["lines"] for ratio in section.read(line)]


# -- the page ----------------------------------------------------------


def page() -> str:
    """Return docs/performance.md, from what was measured."""
    parts = [HEAD]
    for section in SECTIONS:
        found = measured(section)
        parts.append(f"## {section.title}\n\n{WORDS[section.name]}")
        if found is None:
            parts.append(f"Not measured yet: `{command_of(section)}`")
            continue
        ratios = ratios_of(section)
        parts.append(f"{said_of_machine(found['machine'])} `{command_of(section)}`")
        if section.tables is not None:
            parts.append(section.tables(found["lines"]))
        if ratios:
            parts.append(table_of(ratios))
        if section.name == "peers":
            parts.append(where_others_are_better(ratios))
    parts.append(UNMEASURED)
    return "\n\n".join(parts) + "\n"


def table_of(ratios: list[Ratio]) -> str:
    """Return ratios as a table: their median, and the least and the most of the turns."""
    rows = []
    for ratio in ratios:
        turns = f"{min(ratio.turns):.2f}–{max(ratio.turns):.2f}" if len(ratio.turns) > 1 else ""
        goal = "" if ratio.goal is None else f"{ratio.goal:.2f}"
        missed = " (missed)" if ratio.misses() else ""
        rows.append([ratio.work, ratio.beside, f"**{ratio.median:.2f}**", turns, f"{goal}{missed}"])
    return markdown(["", "beside", "ratio", "turns", "goal"], rows)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def where_others_are_better(ratios: list[Ratio]) -> str:
    """Return the sentence about the works at which another tool took less time."""
    slower = [ratio for ratio in ratios if ratio.median > 1]
    if not slower:
        return "No other tool took less time at any of these."
    named = [f"{ratio.beside} at “{ratio.work}” ({ratio.median:.2f} ×)" for ratio in slower]
    return f"Less time than ours took: {'; '.join(named)}."


def said_of_machine(found: Line) -> str:
    """Return on what a section was measured."""
    versions = ", ".join(f"{name} {found[name]}" for name in VERSIONS)
    return (
        f"Measured on {found['date']}: {found['processor']}, {found['cores']} cores, threads: "
        f"{found['threads']}, Python {found['python']}, {versions}."
    )


def command_of(section: Section) -> str:
    """Return what measures a section again."""
    return f"python benchmarks/run_all.py --only {section.name}"


HEAD = """# Performance

How long the recipes take, beside other tools at the same work and beside the least that it could cost. What counts is
the ratio: ours, divided by the other, turn by turn in one run; below 1, ours is faster. In bold the median of the turns. A
goal is missed where two of three turns are more than 15 % above it.

Written by `make bench`; do not edit. The model is SmolLM2-135M in float32 unless something else is said."""

WORDS = {
    "peers": "Each tool runs in a process of its own, and they take turns; a work is timed only where all numbers are "
    "equal to 2e-3. TransformerLens 4.3 is called by its one-call tools (`logit_lens`, `direct_logit_attribution`, "
    "`JacobianLens`, `patching`). “By hand” is a short script with `output_hidden_states`, or a loop over layers inside a "
    "trace.\n\n" + "\n".join(f"- {work.name}: {work.said}." for work in WORKS),
    "lens": "The floor is a forward pass of the transformer's body and the bare product of the same rows with the "
    "unembedding: no norm, no metric, nothing kept.",
    "generation": "The floor is `generate` with the product of each step's rows (all layers) with the unembedding.",
    "components": "Attributions of the last token beside one forward pass; the lens and five components of all layers "
    "beside their floor. “As sent” is the path of a server, on which the unembedding is called for every part.",
    "growth": "Small random models; the slope of log seconds over log size with its 95 % interval: 1 is in proportion. "
    "Memory is what the lens takes beyond a forward pass that keeps the same logits.",
    "estimates": "`lr.estimate` from a config alone: no weights, no download. Below, the same estimates of models that "
    "run here, divided by what was measured; seconds are calibrated by one measured forward pass.",
    "pages": "A page opened in Chromium until its first figure is drawn, and its bytes, beside the same page with all of "
    "plotly.js.",
}


UNMEASURED = """## On a GPU

Not measured: none was at hand. `benchmarks/gpu.py` measures the lens, generation, attribution and fits of models of 8 to 30
billion parameters in bfloat16, with random weights and without a network; its docstring has the one command. What is chosen for
an accelerator stands in `lens_recipes/trace/kernels.py`, each with the word “unmeasured”."""


def main() -> None:
    """Measure, write the page, and say which goals are missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    chosen = [] if options.page else [each for each in SECTIONS if each.name in options.only]
    for section in chosen:
        measure(section)
    PAGE.write_text(page())
    missed = [ratio for section in chosen for ratio in ratios_of(section) if ratio.misses()]
    for ratio in missed:
        print(f"missed: {ratio.work} beside {ratio.beside}: {ratio.turns}, goal {ratio.goal}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
