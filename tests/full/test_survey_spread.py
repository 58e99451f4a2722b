"""A survey that workers of Ray, or the jobs of an array, do in parts is the one that a process does by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from surveys import assert_same

import lens_recipes as lr

ROOT = Path(__file__).resolve().parents[2]
N_ITEMS = 1100  # five blocks, of four parts


@pytest.fixture
def items(tmp_path):
    """A file of items."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(N_ITEMS):
        prompt = rng.integers(6, 101, rng.integers(2, 9)).tolist()
        rows.append(
            {"prompt": prompt, "target": int(rng.integers(6, 101)), "group": "ab"[number % 2]}
        )
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def run(command, folder):
    """Run a command in a folder, with this package and its command found."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_workers_of_ray_find_what_one_process_finds(folder, items, tmp_path):
    example = ROOT / "examples" / "16_survey_by_ray.py"
    (tmp_path / "out").mkdir()
    out = run([sys.executable, str(example), str(items), str(folder)], tmp_path)
    assert "certified" in out
    assert len(list(tmp_path.glob("out/shard-*/block-*.npz"))) == 5
    whole = lr.survey(lr.load(str(folder)), str(items))
    assert_same(lr.Survey.load(tmp_path / "out" / "survey.json"), whole)


def test_the_line_for_job_arrays_does(folder, items, tmp_path):
    text = (ROOT / "references" / "surveys.md").read_text()
    (line,) = re.findall(
        r"^ {4}(lens-recipes survey items.jsonl --shard \$SLURM.*)$", text, re.MULTILINE
    )
    (parts,) = re.findall(r"^ {4}(parts = .*)\n {4}whole = .*$", text, re.MULTILINE)
    for number in range(1, 5):
        command = (
            f"export SLURM_ARRAY_TASK_ID={number}; {line.replace('/16', '/4')} --model {folder}"
        )
        run(["bash", "-c", command], tmp_path)
    names: dict = {"lr": lr, "Path": lambda: tmp_path}
    exec(parts, names)
    whole = lr.survey(lr.load(str(folder)), str(items))
    assert_same(lr.Survey.merge(names["parts"]), whole)
