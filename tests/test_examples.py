"""The examples are numbered, short and say what they show; the remote one has a server here. Others: test_docs.py."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import loopback
import pytest
from loopback import SMOLLM2, Loopback

from lens_recipes.models import smollm2 as smollm2_files

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def test_they_are_numbered_without_a_gap():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_says_what_it_shows_and_how_it_is_called_and_where_to_look(path):
    source = path.read_text()
    first = ast.get_docstring(ast.parse(source))
    assert f"    python examples/{path.name}" in first
    assert len(source.splitlines()) <= 46
    assert 'print("\\nLook ' in source or 'print("\\nIn out/' in source


@pytest.mark.slow
def test_the_remote_example_runs(smollm2, tmp_path, monkeypatch, capsys):
    """On a server whose address is where a user gives it. That it goes on with a job it finds: tests/ndif."""
    loopback.lay_out(tmp_path / "hub", SMOLLM2, smollm2_files.folder())
    (example,) = FOLDER.glob("*_remote_70b.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example.name, SMOLLM2])
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr("nnsight.CONFIG.API.APIKEY", None)
    with loopback.hub_at(tmp_path / "hub"), Loopback(smollm2) as server:
        monkeypatch.setenv("NDIF_HOST", server.url)
        runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "logit_lens on lens-recipes/smollm2: 1 job" in said
    assert "certified: " in said
    assert "France: ' Paris' is the first choice from layer 29 on, of 30" in said
    assert "<html" in (tmp_path / "out" / "70b.html").read_text()
    assert not list(tmp_path.glob("out/*.job"))  # done: the next call asks anew
