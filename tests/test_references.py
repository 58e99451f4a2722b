"""references/architectures.md says what the library does now, for some families here, for all in tests/full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import families

# Each verdict, and each way to be read or not; the other families: tests/full.
QUICK = [
    "bart", "bert", "bloom", "cohere", "ctrl", "deepseek_v3", "deepseek_v4", "exaone4", "falcon", "falcon_h1",
    "gemma2", "gemma3n_text", "gpt2", "gpt_oss", "gptj", "granite", "llama", "mamba", "mixtral", "opt", "phi3",
    "qwen3_next", "recurrent_gemma", "rwkv",
]  # fmt: skip


def _committed() -> dict[str, str]:
    """The line of each language model: a name may stand in the page's other tables, too."""
    section = families.PAGE.read_text().partition("## Language models\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


@pytest.mark.parametrize("family", QUICK)
def test_the_row_is_what_the_library_does_now(family):
    row = families.examine(family).line()
    assert _committed().get(family) == row, (
        f"references/architectures.md is stale; run: {families.COMMAND}"
    )


def test_no_family_is_wrong_and_all_are_there():
    committed = _committed()
    assert sorted(committed) == sorted(families.FAMILIES), f"run: {families.COMMAND}"
    verdicts = {
        family: line.rstrip(" |").rpartition(" | ")[2].partition(":")[0]
        for family, line in committed.items()
    }
    assert set(verdicts.values()) <= {"certified", "refused", "no oracle", "not built"}
    assert sum(verdict == "certified" for verdict in verdicts.values()) > 160
