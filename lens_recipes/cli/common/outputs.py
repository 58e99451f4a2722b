"""Where results go: paths are checked before the model is loaded, and written after the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lens_recipes.terminal import escape_terminal

PAGE_SUFFIXES = (".html", ".htm")
PICTURE_SUFFIXES = (".png", ".svg")
RESULT_SUFFIXES = (".json", ".npz")
STDOUT = "-"
PIPE_WIDTH = 250  # columns


# -- before the run ----------------------------------------------------


def check_outputs(html: Path | None, json_path: str | None, *, folder: bool = False) -> None:
    """Refuse a path that cannot be written.

    Args:
        html: Where a page goes, if anywhere.
        json_path: Where the result goes, if anywhere; "-" is stdout.
        folder: Whether `html` may be a folder: one that is there, or a name without an ending.
    """
    if str(html) == STDOUT:
        raise typer.BadParameter(
            "figures are not written to stdout: name a file.", param_hint="--html"
        )
    check_distinct({"--html": html, "--json": json_path})
    if html is not None:
        check_page(html, "--html", folder=folder)
    if json_path is not None and json_path != STDOUT:
        path = Path(json_path)
        if path.suffix not in RESULT_SUFFIXES:
            raise typer.BadParameter(
                f"{json_path!r} must end in .json or .npz, or be - for stdout.", param_hint="--json"
            )
        check_writable(path, "--json")


def is_page(path: Path) -> bool:
    """Return whether a name is that of a page."""
    return path.suffix.lower() in PAGE_SUFFIXES


def check_page(path: Path, option: str, *, folder: bool = False) -> None:
    """Refuse a page that cannot be written, or that a browser would not open as one.

    With `folder`, a name without an ending is that of a folder.
    """
    if is_page(path):
        check_writable(path, option)
        return
    is_folder = folder and (path.is_dir() or not path.suffix)
    check_writable(path, option, folder=is_folder)
    if not is_folder:
        other = ", or have no ending, for a folder" if folder else ""
        raise typer.BadParameter(
            f"{str(path)!r} must end in .html{other}: what is written is a page for a browser.",
            param_hint=option,
        )


def check_picture(path: Path | None) -> None:
    """Refuse a name of a picture that ends in nothing that is drawn, or cannot be written."""
    if path is None:
        return
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise typer.BadParameter(f"{str(path)!r} must end in .png or .svg.", param_hint="--png")
    check_writable(path, "--png")


def check_distinct(paths: Mapping[str, Path | str | None]) -> None:
    """Refuse two options that name the same file; "FILE" is the one that is read."""
    taken: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None or path == STDOUT:
            continue
        place = Path(os.path.realpath(path))  # not resolve(): it fails at a link to itself
        if place not in taken:
            taken[place] = option
            continue
        owner = f"where {taken[place]} goes, too"
        if taken[place] == "FILE":
            owner = "the result itself"
        if taken[place].startswith("image"):
            owner = "an image of the prompt"
        raise typer.BadParameter(f"{str(path)!r} is {owner}: name another file.", param_hint=option)


def check_writable(path: Path, option: str, *, folder: bool = False) -> None:
    """Refuse a path at which no file, or with `folder` no folder, can be written."""
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}.", param_hint=option)
    if folder and path.exists() and not path.is_dir():
        raise typer.BadParameter(
            f"{str(path)!r} is a file; name a folder, or a file in .html.", param_hint=option
        )
    if not folder and path.is_dir():
        raise typer.BadParameter(
            f"{str(path)!r} is a folder; name a file in it.", param_hint=option
        )
    parent = path.parent
    if folder and path.is_dir():
        parent = path
    if not os.access(parent, os.W_OK):
        raise typer.BadParameter(
            f"nothing may be written to the folder {str(parent)!r}.", param_hint=option
        )


# -- after the run -----------------------------------------------------


def stdout_console(width: int | None = None) -> Console:
    """Return a console on stdout; in a file or a pipe, lines are not cut to a terminal's width."""
    if width is None and not sys.stdout.isatty():
        width = PIPE_WIDTH
    from lens_recipes.views.tables.console import open_console

    return open_console(width=width)


def write_for_programs(text: str) -> None:
    """Write to stdout what a program reads: in UTF-8 whatever the console, and nothing replaced."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:  # no file at all, as in a notebook
        print(text, end="")
        return
    sys.stdout.flush()
    raw.write(text.encode("utf-8", "backslashreplace"))
    raw.flush()


def write_json(result: Any, json_path: str | None) -> None:
    """Write the whole result where `--json` asks for it, if anywhere."""
    from lens_recipes.views.files import as_json

    if json_path == STDOUT:
        write_for_programs(as_json(result) + "\n")
    elif json_path is not None:
        result.save(json_path)


def note_truncated(count: int, name: str) -> None:
    """Note on stderr that a figure shows the first of several prompts or targets."""
    if count > 1:
        print(f"the figure shows the first of {count} {name}", file=sys.stderr)


def note_written(paths: Iterable[Path | str | None]) -> None:
    """Note on stderr which files were written."""
    for path in paths:
        if path is not None and path != STDOUT:
            print(escape_terminal(f"wrote {path}"), file=sys.stderr)
