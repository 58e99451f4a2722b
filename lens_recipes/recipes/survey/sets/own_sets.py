"""The small sets of items that come with the package, found by their names."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

SUFFIX = ".jsonl"


def folder() -> Traversable:
    """Return where the sets are."""
    return resources.files("lens_recipes") / "data"


def own_set_names() -> list[str]:
    """Return the names of all sets."""
    names = [entry.name for entry in folder().iterdir()]
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def own_set(name: str) -> Traversable:
    """Return the file of a set: lines of JSON, as `survey` takes them.

    Args:
        name: Such as "capitals".

    Raises:
        ValueError: there is no such set; the message lists those that there are.

    Example:
        >>> own_set("capitals").read_text(encoding="utf-8").splitlines()[0]
    """
    if name not in own_set_names():
        known = ", ".join(map(repr, own_set_names()))
        raise ValueError(f"there is no set {name!r}: those that come with the package are {known}.")
    return folder() / f"{name}{SUFFIX}"


def names_own_set(text: str) -> bool:
    """Tell whether a text names a set of the package, and no file."""
    return text in own_set_names() and not Path(text).is_file()
