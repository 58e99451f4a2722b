"""Patch maps are those of TransformerLens's `get_act_patch_*`, cell by cell, for the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import lens_recipes as lr

FAMILIES = ["llama", "gpt2"]
UNITS = ["resid_pre", "attn_out", "mlp_out", "head_out"]
CLEAN, CORRUPT = tiny.random_ids(2, 7, seed=8).tolist()
TARGET, AGAINST = 23, 71


@pytest.fixture(scope="module")
def answers(run_peer, tmp_path_factory):
    """What TransformerLens says of each family, all in one process."""
    folder = tmp_path_factory.mktemp("patching")
    tasks = {}
    for family in FAMILIES:
        tasks[family] = {
            "model": str(tiny.save(tiny.for_text(family), folder / family)),
            "clean": CLEAN,
            "corrupt": CORRUPT,
            "target": TARGET,
            "against": AGAINST,
            "units": UNITS,
        }
    return tasks, run_peer("side_of_patching.py", tasks, folder)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_cell_is_theirs(family, unit, answers):
    tasks, answered = answers
    model = lr.load(tasks[family]["model"])
    found = lr.patch_map(model, CLEAN, CORRUPT, TARGET, AGAINST, unit=unit, keep_all=True)
    theirs = answered[family]["diffs"][unit].numpy()
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(found.logit_diffs[0], theirs, atol=2e-4)
