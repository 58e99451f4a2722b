"""references/architectures.md says what the library does now, for some families here, for all in tests/full."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import families
import image_families

# Each verdict, and each way to be read or not; the other families: tests/full.
QUICK = [
    "bart", "bert", "bloom", "cohere", "ctrl", "deepseek_v3", "deepseek_v4", "exaone4", "falcon", "falcon_h1",
    "gemma2", "gemma3n_text", "git", "gpt2", "gpt_oss", "gptj", "granite", "llama", "mamba", "mixtral", "opt", "phi3",
    "qwen3_next", "recurrent_gemma", "reformer", "rwkv", "xlm", "zaya",
]  # fmt: skip
QUICK_MULTIMODAL = [
    "blip-2",
    "chameleon",
    "llava",
    "mllama",
    "muse_spark",
    "qwen2_audio",
    "qwen2_vl",
]
PAIRS = [(family, families.FAMILIES[family]) for family in QUICK]
PAIRS += [(family, families.MULTIMODAL[family]) for family in QUICK_MULTIMODAL]
PAIRS += [("t5", families.TWO_SIDED["t5"])]


def _committed() -> dict[tuple[str, str], str]:
    """The table's line of each type and class."""
    committed = {}
    for line in families.PAGE.read_text().splitlines():
        cells = line.removeprefix("| ").split(" | ")
        if line.startswith("| ") and cells[0] != "family":
            committed[cells[0], cells[1]] = line
    return committed


@pytest.mark.parametrize(("family", "cls"), PAIRS)
def test_the_row_is_what_the_library_does_now(family, cls):
    row = families.examine(family, cls).line()
    assert _committed().get((family, cls)) == row, (
        f"references/architectures.md is stale; run: {families.COMMAND}"
    )


def test_no_family_is_wrong_and_all_are_there():
    committed = _committed()
    assert list(committed) == families.every_class(), f"run: {families.COMMAND}"
    verdicts = {
        pair: line.rstrip(" |").rpartition(" | ")[2].partition(":")[0]
        for pair, line in committed.items()
    }
    assert set(verdicts.values()) <= {"certified", "refused", "no oracle", "not built"}
    assert sum(verdict == "certified" for verdict in verdicts.values()) > 240


def test_no_family_is_wrong_with_an_image_and_all_are_there():
    section = families.PAGE.read_text().partition("## Multimodal models, with images")[2]
    assert "0 wrong, 0 crashed" in section, f"run: {families.COMMAND}"
    assert f"{len(image_families.FAMILIES)} types: " in section
    certified = section.partition("- **certified**")[2].partition("\n")[0]
    assert certified.count("(") >= 28
    for family in image_families.FAMILIES:
        assert re.search(rf"[ :]{re.escape(family)}[ ,.]", section), family


@pytest.mark.parametrize("family", ["glm46v", "qwen3_5", "lighton_ocr"])
def test_a_family_with_a_processor_of_its_own_classes_is_read(family):
    row = image_families.examine(family)
    assert row.verdict == "certified", row.reason
    assert f"{family} ({row.image_tokens})" in families.PAGE.read_text()
