"""Files of jobs, changed in some of their values or in some of their bytes: refused in a sentence, or they go on.

Of each recipe's file 700 changed ones are read, 2,800 in all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import FUZZ, changes, damaged_bytes

import lens_recipes as lr

pytest_plugins = ["loopback"]

DATA = Path(__file__).parents[1] / "data"
RECIPES = ["logit_lens", "attribution", "generate_lens", "decode_vectors"]
FIELDS = {"anywhere": (), "arguments": ("arguments",), "events": ("events",)}

each_recipe = pytest.mark.parametrize("recipe", RECIPES)


@pytest.fixture
def prepared(client, server, monkeypatch):
    """The model; the file's version of this package is that of today, and so is its server."""
    import importlib.metadata

    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda package: "0.1.0" if package == "lens-recipes" else installed(package),
    )
    return client, server.url


def content_of(recipe: str, host: str) -> dict[str, Any]:
    lines = (DATA / f"{recipe}.job").read_text(encoding="utf-8").splitlines()
    header, *events = map(json.loads, lines)
    return {**header, "host": host, "events": events}


def written(content: dict[str, Any]) -> str:
    """A job's file, as far as its header and events are left."""
    content = dict(content)
    events = content.pop("events", [])
    lines = [content, *(events if isinstance(events, list) else [events])]
    return "".join(json.dumps(line) + "\n" for line in lines)


def check(path: Path, model: Any) -> None:
    """Load a job; if it loads, ask it for what it has."""
    try:
        job = lr.Job.load(path, model)
    except lr.LensError:
        return
    assert repr(job)
    if job.status().state == "done":
        try:
            assert job.result().summary()
        except lr.LensError:
            return


@each_recipe
@pytest.mark.parametrize("fields", FIELDS)
@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_other_values(prepared, tmp_path, recipe, fields, data):
    model, host = prepared
    content = data.draw(changes(content_of(recipe, host), FIELDS[fields]))
    path = tmp_path / "a.job"
    path.write_text(written(content), encoding="utf-8")
    check(path, model)


@each_recipe
@settings(FUZZ, max_examples=100)
@given(data=st.data())
def test_other_bytes(prepared, tmp_path, recipe, data):
    model, host = prepared
    path = tmp_path / "a.job"
    path.write_bytes(data.draw(damaged_bytes(written(content_of(recipe, host)).encode())))
    check(path, model)
