"""The page of measurements: fresh, and strict about goals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import run_all  # noqa: E402


def test_the_page_is_what_was_measured():
    assert run_all.PAGE.read_text(encoding="utf-8") == run_all.page()


@pytest.mark.parametrize(
    ("turns", "misses"),
    [
        ([1.0, 1.1, 1.14], False),
        ([1.2, 1.0, 1.0], False),  # once is noise
        ([1.2, 1.0, 1.2], True),
        ([1.2], True),
        ([0.4], False),
    ],
)
def test_a_goal_is_missed_well_above_it_in_two_of_three_turns(turns, misses):
    assert run_all.Ratio("work", "floor", turns, 1.0).misses() is misses
    assert not run_all.Ratio("work", "floor", turns, None).misses()


def test_each_section_that_was_measured_gives_ratios_and_a_table():
    for section in run_all.SECTIONS:
        found = run_all.measured(section)
        if found is None:
            continue
        ratios = run_all.ratios_of(section)
        assert ratios
        assert all(len(ratio.turns) > 0 for ratio in ratios)
        assert run_all.table_of(ratios).count("\n") == len(ratios) + 1


def test_where_another_tool_takes_less_time_is_said():
    slower = run_all.Ratio("grid", "TransformerLens", [1.2, 1.3, 1.1], 1.0)
    faster = run_all.Ratio("heads", "TransformerLens", [0.5, 0.6, 0.7], 1.0)
    said = run_all.where_others_are_better([slower, faster])
    assert "“grid” (1.20 ×)" in said
    assert "heads" not in said
    assert run_all.where_others_are_better([faster]).startswith("No other tool")
