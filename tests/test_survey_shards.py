"""Shards of a survey, made in a shell: their files merge to the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.arrays.survey.arrays import SURVEY_AXES


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """A file of two blocks and a half."""
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    lines = []
    for number in range(640):
        target = (" the", " and", " a")[number % 3]
        fields = {"prompt": f"Number {number}, then", "target": target, "group": "ab"[number % 2]}
        lines.append(json.dumps(fields | {"cluster": str(number % 7)}))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_parts_in_a_shell_merge_to_the_whole(cli, llama, items, tmp_path, suffix):
    if suffix == "npz":
        whole = lr.survey(llama, items)
        parts = [lr.survey(llama, items, shard=(part, 2)) for part in (1, 2)]
        for number, part in enumerate(parts):
            part.save(tmp_path / f"part-{number}.npz")
        files = sorted(tmp_path.glob("part-*.npz"))
    else:
        call = cli(llama)
        files = [tmp_path / f"part-{part}.json" for part in (1, 2)]
        for part, file in enumerate(files, start=1):
            options = ("--shard", f"{part}/2", "--folder", str(tmp_path / f"{part}"))
            assert call("survey", str(items), *options, "--json", str(file))[0] == 0
        assert call("survey", str(items), "--json", str(tmp_path / "whole.json"))[0] == 0
        whole = lr.Survey.load(tmp_path / "whole.json")
    merged = lr.Survey.merge([lr.Survey.load(file) for file in reversed(files)])
    assert len(merged) == 640
    for name in SURVEY_AXES:
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), err_msg=name)
    assert merged.names == whole.names
    assert merged.table() == whole.table() or suffix == "npz"  # a file says "as saved"
