"""references/architectures.md says what the library does now, for the families that are built quickly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import families

QUICK = [
    "apertus", "arcee", "bamba", "bart", "beam", "bert", "bert-generation", "biogpt", "bitnet", "bloom", "blt",
    "codegen", "cohere", "cohere2", "ctrl", "cwm", "deepseek_v3", "deepseek_v4", "diffllama", "doge", "electra",
    "ernie4_5", "exaone4", "falcon", "falcon_h1", "falcon_mamba", "fuyu", "gemma", "gemma2", "gemma3_text",
    "gemma3n_text", "gemma4_text", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj",
    "granite", "granitemoehybrid", "helium", "hrm_text", "inkling2_text", "inkling_text", "lfm2", "llama",
    "llama4_text", "longcat_flash", "mamba", "mamba2", "minicpm3", "mistral", "mixtral", "mllama",
    "modernbert-decoder", "mpt", "nanochat", "nemotron", "olmo2", "opt", "phi", "phi3", "prophetnet", "qwen2",
    "qwen3", "qwen3_next", "qwen4_exp_text", "recurrent_gemma", "reformer", "roberta", "rwkv", "smollm3",
    "stablelm", "starcoder2", "xglm", "xlm", "xlnet", "xlstm", "zamba2",
]  # fmt: skip


def _committed() -> dict[str, str]:
    """The table's line of each family."""
    lines = [line for line in families.PAGE.read_text().splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


@pytest.mark.parametrize("family", QUICK)
def test_the_row_is_what_the_library_does_now(family):
    row = families.examine(family).line()
    assert _committed().get(family) == row, f"references/architectures.md is stale; run: {families.COMMAND}"


def test_no_family_is_wrong_and_all_are_there():
    committed = _committed()
    assert sorted(committed) == sorted(families.FAMILIES), f"run: {families.COMMAND}"
    verdicts = {family: line.rstrip(" |").rpartition(" | ")[2].partition(":")[0] for family, line in committed.items()}
    assert set(verdicts.values()) <= {"certified", "refused", "no oracle", "not built"}
    assert sum(verdict == "certified" for verdict in verdicts.values()) > 160
