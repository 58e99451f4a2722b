"""The page of measurements: fresh, and strict about goals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from performance import page  # noqa: E402
from performance.goals import Estimate, Ratio  # noqa: E402
from performance.sections import SECTIONS  # noqa: E402
from performance.tables import table_of  # noqa: E402


def test_the_page_is_what_was_measured():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


@pytest.mark.parametrize(
    ("turns", "misses"),
    [
        ([1.0, 1.1, 1.14], False),
        ([1.2, 1.0, 1.0], False),  # once is noise
        ([1.2, 1.0, 1.2], True),
        ([1.2, 1.2, 1.2, 1.0, 1.0], True),
        ([1.2], True),
        ([0.4], False),
    ],
)
def test_a_goal_is_missed_well_above_it_in_most_turns(turns, misses):
    assert Ratio("work", "floor", turns, 1.0).misses() is misses
    assert not Ratio("work", "floor", turns, None).misses()


def test_each_section_was_measured_and_gives_ratios_and_a_table():
    for section in SECTIONS:
        assert page.measured(section) is not None, section.name
        ratios = page.ratios_of(section)
        assert ratios
        assert all(len(ratio.turns) > 0 for ratio in ratios)
        assert table_of(ratios).count("\n") == len(ratios) + 1


def test_where_another_tool_takes_less_time_is_said():
    slower = Ratio("grid", "TransformerLens", [1.2, 1.3, 1.1], 1.0)
    faster = Ratio("heads", "TransformerLens", [0.5, 0.6, 0.7], 1.0)
    said = page.where_others_are_better([slower, faster])
    assert "“grid” (1.20 ×)" in said
    assert "heads" not in said
    assert page.where_others_are_better([faster]).startswith("No other tool")


@pytest.mark.parametrize(("found", "misses"), [(1.0, False), (1.19, False), (0.84, False), (1.3, True), (0.7, True)])  # fmt: skip
def test_an_estimate_misses_on_either_side(found, misses):
    assert Estimate("work", "measured", [found], 1.2).misses() is misses
