"""Name what is measured together: the scripts, what reads their lines, and what is said of them on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from performance import goals, tables
from performance.goals import WORKS, Line, Ratio

ROOT = Path(__file__).resolve().parents[2]
NDIF = ROOT / ".venv-ndif" / "bin" / "python"


class Section(NamedTuple):
    """What is measured together.

    name: What it is called in the shell.
    title: What it is called on the page.
    commands: The scripts of `benchmarks` with their arguments.
    read: What turns a line that they print into ratios.
    said: What is measured, beside what, and what was found.
    table: What makes a table of the lines, where ratios do not say it all.
    """

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    read: Callable[[Line], Iterator[Ratio]]
    said: str
    table: Callable[[list[Line]], str] | None = None


PEERS = """\
Each tool runs in a process of its own, and they take turns; a work is timed only where all numbers are equal to 2e-3,
and the likeliest token is the same wherever it is clear. TransformerLens is called by its one-call tools (`logit_lens`,
`direct_logit_attribution`, `JacobianLens`, `patching`). “By hand” is a short script with `output_hidden_states`, or a loop
over layers inside a trace.

""" + "\n".join(f"- {work.name}: {work.said}." for work in WORKS)

LENS = """\
The floor is a forward pass of the transformer's body and the bare product of the same rows with the unembedding: no
norm, no metric, nothing kept.

Profiled at 16 tokens on one thread: nearly all are products that the floor has as well; the rest finds the top five and
the entropy, and is Python: the trace, the checks and the result. With more tokens the products grow, and Python does not."""

GENERATION = """\
The floor is `generate` with the product of each step's rows (all layers) with the unembedding. What is above it is
Python at each step, mostly nnsight's: the same for a short answer as for a long one."""

COMPONENTS = """\
Attributions of the last token beside one forward pass; the lens and five components of all layers beside their floor.
“As sent” is the path of a server.

- By token, the values of each head go through the output projection source by source, in every layer: at 128 tokens
  about one more forward pass of arithmetic, but in small products, of which two cores do not make much.
- As sent, the rows of the unembedding cannot be read: it is called for all parts, in one product. That is about
  one more forward pass. About as much is packing the recipe as source (nnsight reads that of each of its functions)."""

STARTING = """\
What comes before the first result, beside the least that it could be, in the processor's seconds. What is found in each
stands at the top of `benchmarks/starting.py`."""

GROWTH = """\
Small random models; the slope of log seconds over log size with its 95 % interval: 1 is in proportion. Memory is what
the lens takes beyond a forward pass that keeps the same logits."""

ESTIMATES = """\
`lr.estimate` from a config alone: no weights, no download. Below, the same estimates of models that run here, divided
by what was measured; seconds are calibrated by one measured forward pass."""

PAGES = """\
A page opened in Chromium until its first figure is drawn, and its bytes, beside the same page with all of plotly.js."""

SECTIONS = (
    Section("peers", "Beside other tools", (("peers.py",),), goals.of_peers, PEERS),
    Section(
        "lens",
        "The lens, beside its floor",
        (
            ("lens.py", "--tokens", "16", "128", "--without", "plain", "unchecked"),
            ("lens.py", "--tokens", "1024", "--without", "plain", "unchecked", "all"),
            (
                "lens.py",
                *("--prompts", "64", "--tokens", "16", "--positions", "last"),
                *("--without", "plain", "unchecked"),
            ),
        ),
        goals.of_lens,
        LENS,
    ),
    Section(
        "generation",
        "Generation, beside its floor",
        (
            ("generation.py", "--repeat", "3"),
            ("generation.py", "--tokens", "8", "--new", "24", "--repeat", "3"),
        ),
        goals.of_generation,
        GENERATION,
    ),
    Section(
        "components",
        "Components and attribution",
        (("components.py",),),
        goals.of_components,
        COMPONENTS,
    ),
    Section(
        "starting", "Before the first result", (("starting.py",),), goals.of_starting, STARTING
    ),
    Section(
        "growth", "How it grows", (("growth.py",),), goals.of_growth, GROWTH, tables.growth_table
    ),
    Section(
        "estimates",
        "A 70B model, on paper",
        (
            ("estimates.py",),
            ("estimates.py", "--measured", "--repeat", "1", "--models", "SmolLM2"),
            ("estimates.py", "--server"),
        ),
        goals.of_estimates,
        ESTIMATES,
        tables.estimate_table,
    ),
    Section(
        "pages",
        "Pages that need no network",
        (("pages.py", "--repeat", "5"),),
        goals.of_pages,
        PAGES,
    ),
)
