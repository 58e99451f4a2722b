"""The folder is a skill, a plugin and a package, and the three agree."""

from __future__ import annotations

import ast
import base64
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from slow import others_slow

import lens_recipes

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLUGIN, MARKETPLACE = (
    json.loads((ROOT / ".claude-plugin" / name).read_text())
    for name in ("plugin.json", "marketplace.json")
)
SMALL = 8_000_000  # bytes; a third of them are tests
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def skill() -> dict[str, str]:
    """The head of SKILL.md."""
    head = (ROOT / "SKILL.md").read_text().split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines())


def tracked() -> list[Path]:
    """The files that a clone gets."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def without_pictures(path: Path) -> int:
    """Bytes of a file; of a notebook, those that are not of its pictures."""
    if path.suffix == ".png":
        return 0
    size = path.stat().st_size
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        size -= sum(len(output.get("data", {}).get("image/png", "")) for output in outputs)
    return size


def test_skill_plugin_and_package_are_one_thing():
    assert skill()["name"] == PLUGIN["name"] == MARKETPLACE["plugins"][0]["name"] == PROJECT["name"]
    assert skill()["license"] == PLUGIN["license"] == PROJECT["license"] == "MIT"
    assert PLUGIN["version"] == PROJECT["version"]
    assert (
        "version" not in MARKETPLACE["plugins"][0]
    )  # the plugin's own counts, and one place is enough
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_plugin_is_as_documented():
    """Required: a name in kebab-case. Paths begin with ./ and stay inside; a skill is a folder with SKILL.md."""
    assert KEBAB.fullmatch(PLUGIN["name"])
    assert set(PLUGIN) <= {
        "name",
        "version",
        "description",
        "author",
        "repository",
        "license",
        "keywords",
        "skills",
    }
    assert PLUGIN["author"]["name"]
    assert PLUGIN["skills"] == ["./"]  # the root is the skill
    for path in PLUGIN["skills"]:
        assert path.startswith("./")
        assert ".." not in path
        assert (ROOT / path / "SKILL.md").is_file()


def test_the_marketplace_is_as_documented():
    """Required: name, owner with a name, plugins, each with name and source, which is relative to the root."""
    assert KEBAB.fullmatch(MARKETPLACE["name"])
    assert MARKETPLACE["owner"]["name"]
    (entry,) = MARKETPLACE["plugins"]
    assert set(entry) == {"name", "source", "description"}
    assert entry["source"].startswith("./")
    assert (ROOT / entry["source"] / ".claude-plugin" / "plugin.json").is_file()


def test_the_readme_installs_these():
    """One placeholder for the address, and the names that a plugin is installed by."""
    text = (ROOT / "README.md").read_text()
    assert f"/plugin install {PLUGIN['name']}@{MARKETPLACE['name']}" in text
    assert PLUGIN["repository"] == "https://github.com/OWNER/lens-recipes"
    assert set(re.findall(r"[\w.-]+/lens-recipes\b", text)) <= {
        "OWNER/lens-recipes",
        "skills/lens-recipes",
    }


def test_the_folder_is_small():
    sizes = {path: without_pictures(path) for path in tracked()}
    assert sum(sizes.values()) < SMALL, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_pictures_are_counted_honestly(tmp_path):
    """Only what is inside a picture is left out."""
    picture = base64.b64encode(b"x" * 3000).decode()
    notebook = {
        "cells": [
            {"outputs": [{"data": {"image/png": picture, "text/plain": "y" * 500}}]},
            {"source": "z"},
        ]
    }
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    whole = (tmp_path / "n.ipynb").stat().st_size
    assert without_pictures(tmp_path / "n.ipynb") == whole - len(picture) > 500


def test_the_wheel_holds_all_that_the_package_needs(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.is_relative_to(ROOT / "lens_recipes")
    }
    assert any(name.endswith(".html.j2") for name in package)
    assert package <= inside
    assert {name.split("/")[0] for name in inside} == {
        "lens_recipes",
        f"lens_recipes-{PROJECT['version']}.dist-info",
    }


# -- public names ------------------------------------------------------


def test_type_checkers_see_the_public_names_of_the_table():
    """Each is imported from the module that the table names, and exported again as itself."""
    tree = ast.parse((ROOT / "lens_recipes" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = [
        (statement.module, alias.name, alias.asname)
        for statement in block.body
        for alias in statement.names
    ]
    told = [
        (f"lens_recipes.{module}", name, name)
        for module, names in lens_recipes._PUBLIC_NAMES.items()
        for name in names
    ]
    assert sorted(seen) == sorted(told)


def test_each_public_name_is_named_once_and_is_there():
    names = [name for names in lens_recipes._PUBLIC_NAMES.values() for name in names]
    assert sorted(names) == lens_recipes.__all__ == dir(lens_recipes)
    assert len(set(names)) == len(names)
    for module, found in lens_recipes._PUBLIC_NAMES.items():
        for name in found:
            value = getattr(importlib.import_module(f"lens_recipes.{module}"), name)
            assert getattr(lens_recipes, name) is value
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = lens_recipes.no_such_name


@pytest.mark.parametrize("name", others_slow(["Job", "submit", "estimate"], "Job"))
def test_a_process_that_asks_for_a_job_knows_every_recipe(name):
    """Nothing else has imported them: the file of a job names its recipe."""
    code = (
        f"import lens_recipes as lr; lr.{name}\n"
        "from lens_recipes.run.registry import RECIPES\n"
        "print(*sorted(RECIPES))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [
        "attribution",
        "decode_vectors",
        "fit_lens",
        "generate_lens",
        "lens_quality",
        "logit_lens",
        "patch_map",
    ]


def test_the_oldest_releases_that_are_tested_are_those_that_are_promised():
    """`make test-oldest` installs each lower bound; torch is the one of all tests."""
    pins = (ROOT / "tests" / "oldest" / "constraints.txt").read_text().splitlines()
    tested = {
        canonicalize_name(name): Version(version)
        for name, version in (pin.split("==") for pin in pins if "==" in pin)
    }
    extras = PROJECT["optional-dependencies"]
    promised = [*PROJECT["dependencies"], *extras["frames"], *extras["png"], *extras["smollm2"]]
    for requirement in map(Requirement, promised):
        lower = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        assert len(lower) == 1, requirement
        if requirement.name != "torch":
            assert tested[canonicalize_name(requirement.name)] == Version(lower[0]), requirement
