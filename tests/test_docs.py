"""What the documents show is what happens."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lens_recipes as lr

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "SKILL.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_python_block_runs_in_order(name, tmp_path, monkeypatch):
    """From a file on disk, as nnsight needs it, and in an empty folder."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    script = tmp_path / "document.py"
    script.write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))


@pytest.mark.parametrize("name", [*DOCUMENTS, "references/remote.md"])
def test_every_local_link_leads_somewhere(name):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize("name", [*DOCUMENTS, "references/remote.md"])
def test_every_name_the_documents_use_exists(name):
    text = (ROOT / name).read_text()
    assert all(hasattr(lr, used) for used in re.findall(r"\blr\.(\w+)", text))
    fields = set(re.findall(r"\bresult\.(\w+)", text)) - {"json"}
    assert all(hasattr(lr.LensResult, used) or used in lr.LensResult.__dataclass_fields__ for used in fields)


# Examples that need a server are run by tests/ndif.
@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py") if "remote" not in p.name))
def test_every_example_runs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example])
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    assert "certified" in capsys.readouterr().out


def test_the_skill_is_valid(tmp_path):
    """The folder's name must be the skill's."""
    (tmp_path / "lens-recipes").symlink_to(ROOT)
    command = [Path(sys.executable).with_name("agentskills"), "validate", tmp_path / "lens-recipes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_skill_is_short_and_its_description_is_plain():
    text = (ROOT / "SKILL.md").read_text()
    header = text.split("---")[1]
    assert len(text.splitlines()) < 400
    assert len(re.search(r"description: (.*)", header)[1]) <= 1024
    assert not set("<>") & set(header)
