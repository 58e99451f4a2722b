"""Turn what the scripts print into ratios, and hold each against its goal.

A goal is what was measured when the work was last made faster, so that nothing becomes slower unseen. It is missed
where the middle one of the turns is more than 15 % above it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sides"))
from works import WORKS

Line = dict[str, Any]
LEEWAY = 1.15  # above a goal: times on a machine that is not alone vary by as much
# An estimate may be as many times too large or too small. What comes back is compressed, and the ids that a random
# model says are not; of little memory most is the process's own.
NEAR, NEAR_OF_RANDOM, NEAR_IN_MEMORY = 1.2, 1.35, 1.25
MUCH_MEMORY, MUCH_BACK = 64, 10_000  # MiB; bytes: of less, most is how it is packed


class Ratio(NamedTuple):
    """How many times as long, or as large, as something else a work is, turn by turn; and the goal, if there is one."""

    work: str
    beside: str
    turns: list[float]
    goal: float | None

    @property
    def median(self) -> float:
        """The middle one of the turns."""
        return statistics.median(self.turns)

    def misses(self) -> bool:
        """Return whether it is well above its goal."""
        return self.goal is not None and self.median > self.goal * LEEWAY

    def said_of_goal(self) -> str:
        """Return the goal in words; nothing if there is none."""
        return "" if self.goal is None else f"{self.goal:.2f}"


class Estimate(Ratio):
    """An estimate divided by what was measured: one that is far too small misses as one that is far too large does."""

    def misses(self) -> bool:
        """Return whether it is further from 1 than its goal."""
        return self.goal is not None and not 1 / self.goal <= self.median <= self.goal

    def said_of_goal(self) -> str:
        """Return the goal in words; nothing if there is none."""
        return "" if self.goal is None else f"{1 / self.goal:.2f}–{self.goal:.2f}"


def of_peers(line: Line) -> Iterator[Ratio]:
    """Ours beside each other tool; only TransformerLens is held against a goal."""
    if "versions" in line:
        return
    goals = {work.name: work.goal for work in WORKS}
    for tool, turns in line["ratios"].items():
        goal = goals[line["work"]] if tool == "TransformerLens" else None
        yield Ratio(line["work"], tool, turns, goal)


# Beside the floor of the same process: SmolLM2, float32, two cores.
FLOOR_GOALS = {
    ("grid of 16 tokens", "basic"): 1.5,
    ("grid of 128 tokens", "basic"): 1.2,
    ("grid of 1,024 tokens", "basic"): 1.1,
    ("last of 64 prompts of 16 tokens", "basic"): 1.15,
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
    goal = 1.15 if line["new"] >= 64 else 1.2
    for contender in ("basic", "all"):
        turns = line["ratios"][contender]
        yield Ratio(
            f"{work}: {ASKED[contender]}", "floor", turns, goal if contender == "basic" else None
        )


PART_GOALS = {
    "attribution by layer": 1.2,
    "attribution by component": 1.25,
    "attribution by head": 1.35,
    "attribution by token": 3.3,
    "attribution by head, as sent": 3.2,
    "lens": 1.1,
    "components": 1.1,
}


def of_components(line: Line) -> Iterator[Ratio]:
    """Attribution beside one forward pass, components beside their own floor."""
    for work, found in line.items():
        if isinstance(found, dict):
            beside = "a forward pass" if work.startswith("attribution") else "floor"
            yield Ratio(
                f"{work}, {line['tokens']} tokens", beside, found["ratios"], PART_GOALS.get(work)
            )


START_GOALS = {
    "import lens_recipes": 2.1,
    "lens-recipes --help": 1.7,
    "load, the second time": 1.3,
    "the first lens": 1.5,
}


def of_starting(line: Line) -> Iterator[Ratio]:
    """What comes before the first result, beside the least that it could be."""
    yield Ratio(line["start"], line["beside"], line["ratios"], START_GOALS[line["start"]])


def of_pages(line: Line) -> Iterator[Ratio]:
    """A page beside the same with all of plotly.js: bytes, and seconds until its figure is drawn."""
    yield Ratio(f"{line['page']}: bytes", "plotly's", [line["bytes"] / line["floor_bytes"]], 0.2)
    goal = 0.55 if line["page"] == "report" else 0.6
    yield Ratio(f"{line['page']}: until drawn", "plotly's", line["ratios"]["ours"], goal)


# -- how things grow, and what a server would need ----------------------


def of_growth(line: Line) -> Iterator[Ratio]:
    """Memory beyond that of a forward pass, beside the bound that was asked for."""
    for work, found in line.items():
        if isinstance(found, dict) and "beyond_mb" in found:
            yield Ratio(work, "max_bytes", [found["beyond_mb"] / found["max_mb"]], 1.0)


def of_estimates(line: Line) -> Iterator[Ratio]:
    """What was estimated, divided by what was measured."""
    if "bytes" in line or "server" in line:
        where = "on a server" if "server" in line else "packed"
        work = f"{line['model']}, {line.get('bytes') or line['server']}, {where}"
        near = NEAR_OF_RANDOM if "random" in line["model"] else NEAR
        near_back = near if line["back"] >= MUCH_BACK else None
        yield Estimate(f"{work}: bytes sent", "measured", [line["ratio_up"]], NEAR)
        yield Estimate(f"{work}: bytes back", "measured", [line["ratio_back"]], near_back)
    elif "time" in line:
        work = f"{line['model']}, {line['time']}"
        yield Estimate(f"{work}: seconds here", "measured", [line["ratio_here"]], NEAR)
        yield Estimate(f"{work}: seconds of a rehearsal", "measured", [line["ratio_there"]], None)
    else:
        for case, found in line.items():
            if isinstance(found, dict) and "estimated_mb" in found:
                near = NEAR_IN_MEMORY if found["estimated_mb"] >= MUCH_MEMORY else None
                yield Estimate(f"{case}: memory", "measured", [found["ratio"]], near)
