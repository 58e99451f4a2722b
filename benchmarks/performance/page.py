"""Write docs/performance.md from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from performance.goals import Line, Ratio
from performance.sections import ROOT, SECTIONS, Section
from performance.tables import table_of

MEASURED = Path(__file__).resolve().parents[1] / "measured"
PAGE = ROOT / "docs" / "performance.md"
VERSIONS = ("torch", "transformers", "nnsight", "plotly")

HEAD = """\
# Performance

How long the recipes take, beside other tools at the same work and beside the least that it could cost. What counts is
the ratio: ours, divided by the other, turn by turn in one run; below 1, ours is faster. In bold the median of the turns. A
goal is missed where that is more than 15 % above it, or where an estimate is outside of its bounds.

Written by `make bench`; do not edit. The model is SmolLM2-135M in float32 unless something else is said."""

GPU = """\
## On a GPU

Not measured yet. `benchmarks/gpu.py` measures the lens, generation, attribution and fits of random models of the shapes of
Llama-3.1-8B and Gemma-2-9B and of a small mixture of experts, in bfloat16 and without a network; its docstring has the one
command. What is chosen for an accelerator stands in `lens_recipes/trace/kernels.py`, and is unmeasured."""


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


def page() -> str:
    """Return the page, from what was measured."""
    parts = [HEAD]
    for section in SECTIONS:
        parts += [f"## {section.title}", section.said]
        found = measured(section)
        if found is None:
            parts.append(f"Not measured yet: `{command_of(section)}`")
            continue
        ratios = ratios_of(section)
        parts.append(f"{said_of_machine(found)} `{command_of(section)}`")
        if section.table is not None:
            parts.append(section.table(found["lines"]))
        parts.append(table_of(ratios))
        if section.name == "peers":
            parts.append(where_others_are_better(ratios))
    parts.append(GPU)
    return "\n\n".join(parts) + "\n"


def where_others_are_better(ratios: list[Ratio]) -> str:
    """Return the sentence about the works at which another tool took less time."""
    slower = [ratio for ratio in ratios if ratio.median > 1]
    if not slower:
        return "No other tool took less time at any of these."
    named = [f"{ratio.beside} at “{ratio.work}” ({ratio.median:.2f} ×)" for ratio in slower]
    return f"Less time than ours took: {'; '.join(named)}."


def said_of_machine(found: Line) -> str:
    """Return on what a section was measured, and with which versions."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS)
    said = (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, threads: "
        f"{machine['threads']}, Python {machine['python']}, {versions}."
    )
    theirs = [line["versions"] for line in found["lines"] if "versions" in line]
    if theirs:
        versions = ", ".join(f"{name} {number}" for name, number in theirs[0].items())
        said += f" In the other environment: {versions}."
    return said


def command_of(section: Section) -> str:
    """Return what measures a section again."""
    return f"python benchmarks/run_all.py --only {section.name}"
