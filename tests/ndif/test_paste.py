"""Run pasted scripts on a real server: for callers that it trusts, and for strangers."""

from __future__ import annotations

import nnsight
import pasted
import pytest
from server import SMOLLM2


@pytest.mark.parametrize("recipe", pasted.OF_TEXT)
def test_a_script_finds_there_what_the_library_finds_here(
    any_server, here, recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", any_server.url)
    monkeypatch.chdir(tmp_path)
    found = pasted.execute(pasted.script(recipe, SMOLLM2, remote=True), tmp_path)
    pasted.CHECKS[recipe](found, here("smollm2"))
